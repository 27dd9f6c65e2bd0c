"""The place of one connection at the endpoint, and what the endpoint asks and tells there."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from relay.wire.address import Address

from .connection import Connection
from .network import DatagramSocket
from .sockets import SocketId

if TYPE_CHECKING:
    from .endpoint import Endpoint


class Drop(StrEnum):
    """Why the endpoint dropped a datagram."""

    FOREIGN_SOURCE = "foreign_source"
    """It came from elsewhere than the relay, and from no direct path that is proved."""
    MALFORMED = "malformed"
    """It is no QUIC packet (RFC 8999)."""
    UNKNOWN_CID = "unknown_cid"
    """None of our connections has issued its destination connection ID."""
    NO_WAY = "no_way"
    """It was to be sent before there was a way to any relay, or by a socket that is closed."""


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How to reach the relay: a socket of our own, and one address of the relay's."""

    socket: DatagramSocket
    relay: Address
    socket_id: SocketId


class Observer(Protocol):
    """Who wants to know that something is heard: the guard of the connection to the relay."""

    def heard(self, now: float) -> None:
        """A batch with at least one datagram for a connection of ours came by the current way."""

    def pipe_received(self, now: float) -> None:
        """Some of it was for a pipe."""

    def pipe_sent(self, now: float) -> None:
        """A pipe has sent by the relay."""

    def pipe_returned(self, now: float) -> None:
        """A pipe has lost its direct path: does the relay live, and know where we are?"""


class Prober(Protocol):
    """A pipe whose own probe timeout may have backed off (docs/protocol.md §6.4)."""

    def probe(self, now: float) -> None:
        """The way is another one: send something at once that must be answered."""

    def probe_if_waiting(self, now: float) -> None:
        """It is heard again after `SILENCE_S`: do so if something awaits its acknowledgement."""


class Guide(Protocol):
    """Who finds the direct paths of a pipe."""

    def accepts(self, socket: SocketId, source: Address) -> bool:
        """Whether packets of the pipe may come from there. Asked for each; it must be quick."""

    def receive_probe(self, datagram: bytes, socket: SocketId, source: Address, now: float) -> None:
        """Take a datagram with one of the destination IDs that `Attachment.add_probe_ids` named."""

    def heard(self, socket: SocketId, source: Address | None, now: float) -> None:
        """Packets of the pipe came, by a direct path or (no source) by the relay."""

    def sent(self, now: float) -> None:
        """The pipe has sent something."""

    def way_changed(self, now: float) -> None:
        """We are perhaps elsewhere: the way to the relay is another one."""


class Attachment:
    """The place of one connection at the endpoint. It implements `Routes` for it."""

    def __init__(self, endpoint: "Endpoint", way: Way | None) -> None:
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._connection_ids: set[bytes] = set()
        self._probe_ids: set[bytes] = set()
        self._direct: tuple[SocketId, Address] | None = None
        self.way = way
        """By which way it sends; None: the endpoint's current one, whichever that is."""
        self.last_heard: float | None = None
        """When the last datagram came for it, in loop time; None: never."""
        self.on_heard: Callable[[], None] | None = None
        """Called after each batch of datagrams for the connection, when that has handled it."""
        self.prober: Prober | None = None
        """Set for pipes."""
        self.guide: Guide | None = None
        """Set for pipes that may have direct paths."""

    @property
    def connection(self) -> Connection | None:
        """What is attached."""
        return self._connection

    @property
    def is_pipe(self) -> bool:
        """Whether it goes by the current way: connections to the relay name theirs."""
        return self.way is None

    @property
    def direct(self) -> tuple[SocketId, Address] | None:
        """From which socket to where it is sent; None: by the relay."""
        return self._direct

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
        self.discard_probe_ids(list(self._probe_ids))
        self.go_by_relay()
        self.guide = None
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

    def add_probe_ids(self, ids: Iterable[bytes]) -> None:
        """Route datagrams with these destination IDs, from anywhere, to the guide."""
        for each in ids:
            self._probe_ids.add(each)
            self._endpoint._probe_routes[each] = self

    def discard_probe_ids(self, ids: Iterable[bytes]) -> None:
        """No longer do so."""
        for each in ids:
            if each in self._probe_ids:
                self._probe_ids.remove(each)
                self._endpoint._probe_routes.pop(each, None)

    def go_direct(self, socket: SocketId, address: Address) -> None:
        """Send from that socket straight to that address. The socket stays open meanwhile.

        :raises KeyError: it is not open.
        """
        self._endpoint.sockets.hold(socket)
        self._leave_direct()
        self._direct = (socket, address)

    def go_by_relay(self) -> None:
        """Send by the relay, as in the beginning."""
        self._leave_direct()
        self._direct = None

    def schedule(self) -> None:
        """Something may have to be sent, or a timer has changed: look after it soon, and once."""
        if self._connection is not None:
            self._endpoint._touch(self)

    def _leave_direct(self) -> None:
        if self._direct is not None:
            self._endpoint.sockets.let_go(self._direct[0])
