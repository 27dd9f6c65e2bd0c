"""One UDP port, many connections: datagrams go to the one that issued their destination ID.

All connections of a peer, those to other peers and the one to the relay, share one socket towards
one relay: a `Way`. Which way that is can change underneath them (another local port, another
family, another address of the relay), and no connection notices: inside QUIC the other end has one
constant address.

The endpoint does its work once per batch: all datagrams that were waiting are fed, then each
connection that got any handles its events, then, in the loop's next turn, each sends what it has.
Applications that were woken by the events run in between, so that what they answer goes out along
with the acknowledgements.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from relay.wire.address import Address
from relay.wire.invariants import (
    LONG_HEADER_BIT,
    SHORT_HEADER_MINIMUM,
    LongHeader,
    parse_invariants,
)

from .connection import Connection
from .network import DatagramSocket, Network

GRACE_S = 3.0
"""Seconds for which a way that is no longer used still takes in what is under way."""

SILENCE_S = 1.0
"""Seconds without a datagram after which the next one is a return (docs/protocol.md §6.4)."""

SHORTEST_TIMER_S = 0.0001
"""Seconds. A timer that finds nothing due, as rounding can have it, must not come back at once."""


class Drop(StrEnum):
    """Why the endpoint dropped a datagram."""

    FOREIGN_SOURCE = "foreign_source"
    """It came from elsewhere than the relay."""
    MALFORMED = "malformed"
    """It is no QUIC packet (RFC 8999)."""
    UNKNOWN_CID = "unknown_cid"
    """None of our connections has issued its destination connection ID."""
    NO_WAY = "no_way"
    """It was to be sent before there was a way to any relay."""


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How to reach the relay: a socket of our own, and one address of the relay's."""

    socket: DatagramSocket
    relay: Address


class Observer(Protocol):
    """Who wants to know that something is heard: the guard of the connection to the relay."""

    def heard(self, now: float) -> None:
        """A batch with at least one datagram for a connection of ours came by the current way."""

    def pipe_received(self, now: float) -> None:
        """Some of it was for a pipe."""

    def pipe_sent(self, now: float) -> None:
        """A pipe has sent."""


class Prober(Protocol):
    """A pipe whose own probe timeout may have backed off (docs/protocol.md §6.4)."""

    def probe(self, now: float) -> None:
        """The way is another one: send something at once that must be answered."""

    def probe_if_waiting(self, now: float) -> None:
        """It is heard again after `SILENCE_S`: do so if something awaits its acknowledgement."""


class Attachment:
    """The place of one connection at the endpoint. It implements `Routes` for it."""

    def __init__(self, endpoint: "Endpoint", way: Way | None) -> None:
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._connection_ids: set[bytes] = set()
        self.way = way
        """By which way it sends; None: the endpoint's current one, whichever that is."""
        self.last_heard: float | None = None
        """When the last datagram came for it, in loop time; None: never."""
        self.on_heard: Callable[[], None] | None = None
        """Called after each batch of datagrams for the connection, when that has handled it."""
        self.prober: Prober | None = None
        """Set for pipes."""

    @property
    def is_pipe(self) -> bool:
        """Whether it goes by the current way: connections to the relay name theirs."""
        return self.way is None

    def attach(self, connection: Connection) -> None:
        """Begin: drive this connection, from the loop's next turn on."""
        self._connection = connection
        self._endpoint._attachments.add(self)
        self.schedule()

    def detach(self) -> None:
        """End: forget the connection and its routes. A second call does nothing."""
        self._connection = None
        for connection_id in self._connection_ids:
            self._endpoint._routes.pop(connection_id, None)
        self._connection_ids.clear()
        self._endpoint._forget(self)

    def add(self, connection_id: bytes) -> None:
        """Route datagrams with this destination connection ID here."""
        self._connection_ids.add(connection_id)
        self._endpoint._routes[connection_id] = self

    def discard(self, connection_id: bytes) -> None:
        """No longer do so."""
        if connection_id in self._connection_ids:
            self._connection_ids.remove(connection_id)
            self._endpoint._routes.pop(connection_id, None)

    def schedule(self) -> None:
        """Something may have to be sent, or a timer has changed: look after it soon, and once."""
        if self._connection is not None:
            self._endpoint._touch(self)


