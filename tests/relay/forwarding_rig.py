"""A forwarding loop between real sockets on loopback: what goes in, what comes out and where."""

import contextlib
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import Change, ConnectionIdsAdded, ForwardingTable, OwnerMoved
from relay.forwarding import ancillary
from relay.forwarding.batch_loop import BatchLoop
from relay.forwarding.channel import MAX_UP_DATAGRAM, UpMessage, decode_up
from relay.forwarding.door import Door
from relay.forwarding.plain_loop import PlainLoop
from relay.forwarding.sockets import Listener, ListenRequest, open_listeners
from relay.forwarding.worker import ForwardingLoop
from relay.wire.address import Address

LoopMaker = Callable[[Sequence[socket.socket], socket.socket, Sequence[int]], ForwardingLoop]

PATIENCE_S = 10.0

REGISTERED = (0, 1, 2)
STRANGERS = (3, 4)
FAMILIES = (
    socket.AF_INET,
    socket.AF_INET,
    socket.AF_INET6,
    socket.AF_INET,
    socket.AF_INET6,
)
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

CIDS = tuple(bytes([index, *range(11)]) for index in range(9))
"""Connection IDs 0 to 2 are of peer 0, 3 to 5 of peer 1, 6 to 8 of peer 2."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram, and who sends it."""

    peer: int
    datagram: bytes
    ecn: int = 0


Delivered = tuple[int, bytes, int, Address]
"""Receiving peer, datagram, ECN bits, the relay's address it came from."""


