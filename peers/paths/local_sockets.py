"""The sockets from which one pipe's direct paths are probed and used."""

from collections.abc import Iterable
from contextlib import suppress
from socket import AF_INET, AF_INET6, AddressFamily

from ..endpoint import Endpoint
from ..nat.discovery import Watch
from ..nat.outlook import Outlook
from ..network import DatagramSocket
from .candidate import SocketId


class LocalSockets:
    """What it has opened, or shares with other pipes, it holds until `close`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._shared: dict[AddressFamily, SocketId] = {}
        self._opened: set[SocketId] = set()  # for birthday probing

    def choose(
        self, outlook: Outlook, in_use: SocketId | None, watch: Watch
    ) -> dict[SocketId, tuple[DatagramSocket, AddressFamily]]:
        """One for each family: that of the path in use, else the one towards the relay, else one
        that the pipes share, if this machine has an address of the family.

        :param watch: is asked to find out about the shared one, too.
        """
        sockets = self._endpoint.sockets
        chosen: dict[AddressFamily, SocketId] = {}
        way = self._endpoint.current
        if way is not None:
            chosen[way.relay.family] = way.socket_id
        for family in (AF_INET, AF_INET6):
            if family not in chosen:
                shared = self._share(family, outlook, watch)
                if shared is not None:
                    chosen[family] = shared
        if in_use is not None and in_use in sockets and in_use not in self._opened:
            # It goes on, though the relay may now see us at another socket.
            chosen[sockets.family(in_use)] = in_use
        return {each: (sockets[each], family) for family, each in chosen.items() if each in sockets}

    def open(self, count: int, family: AddressFamily) -> list[SocketId]:
        """Open so many more, or as many as there are."""
        opened: list[SocketId] = []
        with suppress(OSError):  # fewer will do
            while len(opened) < count:
                opened.append(self._endpoint.sockets.open(family))
        self._opened.update(opened)
        return opened

    def let_go(self, socket_ids: Iterable[SocketId]) -> None:
        """Those of them that `open` has opened are no longer needed."""
        for each in self._opened.intersection(socket_ids):
            self._opened.discard(each)
            self._endpoint.sockets.let_go(each)

    def close(self) -> None:
        """None is needed any more."""
        for socket_id in (*self._shared.values(), *self._opened):
            self._endpoint.sockets.let_go(socket_id)
        self._shared.clear()
        self._opened.clear()

    def _share(self, family: AddressFamily, outlook: Outlook, watch: Watch) -> SocketId | None:
        if family in self._shared:
            return self._shared[family]
        version = 6 if family is AF_INET6 else 4
        if not any(each.version == version for each in outlook.interfaces):
            return None
        with suppress(OSError):
            socket_id = self._endpoint.sockets.share(family)
            self._shared[family] = socket_id
            watch.add(self._endpoint.sockets[socket_id])
            return socket_id
        return None