class Endpoint:
    """Owns the sockets and the clock of a peer. To be made, used and closed inside one loop."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._ways: dict[Way, asyncio.TimerHandle | None] = {}  # and when each is to be closed
        self._beside: set[Way] = set()  # those that only share a socket with one of these
        self._current: Way | None = None
        self._attachments: set[Attachment] = set()  # those with a connection
        self._routes: dict[bytes, Attachment] = {}  # per datagram: whose is it?
        self._touched: dict[Attachment, None] = {}  # to be flushed, in the order of their turn
        self._timers: dict[Attachment, float] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # meaningful while `_timer` is set
        self.observer: Observer | None = None
        self.dropped: Counter[Drop] = Counter()
        """Datagrams dropped since the start, by reason."""

    @property
    def network(self) -> Network:
        """Where its sockets come from."""
        return self._network

    @property
    def current(self) -> Way | None:
        """The way that all pipes go; None before the first `use`."""
        return self._current

    def open(self, relay: Address) -> Way:
        """Open a fresh socket for that address. Somebody must `use` or `release` the way.

        :raises OSError: the system has no such family, or no socket left.
        """
        way = Way(self._network.open_socket(relay.family), relay)
        self._ways[way] = None
        way.socket.start(lambda batch: self._received(way, batch))
        return way

    def beside(self, socket: DatagramSocket, relay: Address) -> Way:
        """Another address of the relay's, by one of our sockets. Somebody must `release` it.

        For a question that must come from that very socket; the socket stays open as long as
        its own way does.
        """
        way = Way(socket, relay)
        self._beside.add(way)
        return way

    def use(self, way: Way) -> None:
        """Send the pipes this way from now on; the former one goes on receiving for `GRACE_S`."""
        former, self._current = self._current, way
        closing, self._ways[way] = self._ways[way], None
        if closing is not None:
            closing.cancel()
        if former is not None and former is not way:
            self._ways[former] = self._loop.call_later(GRACE_S, self.release, former)

    def release(self, way: Way) -> None:
        """Close a way, and its socket if that is its own, unless it is the current one."""
        self._beside.discard(way)
        if way is self._current or way not in self._ways:
            return
        closing = self._ways.pop(way)
        if closing is not None:
            closing.cancel()
        way.socket.close()

    def place(self, way: Way | None = None) -> Attachment:
        """Make a place for a connection: a pipe (no way given), or one to the relay by `way`."""
        return Attachment(self, way)

    def probe_pipes(self, now: float) -> None:
        """The way to the relay is another one: have every pipe send something at once."""
        for attachment in list(self._attachments):
            if attachment.prober is not None:
                attachment.prober.probe(now)

    def flush(self) -> None:
        """Let all connections that have something to send do so now."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        now = self._loop.time()
        touched, self._touched = self._touched, {}
        pipe_sent = False
        for attachment in touched:
            connection = attachment._connection
            if connection is None:
                continue
            datagrams = connection.datagrams_to_send(now)
            if datagrams:
                self._send(attachment, datagrams)
                pipe_sent = pipe_sent or attachment.is_pipe
            timer = connection.next_timer()
            if timer is None:
                self._timers.pop(attachment, None)
            else:
                self._timers[attachment] = timer
        if pipe_sent and self.observer is not None:
            self.observer.pipe_sent(now)
        self._arm()

    def close(self) -> None:
        """Close all ways and forget all connections, at once and without a word to anybody."""
        self._current = None
        for way in list(self._ways):
            self.release(way)
        for attachment in list(self._attachments):
            attachment.detach()
        self.observer = None
        for handle in (self._flush_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self._flush_handle = self._timer = None

    def _received(self, way: Way, batch: list[tuple[bytes, Address]]) -> None:
        now = self._loop.time()
        heard: dict[Attachment, None] = {}
        for datagram, source in batch:
            if source != way.relay and not self._is_beside(way, source):
                self.dropped[Drop.FOREIGN_SOURCE] += 1
                continue
            connection_id = destination_cid(datagram)
            if connection_id is None:
                self.dropped[Drop.MALFORMED] += 1
                continue
            attachment = self._routes.get(connection_id)
            if attachment is None or attachment._connection is None:
                self.dropped[Drop.UNKNOWN_CID] += 1
                continue
            attachment._connection.receive_datagram(datagram, now)
            heard[attachment] = None
        if not heard:
            return
        if self.observer is not None and way is self._current:
            self.observer.heard(now)
            if any(attachment.is_pipe for attachment in heard):
                self.observer.pipe_received(now)
        for attachment in heard:
            self._heard(attachment, now)

    def _is_beside(self, way: Way, source: Address) -> bool:
        return any(each.socket is way.socket and each.relay == source for each in self._beside)

    def _heard(self, attachment: Attachment, now: float) -> None:
        former, attachment.last_heard = attachment.last_heard, now
        if attachment.prober is not None and former is not None and now - former >= SILENCE_S:
            attachment.prober.probe_if_waiting(now)
        self._process(attachment, now)
        if attachment.on_heard is not None:
            attachment.on_heard()

    def _process(self, attachment: Attachment, now: float) -> None:
        if attachment._connection is not None:  # an event of another one may have ended it
            attachment._connection.process(now)
            attachment.schedule()

    def _touch(self, attachment: Attachment) -> None:
        self._touched[attachment] = None
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self.flush)

    def _send(self, attachment: Attachment, datagrams: list[bytes]) -> None:
        way = attachment.way or self._current
        if way is None:
            self.dropped[Drop.NO_WAY] += len(datagrams)
        else:
            way.socket.send(datagrams, way.relay)

    def _arm(self) -> None:
        """Have the loop call us at the earliest timer; one that is armed earlier may fire in vain.

        To move the loop's timer at every batch would cost more than a vain call now and then.
        """
        earliest = min(self._timers.values(), default=None)
        if earliest is None or (self._timer is not None and self._timer_at <= earliest):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = max(earliest, self._loop.time() + SHORTEST_TIMER_S)
        self._timer = self._loop.call_at(self._timer_at, self._handle_timers)

    def _handle_timers(self) -> None:
        # The loop may call a little early, by the resolution of its clock.
        now = max(self._loop.time(), self._timer_at)
        self._timer = None
        due = [attachment for attachment, when in self._timers.items() if when <= now]
        for attachment in due:
            self._timers.pop(attachment, None)
            if attachment._connection is not None:
                attachment._connection.handle_timer(now)
                self._process(attachment, now)
        self._arm()

    def _forget(self, attachment: Attachment) -> None:
        self._attachments.discard(attachment)
        self._touched.pop(attachment, None)
        self._timers.pop(attachment, None)


def destination_cid(datagram: bytes) -> bytes | None:
    """The destination connection ID of a datagram's first packet; None: malformed.

    The same as `parse_invariants` finds, without its value objects for the packets that are nearly
    all: those with a short header.
    """
    if len(datagram) >= SHORT_HEADER_MINIMUM and not datagram[0] & LONG_HEADER_BIT:
        return datagram[1:SHORT_HEADER_MINIMUM]
    header = parse_invariants(datagram)
    return header.destination_cid if isinstance(header, LongHeader) else None
