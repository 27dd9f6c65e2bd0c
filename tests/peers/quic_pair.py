"""Two QUIC connections and the way between them, in virtual time and in memory."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from aioquic.quic.events import HandshakeCompleted, QuicEvent, StreamDataReceived, StreamReset

from peers.connection_ids import ConnectionIdSource
from peers.quic.connection import PeerConnection
from peers.quic.parts import PIPE_ALPN, ExternalPsk, TlsParts, TransportSettings
from relay.wire.connection_id import Derivation

PSK = ExternalPsk(b"identity", b"s" * 32)
PSK_PARTS = TlsParts(PIPE_ALPN, psk=PSK)

Loss = Callable[[bool, bytes], bool]
"""Whether a datagram is lost; the first argument: whether it goes to the server."""


def no_loss(to_server: bool, datagram: bytes) -> bool:
    return False


def random_loss(rate: float, seed: int) -> Loss:
    generator = random.Random(seed)
    return lambda to_server, datagram: generator.random() < rate


def connection_ids(fill: int, registered: int = 10) -> ConnectionIdSource:
    return ConnectionIdSource(bytes([fill]) * 32, Derivation.BLAKE3, registered=registered)


class RouteTable:
    """`Routes` that remembers."""

    def __init__(self) -> None:
        self.current: set[bytes] = set()
        self.ever: list[bytes] = []

    def add(self, connection_id: bytes) -> None:
        self.current.add(connection_id)
        self.ever.append(connection_id)

    def discard(self, connection_id: bytes) -> None:
        self.current.discard(connection_id)


@dataclass
class Pair:
    """`run` moves datagrams and the clock; `events` collects what each end reports."""

    client: PeerConnection
    server: PeerConnection
    now: float = 0.0
    latency_s: float = 0.02
    loss: Loss = no_loss
    read_at_once: bool = True
    events: dict[bool, list[QuicEvent]] = field(default_factory=lambda: {True: [], False: []})
    received: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    sent: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Datagrams sent; keys here and above: whether by, or at, the client."""

    def __post_init__(self) -> None:
        self._under_way: list[tuple[float, int, bool, bytes]] = []
        self._order = count()

    def end(self, is_client: bool) -> PeerConnection:
        return self.client if is_client else self.server

    def run(self, until: Callable[[], bool], limit_s: float = 60.0) -> bool:
        """Go on until a condition holds; False: it does not within the limit."""
        deadline = self.now + limit_s
        self._flush()
        while not until():
            times = [self.client.next_timer(), self.server.next_timer(), deadline]
            times += [self._under_way[0][0]] if self._under_way else []
            self.now = max(self.now, min(when for when in times if when is not None))
            if self.now >= deadline:
                return until()
            self._deliver()
            for is_client in (True, False):
                connection = self.end(is_client)
                timer = connection.next_timer()
                if timer is not None and timer <= self.now:
                    connection.handle_time(self.now)
                self._collect(is_client)
            self._flush()
        return True

    def run_for(self, seconds: float) -> None:
        self.run(lambda: False, seconds)

    def is_open(self) -> bool:
        return self.client.is_handshake_confirmed and self.server.is_handshake_complete

    def is_over(self) -> bool:
        return self.client.is_gone and self.server.is_gone

    def _flush(self) -> None:
        for is_client in (True, False):
            for datagram in self.end(is_client).outgoing(self.now):
                self.sent[is_client] += 1
                if not self.loss(is_client, datagram):
                    arrival = self.now + self.latency_s
                    heapq.heappush(
                        self._under_way, (arrival, next(self._order), is_client, datagram)
                    )

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= self.now:
            _, _, from_client, datagram = heapq.heappop(self._under_way)
            self.end(not from_client).receive(datagram, self.now)

    def _collect(self, is_client: bool) -> None:
        connection = self.end(is_client)
        while (event := connection.next_event()) is not None:
            self.events[is_client].append(event)
            if isinstance(event, StreamDataReceived):
                self.received[is_client] += len(event.data)
                if self.read_at_once:
                    connection.consumed(event.stream_id, len(event.data))
            elif isinstance(event, StreamReset):
                connection.end_receiving(event.stream_id)


def dialing(
    client_parts: TlsParts = PSK_PARTS,
    server_parts: TlsParts | None = None,
    *,
    wait_s: float = 0.0,
    settings: TransportSettings | None = None,
    registered: tuple[int, int] = (10, 10),
    loss: Loss = no_loss,
    latency_s: float = 0.02,
) -> Pair:
    """A dialer that has waited for `wait_s`, and the accepter that has just got its invite."""
    client = PeerConnection(
        parts=client_parts,
        connection_ids=connection_ids(1, registered[0]),
        settings=settings,
    )
    [invite] = client.start_muted(0.0, wait_s + 60.0)
    server = PeerConnection(
        parts=server_parts or client_parts,
        connection_ids=connection_ids(2, registered[1]),
        settings=settings,
        first_datagram=invite,
    )
    assert server.start_server(wait_s)
    return Pair(client, server, now=wait_s, loss=loss, latency_s=latency_s)


def opened(**arguments: object) -> Pair:
    """A pair after its handshake."""
    pair = dialing(**arguments)  # type: ignore[arg-type]  # passed on as they are
    assert pair.run(pair.is_open)
    pair.run_for(0.2)
    for events in pair.events.values():
        assert any(isinstance(event, HandshakeCompleted) for event in events)
        events.clear()
    return pair


def losing_first(count: int, *, to_server: bool) -> Loss:
    """Lose so many datagrams of one direction, and no others."""
    left = count

    def lost(direction: bool, datagram: bytes) -> bool:
        nonlocal left
        if direction is not to_server or left == 0:
            return False
        left -= 1
        return True

    return lost


class Outage:
    """A way that can be cut."""

    def __init__(self) -> None:
        self.is_cut = False

    def __call__(self, to_server: bool, datagram: bytes) -> bool:
        return self.is_cut


def transferring(size: int, outage: Outage) -> tuple[Pair, int]:
    """A transfer of so many bytes that is a quarter done; its stream."""
    pair = opened(loss=outage)
    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, bytes(size), end_stream=True)
    assert pair.run(lambda: pair.received[False] > size // 4)
    return pair, stream
