"""Real sockets of a device that moves from one local address to another.

All of 127.0.0.0/8 is this machine, so a socket can leave 127.0.0.1 for 127.0.0.2: what a wildcard
socket does by itself when the kernel picks another source address, done by hand.
"""

import asyncio
import socket
from collections.abc import Sequence

from peers.network import Receive, SystemNetwork
from relay.wire.address import Address

_BUFFER = 4 * 2**20
_BATCH = 64
_LARGEST = 65_535


class MovableNetwork(SystemNetwork):
    """A `peers.network.Network` of IPv4 sockets, all of which `move` at once."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._sockets: list[MovableSocket] = []

    def open_socket(  # type: ignore[override]  # another class, of the same protocol
        self, family: socket.AddressFamily
    ) -> "MovableSocket":
        """:raises OSError: for IPv6, whose loopback has one address only."""
        if family != socket.AF_INET:
            raise OSError("only IPv4 has several loopback addresses")
        opened = MovableSocket(self._host)
        self._sockets.append(opened)
        return opened

    def move(self, host: str) -> None:
        """From now on send from there; what is on its way to the old address is lost."""
        self._host = host
        for each in self._sockets:
            each.move(host)


class MovableSocket:
    """Implements `peers.network.DatagramSocket`."""

    def __init__(self, host: str) -> None:
        self._socket = _bound(host, 0)
        self._receive: Receive | None = None
        self._is_closed = False

    @property
    def local(self) -> Address:
        """Where it is bound now."""
        return Address.from_sockaddr(self._socket.getsockname())

    def start(self, receive: Receive) -> None:
        """Call `receive` once per batch."""
        self._receive = receive
        asyncio.get_running_loop().add_reader(self._socket, self._drain)

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        """Send each; what does not go is lost."""
        for each in datagrams:
            try:
                self._socket.sendto(each, destination)
            except OSError:
                return

    def move(self, host: str) -> None:
        """Keep the port, change the address."""
        if self._is_closed:
            return
        port = self.local.port
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = _bound(host, port)
        if self._receive:
            loop.add_reader(self._socket, self._drain)

    def close(self) -> None:
        """Stop at once. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _drain(self) -> None:
        batch: list[tuple[bytes, Address]] = []
        try:
            while len(batch) < _BATCH:
                datagram, sockaddr = self._socket.recvfrom(_LARGEST)
                batch.append((datagram, Address.from_sockaddr(sockaddr)))
        except OSError:  # nothing more, or an ICMP message
            pass
        if batch and self._receive:
            self._receive(batch)


def _bound(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        opened.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    opened.bind((host, port))
    return opened
