"""The UDP sockets of one endpoint, each open for as long as somebody holds it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from socket import AddressFamily

from relay.wire.address import Address

from .network import DatagramSocket, Network

SocketId = int
"""Names a socket. A number is never used again for another one."""

MAX_SOCKETS = 1_100
"""So many at a time: birthday probing takes 256 each, for at most four pipes (protocol.md §13)."""

ReceiveFrom = Callable[[SocketId, list[tuple[bytes, Address]]], None]
"""Takes a batch of datagrams with their sources, and the socket by which they came."""


@dataclass(slots=True)
class _Held:
    socket: DatagramSocket
    family: AddressFamily
    holders: int = 1


class Sockets:
    """Opens, counts who holds what, and closes."""

    def __init__(self, network: Network, receive: ReceiveFrom) -> None:
        self._network = network
        self._receive = receive
        self._held: dict[SocketId, _Held] = {}
        self._shared: dict[AddressFamily, SocketId] = {}
        self._next_id = 1

    def __getitem__(self, socket_id: SocketId) -> DatagramSocket:
        """:raises KeyError: it is not open."""
        return self._held[socket_id].socket

    def __contains__(self, socket_id: SocketId) -> bool:
        return socket_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[SocketId]:
        return iter(list(self._held))

    def get(self, socket_id: SocketId) -> DatagramSocket | None:
        """The socket; None: it is not open."""
        held = self._held.get(socket_id)
        return held.socket if held is not None else None

    def family(self, socket_id: SocketId) -> AddressFamily:
        """:raises KeyError: it is not open."""
        return self._held[socket_id].family

    def find(self, wanted: DatagramSocket) -> SocketId | None:
        """Which one it is; None: none of ours, or closed."""
        return next((each for each, held in self._held.items() if held.socket is wanted), None)

    def open(self, family: AddressFamily) -> SocketId:
        """Open a fresh one, held once.

        :raises OSError: the system has no such family or no socket left, or we have `MAX_SOCKETS`.
        """
        if len(self._held) >= MAX_SOCKETS:
            raise OSError(f"this endpoint has {MAX_SOCKETS} sockets already")
        opened = self._network.open_socket(family)
        socket_id, self._next_id = self._next_id, self._next_id + 1
        self._held[socket_id] = _Held(opened, family)
        opened.start(lambda batch: self._receive(socket_id, batch))
        return socket_id

    def share(self, family: AddressFamily) -> SocketId:
        """Hold the one socket of that family that is not for the relay; the first one opens it.

        :raises OSError: as `open`.
        """
        socket_id = self._shared.get(family)
        if socket_id is not None and socket_id in self._held:
            self.hold(socket_id)
            return socket_id
        self._shared[family] = self.open(family)
        return self._shared[family]

    def hold(self, socket_id: SocketId) -> None:
        """Keep it open until one `let_go` more.

        :raises KeyError: it is not open.
        """
        self._held[socket_id].holders += 1

    def let_go(self, socket_id: SocketId) -> None:
        """It closes when the last holder does so. One that is closed already is passed over."""
        held = self._held.get(socket_id)
        if held is None:
            return
        held.holders -= 1
        if held.holders == 0:
            del self._held[socket_id]
            held.socket.close()

    def close(self) -> None:
        """Close them all, whoever holds them."""
        held, self._held = self._held, {}
        for each in held.values():
            each.socket.close()
