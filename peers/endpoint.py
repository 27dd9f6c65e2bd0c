"""One peer's UDP ports, many connections: datagrams go to the one that issued their destination ID.

All connections of a peer, those to other peers and the one to the relay, share one socket towards
one relay: a `Way`. Which way that is can change underneath them (another local port, another
family, another address of the relay), and no connection notices: inside QUIC the other end has one
constant address. A pipe may also leave the relay and go straight to the other peer; then it is told
so, for congestion is another one there.

The endpoint does its work once per batch: all datagrams that were waiting are fed, then each
connection that got any handles its events, then, in the loop's next turn, each sends what it has.
Applications that were woken by the events run in between, so that what they answer goes out along
with the acknowledgements.
"""

import asyncio
from collections import Counter

from relay.wire.address import Address
from relay.wire.invariants import (
    LONG_HEADER_BIT,
    SHORT_HEADER_MINIMUM,
    LongHeader,
    parse_invariants,
)

from .attachment import Attachment, Drop, Observer, Way
from .network import DatagramSocket, Network
from .paths.agent import BirthdayPermits
from .sockets import SocketId, Sockets

__all__ = ["GRACE_S", "Attachment", "Drop", "Endpoint", "Observer", "Way", "destination_cid"]

GRACE_S = 3.0
"""Seconds for which a way that is no longer used still takes in what is under way."""

SILENCE_S = 1.0
"""Seconds without a datagram after which the next one is a return (docs/protocol.md §6.4)."""

SHORTEST_TIMER_S = 0.0001
"""Seconds. A timer that finds nothing due, as rounding can have it, must not come back at once."""


class Endpoint:
    """Owns the sockets and the clock of a peer. To be made, used and closed inside one loop."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._ways: dict[Way, asyncio.TimerHandle | None] = {}  # and when each is to be closed
        self._beside: set[Way] = set()  # those that only share a socket with one of these
        self._current: Way | None = None
        self._attachments: set[Attachment] = set()  # those with a connection
        self._relays: dict[SocketId, Address] = {}  # per datagram: is it from the relay?
        self._routes: dict[bytes, Attachment] = {}  # per datagram: whose is it?
        self._probe_routes: dict[bytes, Attachment] = {}  # by the IDs of probes of direct paths
        self._touched: dict[Attachment, None] = {}  # to be flushed, in the order of their turn
        self._timers: dict[Attachment, float] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # meaningful while `_timer` is set
        self.sockets = Sockets(network, self._received)
        """All that are open: those of the ways, and those of direct paths."""
        self.birthday_permits = BirthdayPermits()
        """So that not all pipes open hundreds of sockets at a time."""
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
        socket_id = self.sockets.open(relay.family)
        way = Way(self.sockets[socket_id], relay, socket_id)
        self._ways[way] = None
        self._relays[socket_id] = relay
        return way

    def beside(self, socket: DatagramSocket, relay: Address) -> Way:
        """Another address of the relay's, by one of our sockets. Somebody must `release` it.

        For a question that must come from that very socket; that stays open as long as whoever
        opened it wants.

        :raises KeyError: it is not open.
        """
        socket_id = self.sockets.find(socket)
        if socket_id is None:
            raise KeyError(f"no socket of this endpoint: {socket.local}")
        way = Way(socket, relay, socket_id)
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
        """Close a way, unless it is the current one, and its socket if nobody else holds it."""
        self._beside.discard(way)
        if way is self._current or way not in self._ways:
            return
        closing = self._ways.pop(way)
        if closing is not None:
            closing.cancel()
        self._relays.pop(way.socket_id, None)
        self.sockets.let_go(way.socket_id)

    def place(self, way: Way | None = None) -> Attachment:
        """Make a place for a connection: a pipe (no way given), or one to the relay by `way`."""
        return Attachment(self, way)

    def probe_pipes(self, now: float) -> None:
        """The way to the relay is another one: have every pipe send something at once."""
        for attachment in list(self._attachments):
            if attachment.prober is not None and attachment.direct is None:
                attachment.prober.probe(now)
            if attachment.guide is not None:
                attachment.guide.way_changed(now)

    def pipe_returned(self, now: float) -> None:
        """A pipe has lost its direct path: whoever keeps the relay's connection has a look."""
        if self.observer is not None:
            self.observer.pipe_returned(now)

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
                pipe_sent = pipe_sent or (attachment.is_pipe and attachment._direct is None)
                if attachment.guide is not None:
                    attachment.guide.sent(now)
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
        self.sockets.close()
        self.observer = None
        for handle in (self._flush_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self._flush_handle = self._timer = None

    def _received(self, socket_id: SocketId, batch: list[tuple[bytes, Address]]) -> None:
        now = self._loop.time()
        relay = self._relays.get(socket_id)
        routes = self._routes
        heard: dict[Attachment, None] = {}
        straight: dict[Attachment, Address] = {}  # of these, those that were heard directly
        for datagram, source in batch:
            connection_id = destination_cid(datagram)
            if connection_id is None:
                self.dropped[Drop.MALFORMED] += 1
                continue
            attachment = routes.get(connection_id)
            if source != relay:
                if attachment is None:
                    self._take_probe(connection_id, datagram, socket_id, source, now)
                    continue
                if not self._may_come(attachment, socket_id, source):
                    self.dropped[Drop.FOREIGN_SOURCE] += 1
                    continue
                if attachment.is_pipe:
                    straight[attachment] = source
            if attachment is None or attachment._connection is None:
                self.dropped[Drop.UNKNOWN_CID] += 1
                continue
            attachment._connection.receive_datagram(datagram, now)
            heard[attachment] = None
        if heard:
            self._tell_observer(socket_id, heard, straight, now)
        for attachment in heard:
            self._heard(attachment, now)
            if attachment.guide is not None:
                attachment.guide.heard(socket_id, straight.get(attachment), now)

    def _may_come(self, attachment: Attachment, socket_id: SocketId, source: Address) -> bool:
        """Whether a source that is not the relay's usual one may send to this connection."""
        if attachment.is_pipe:
            guide = attachment.guide
            return guide is not None and guide.accepts(socket_id, source)
        return any(each.socket_id == socket_id and each.relay == source for each in self._beside)

    def _take_probe(
        self, probe_id: bytes, datagram: bytes, socket_id: SocketId, source: Address, now: float
    ) -> None:
        attachment = self._probe_routes.get(probe_id)
        if attachment is None or attachment.guide is None:
            self.dropped[Drop.FOREIGN_SOURCE] += 1
        else:
            attachment.guide.receive_probe(datagram, socket_id, source, now)

    def _tell_observer(
        self,
        socket_id: SocketId,
        heard: dict[Attachment, None],
        straight: dict[Attachment, Address],
        now: float,
    ) -> None:
        current = self._current
        if self.observer is None or current is None or current.socket_id != socket_id:
            return
        relayed = [attachment for attachment in heard if attachment not in straight]
        if relayed:
            self.observer.heard(now)
            if any(attachment.is_pipe for attachment in relayed):
                self.observer.pipe_received(now)

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
        if attachment._direct is not None:
            socket_id, address = attachment._direct
            direct = self.sockets.get(socket_id)
            if direct is not None:
                direct.send(datagrams, address)
                return
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
