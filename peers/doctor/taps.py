"""Sockets that let an examination see what is no packet of any connection's."""

import socket
from collections.abc import Callable, Sequence

from relay.wire.address import Address

from ..interfaces import IpInterface
from ..network import DatagramSocket, Network, Receive

Take = Callable[[bytes, Address], bool]
"""Given a datagram and its source: whether it was for the examination."""


class TappedNetwork:
    """A network whose sockets ask `takers` first. It is itself a `Network`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.takers: list[Take] = []
        """Whoever answers True has the datagram; the others, and the connections, do not see it."""

    def open_socket(self, family: socket.AddressFamily) -> DatagramSocket:
        """:raises OSError: the system has no such family, or no socket left."""
        return _TappedSocket(self._network.open_socket(family), self.takers)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """:raises RelayUnreachable: there are none; the message says why."""
        return await self._network.resolve(host, port)

    def interfaces(self) -> tuple[IpInterface, ...]:
        """The network's."""
        return self._network.interfaces()

    def gateway(self) -> str | None:
        """The network's."""
        return self._network.gateway()


class _TappedSocket:
    def __init__(self, tapped: DatagramSocket, takers: Sequence[Take]) -> None:
        self._tapped = tapped
        self._takers = takers

    @property
    def local(self) -> Address:
        return self._tapped.local

    def start(self, receive: Receive) -> None:
        def sift(batch: list[tuple[bytes, Address]]) -> None:
            rest = [each for each in batch if not any(take(*each) for take in self._takers)]
            if rest:
                receive(rest)

        self._tapped.start(sift)

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        self._tapped.send(datagrams, destination)

    def close(self) -> None:
        self._tapped.close()