@dataclass(slots=True)
class Result:
    """What became of some datagrams. Order means nothing."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    delivered: Counter[Delivered] = field(default_factory=Counter)
    up: Counter[UpMessage] = field(default_factory=Counter)


class Rig:
    """Listeners of both families, three peers that are registered, two that are not."""

    def __init__(self, listeners: Sequence[Listener], make: LoopMaker) -> None:
        self.listeners = listeners
        self.peers = [_peer(family) for family in FAMILIES]
        self._wake = socket.socketpair()
        self._up = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for each in self._up:
            each.setblocking(False)
        sockets = [each.sockets[0] for each in listeners]
        self.loop = make(sockets, self._up[0], [self._wake[0].fileno()])
        # Each datagram comes in another second: the door to HTTP/3 is wide open.
        self.set_door(count().__next__, lambda: False)

    def set_door(self, clock: Callable[[], float], is_core_short: Callable[[], bool]) -> None:
        """Have another door to HTTP/3."""
        if not isinstance(self.loop, PlainLoop | BatchLoop):
            raise TypeError("a loop without a door")
        self.loop.door = Door(clock, is_core_short)

    def close(self) -> None:
        """Close everything but the listeners."""
        for each in (*self.peers, *self._wake, *self._up):
            each.close()

    def address(self, peer: int) -> Address:
        """Of a peer."""
        return Address.from_sockaddr(self.peers[peer].getsockname())

    def path(self, peer: int) -> Path:
        """Where a peer would register."""
        listener = self._listener(peer)
        return Path(self.address(peer), listener.index, LOOPBACK[FAMILIES[peer]])

    def registrations(self) -> list[Change]:
        """Peer `i` is owner `i`, with three connection IDs."""
        changes: list[Change] = []
        for owner in REGISTERED:
            changes.append(OwnerMoved(owner, self.path(owner)))
            changes.append(ConnectionIdsAdded(owner, CIDS[3 * owner : 3 * owner + 3]))
        return changes

    def send(self, each: Sent) -> None:
        """Send one datagram to the relay."""
        family = FAMILIES[each.peer]
        level, kind = (
            (socket.IPPROTO_IP, socket.IP_TOS)
            if family == socket.AF_INET
            else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        )
        control = [(level, kind, each.ecn.to_bytes(4, "little"))]
        self.peers[each.peer].sendmsg([each.datagram], control, 0, self.relay(each.peer))

    def relay(self, peer: int) -> tuple[str, int]:
        """Where a peer sends to."""
        return LOOPBACK[FAMILIES[peer]], self._listener(peer).address.port

    def exchange(self, sent: Sequence[Sent]) -> Result:
        """Send all, let the loop handle them, and see what came of it."""
        before = self.loop.counters().outcomes
        for each in sent:
            self.send(each)
        return self.result(before, len(sent))

    def result(self, before: Sequence[int], count: int) -> Result:
        """What becomes of `count` datagrams that were sent when the counters were `before`."""
        delivered = self.run(count)
        after = self.loop.counters().outcomes
        changed = zip(Outcome, after, before, strict=True)
        outcomes = Counter({each: new - old for each, new, old in changed if new != old})
        return Result(outcomes, Counter(delivered), Counter(self._up_messages))

    def shrink_up(self) -> None:
        """Leave room for a few datagrams only on the way up."""
        self._up[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def run(self, count: int) -> list[Delivered]:
        """Let the loop handle `count` datagrams that were sent; returns what peers received."""
        done = sum(self.loop.counters().outcomes)
        deadline = time.monotonic() + PATIENCE_S
        self._up_messages: list[UpMessage] = []
        while sum(self.loop.counters().outcomes) < done + count and time.monotonic() < deadline:
            self.loop.forward(time.monotonic() + 0.005)
            self._up_messages.extend(self._read_up())
        return [each for peer in range(len(self.peers)) for each in self._read_peer(peer)]

    def expected(self, table: ForwardingTable, sent: Sequence[Sent]) -> Result:
        """What `ForwardingTable.decide`, the reference, says of the same datagrams."""
        result = Result()
        by_address = {self.address(peer): peer for peer in range(len(self.peers))}
        for each in sent:
            verdict = table.decide(each.datagram, self.address(each.peer))
            outcome = verdict.outcome
            if verdict.path is not None:
                path = verdict.path
                source = Address(path.local, self.listeners[path.listener].address.port)
                result.delivered[by_address[path.remote], each.datagram, each.ecn, source] += 1
            if outcome is Outcome.HTTP3 and len(each.datagram) > MAX_UP_DATAGRAM:
                outcome = Outcome.TOO_BIG
            elif outcome is Outcome.HTTP3:
                result.up[UpMessage(self.path(each.peer), each.ecn, each.datagram)] += 1
            result.outcomes[outcome] += 1
        return result

    def _listener(self, peer: int) -> Listener:
        return next(each for each in self.listeners if each.address.family == FAMILIES[peer])

    def _read_up(self) -> Iterator[UpMessage]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield decode_up(self._up[1].recv(65536))

    def _read_peer(self, peer: int) -> Iterator[Delivered]:
        sock = self.peers[peer]
        while select.select([sock], [], [], 0)[0]:
            datagram, control, _, source = sock.recvmsg(65536, ancillary.RECEIVE_SIZE)
            yield peer, datagram, ancillary.read_ecn(control), Address.from_sockaddr(source)


@contextlib.contextmanager
def rig(make: LoopMaker, hosts: Sequence[str] = ("127.0.0.1", "::1")) -> Iterator[Rig]:
    """A rig whose listeners are bound to `hosts`, one of each family."""
    listeners = open_listeners([ListenRequest(Address(host, 0)) for host in hosts], 1)
    try:
        made = Rig(listeners, make)
        try:
            yield made
        finally:
            made.close()
    finally:
        for each in listeners:
            each.close()


def _peer(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK[family], 0))
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    return sock


def short(destination: bytes, payload: bytes = b"payload", first: int = 0x40) -> bytes:
    """A datagram with a short header."""
    return bytes([first]) + destination + payload


def long(destination: bytes, source: bytes, payload: bytes = b"payload") -> bytes:
    """A datagram with a long header."""
    lengths = bytes([len(destination)]), bytes([len(source)])
    return b"\xc0\0\0\0\1" + lengths[0] + destination + lengths[1] + source + payload
