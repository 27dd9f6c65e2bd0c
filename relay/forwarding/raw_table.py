"""The forwarding table for the loop: the same meaning as `relay.core.table`, on what sockets give.

`ForwardingTable` is written to be read; this one to be quick: keys are the tuples that `recvmsg`
returns and slices of its buffer, and what `sendmsg` needs is made when a peer registers, not when a
datagram comes. A test feeds both the same datagrams and demands the same verdicts.
"""

import socket
from collections.abc import Sequence

from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import ConnectionIdsAdded, OwnerCharged, OwnerMoved, OwnerRemoved
from relay.forwarding import ancillary
from relay.forwarding.ancillary import Ancillary
from relay.forwarding.channel import Command, ConnectionIdsRemoved, RatesSet, SendersCounted
from relay.forwarding.meter import Meter
from relay.forwarding.tally import Tally
from relay.wire.address import Address, SockAddr
from relay.wire.connection_id import CONNECTION_ID_LENGTH
from relay.wire.invariants import LONG_HEADER_BIT, LONG_HEADER_MINIMUM, SHORT_HEADER_MINIMUM

OUTCOMES = tuple(Outcome)
"""A verdict is a position in it."""

FORWARDED = OUTCOMES.index(Outcome.FORWARDED)
HTTP3 = OUTCOMES.index(Outcome.HTTP3)
MALFORMED = OUTCOMES.index(Outcome.MALFORMED)
UNKNOWN_CID = OUTCOMES.index(Outcome.UNKNOWN_CID)
UNREGISTERED_SOURCE = OUTCOMES.index(Outcome.UNREGISTERED_SOURCE)
STRAY_PEER_PACKET = OUTCOMES.index(Outcome.STRAY_PEER_PACKET)
TOO_BIG = OUTCOMES.index(Outcome.TOO_BIG)
SEND_FAILED = OUTCOMES.index(Outcome.SEND_FAILED)
RATE_LIMITED = OUTCOMES.index(Outcome.RATE_LIMITED)
ALLOWANCE_USED = OUTCOMES.index(Outcome.ALLOWANCE_USED)
HTTP3_TOO_OFTEN = OUTCOMES.index(Outcome.HTTP3_TOO_OFTEN)
CONTROL_QUEUE_FULL = OUTCOMES.index(Outcome.CONTROL_QUEUE_FULL)

_HTTP3_BIT = 0x80


class Route:
    """How an owner is reached. Changed in place when it moves: its connection IDs point here."""

    __slots__ = ("ancillary", "destination", "path", "socket")

    path: Path
    socket: socket.socket
    """The worker's own socket of the listener at which the peer registered."""
    destination: SockAddr
    ancillary: tuple[list[Ancillary], ...]
    """Control messages for `sendmsg`, by the datagram's ECN bits."""


class Source:
    """An address that may send, because so many owners have it."""

    __slots__ = ("address", "heard", "owners")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.owners = 0
        self.heard = False
        """Whether a datagram came since this was last reported."""


class RawTable:
    """Connection IDs to routes, and the addresses that may send. One per worker."""

    def __init__(self, sockets: Sequence[socket.socket], wildcard: Sequence[bool]) -> None:
        """`sockets` and whether each is bound to a wildcard, by the listener's index."""
        self._sockets = sockets
        self._wildcard = wildcard
        self._routes: dict[bytes, Route] = {}  # by connection ID
        self._route_by_owner: dict[int, Route] = {}
        self._sources: dict[SockAddr, Source] = {}
        self._heard: list[Source] = []
        self.meter = Meter[SockAddr]()
        """Who pays for what comes from where."""
        self.tally: Tally[SockAddr] | None = None
        """None: nobody wants to see it."""

    def apply(self, command: Command) -> None:
        """Follow one change of the registry; `Sync` changes nothing."""
        match command:
            case OwnerMoved(owner, path):
                self._move(owner, path)
            case ConnectionIdsAdded(owner, connection_ids):
                self._routes.update(dict.fromkeys(connection_ids, self._route_by_owner[owner]))
            case ConnectionIdsRemoved(_, connection_ids):
                self._forget(connection_ids)
            case OwnerRemoved(owner, connection_ids):
                self._forget(connection_ids)
                route = self._route_by_owner.pop(owner, None)
                if route is not None:
                    self._forget_source(route.path.remote)
                self.meter.remove(owner)
            case OwnerCharged(owner, charges):
                self.meter.charge(owner, self._route_by_owner[owner].path.remote.sockaddr, charges)
            case SendersCounted():
                self.tally = Tally()
            case RatesSet(charges):
                self.meter.set_rates(charges)

    def decide(self, datagram: memoryview, size: int, source: SockAddr) -> Route | int:
        """Where to forward the first `size` bytes of a buffer, else a position in `OUTCOMES`.

        The bytes behind them are of some earlier datagram. Marks the source as heard of.
        """
        known = self._sources.get(source)
        if known is not None and not known.heard:
            known.heard = True
            self._heard.append(known)
        if size < SHORT_HEADER_MINIMUM:
            if size < LONG_HEADER_MINIMUM or not datagram[0] & LONG_HEADER_BIT:
                return MALFORMED
        elif not datagram[0] & LONG_HEADER_BIT:
            route = self._routes.get(datagram[1:SHORT_HEADER_MINIMUM].tobytes())
            if route is not None:
                return route if known is not None else UNREGISTERED_SOURCE
            return HTTP3 if datagram[1] & _HTTP3_BIT else UNKNOWN_CID
        return self._decide_long(datagram, size, known is not None)

    def is_source(self, source: SockAddr) -> bool:
        """Whether somebody is registered there."""
        return source in self._sources

    def take_heard(self, at_most: int) -> list[Address]:
        """Registered sources of which a datagram came since they were last returned."""
        taken, self._heard = self._heard[:at_most], self._heard[at_most:]
        for source in taken:
            source.heard = False
        return [source.address for source in taken if source.owners]

    def _decide_long(self, datagram: memoryview, size: int, registered: bool) -> Route | int:
        # RFC 8999 §5.1; the same steps as relay.wire.invariants.
        source_length_at = 6 + datagram[5]
        if size <= source_length_at:
            return MALFORMED
        source_at = source_length_at + 1
        end = source_at + datagram[source_length_at]
        if size < end:
            return MALFORMED
        if datagram[5] == CONNECTION_ID_LENGTH:
            route = self._routes.get(datagram[6:source_length_at].tobytes())
            if route is not None:
                return route if registered else UNREGISTERED_SOURCE
        if datagram[source_at:end].tobytes() in self._routes:
            return STRAY_PEER_PACKET
        return HTTP3

    def _move(self, owner: int, path: Path) -> None:
        route = self._route_by_owner.get(owner)
        if route is None:
            route = self._route_by_owner[owner] = Route()
        else:
            self._forget_source(route.path.remote)
        choose_source = self._wildcard[path.listener]
        route.path = path
        route.socket = self._sockets[path.listener]
        route.destination = path.remote.sockaddr
        route.ancillary = tuple(
            ancillary.to_send(path.local, ecn=ecn, choose_source=choose_source) for ecn in range(4)
        )
        source = self._sources.setdefault(path.remote.sockaddr, Source(path.remote))
        source.owners += 1
        self.meter.move(owner, path.remote.sockaddr)

    def _forget(self, connection_ids: Sequence[bytes]) -> None:
        for cid in connection_ids:
            self._routes.pop(cid, None)

    def _forget_source(self, address: Address) -> None:
        source = self._sources[address.sockaddr]
        source.owners -= 1
        if not source.owners:
            del self._sources[address.sockaddr]
