"""Stand-ins for an endpoint: a network that is a list, and connections that take notes."""

import socket
from collections.abc import Callable, Sequence

from peers.interfaces import IpInterface
from peers.network import Receive
from relay.wire.address import Address

RELAY = Address("192.0.2.1", 4433)
"""Where datagrams come from, unless said otherwise."""


class ListSocket:
    """What is sent is kept; what is to arrive is given to `arrive`."""

    def __init__(self, local: Address) -> None:
        self.local = local
        self.sent: list[tuple[list[bytes], Address]] = []
        self.closed = False
        self._receive: Receive | None = None

    def start(self, receive: Receive) -> None:
        self._receive = receive

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        self.sent.append((list(datagrams), destination))

    def close(self) -> None:
        self.closed = True

    def arrive(self, *datagrams: bytes, source: Address = RELAY) -> None:
        assert self._receive is not None
        self._receive([(datagram, source) for datagram in datagrams])


class ListNetwork:
    def __init__(self) -> None:
        self.sockets: list[ListSocket] = []

    def open_socket(self, family: socket.AddressFamily) -> ListSocket:
        host = "::" if family == socket.AF_INET6 else "0.0.0.0"
        self.sockets.append(ListSocket(Address(host, 50_000 + len(self.sockets))))
        return self.sockets[-1]

    async def resolve(self, host: str, port: int) -> list[Address]:
        raise AssertionError(f"nothing here is to look up {host!r}")

    def interfaces(self) -> tuple[IpInterface, ...]:
        return ()

    def gateway(self) -> str | None:
        return None


class Notes:
    """A connection that notes what is done with it, and sends what it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received: list[bytes] = []
        self.to_send: list[bytes] = []
        self.timer: float | None = None
        self.fired: list[float] = []
        self.on_process: Callable[[], None] = lambda: None

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        self.calls.append("receive")
        self.received.append(datagram)

    def process(self, now: float) -> None:
        self.calls.append("process")
        self.on_process()

    def datagrams_to_send(self, now: float) -> list[bytes]:
        self.calls.append("send")
        datagrams, self.to_send = self.to_send, []
        return datagrams

    def next_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        self.calls.append("timer")
        self.fired.append(now)
        self.timer = None


class Probes:
    def __init__(self) -> None:
        self.moves: list[float] = []
        self.returns: list[float] = []

    def probe(self, now: float) -> None:
        self.moves.append(now)

    def probe_if_waiting(self, now: float) -> None:
        self.returns.append(now)


class Ears:
    def __init__(self) -> None:
        self.heard_things: list[str] = []

    def heard(self, now: float) -> None:
        self.heard_things.append("heard")

    def pipe_received(self, now: float) -> None:
        self.heard_things.append("pipe_received")

    def pipe_sent(self, now: float) -> None:
        self.heard_things.append("pipe_sent")

    def pipe_returned(self, now: float) -> None:
        self.heard_things.append("pipe_returned")
