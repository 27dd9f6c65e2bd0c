"""Finding out, as it goes, what `Outlook` says. docs/protocol.md §12.

One discovery for each link to a relay, shared by all its pipes. It begins with the first who wants
to know, and ends with the link: port mappings are removed then. Nobody waits for it.
"""

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import suppress
from socket import AddressFamily

from relay.wire.address import Address

from ..errors import RelayUnreachable
from ..link.link import RelayLink
from ..network import DatagramSocket
from .outlook import Outlook
from .port_mapping import Mappers
from .question import MAX_ASKED, Questioner, expanded
from .socket_state import SocketState, is_own

LOOK_S = 3.0
"""Seconds between two looks at our own interfaces and the default route."""
LINGER_S = 60.0
"""Seconds for which it goes on when nobody is interested any more: the next pipe may be near."""

OnOutlook = Callable[[Outlook], None]
"""Called with what is known, in the loop's next turn, and again whenever that changes."""


class Watch:
    """Somebody's interest in the outlook. Made by `discover`; ended by `stop`."""

    def __init__(self, discovery: "Discovery", on_outlook: OnOutlook) -> None:
        self._discovery = discovery
        self._added: set[DatagramSocket] = set()
        self.on_outlook = on_outlook

    @property
    def outlook(self) -> Outlook:
        """What is known now."""
        return self._discovery.outlook

    def add(self, socket: DatagramSocket) -> None:
        """Find out about this socket, too: one of the family that the way to the relay has not.

        It must be a socket of the link's endpoint. Several may add the same one.
        """
        if socket not in self._added:
            self._added.add(socket)
            self._discovery.hold(socket)

    def remove(self, socket: DatagramSocket) -> None:
        """The socket is closed, or of no interest any more."""
        if socket in self._added:
            self._added.discard(socket)
            self._discovery.let_go(socket)

    def stop(self) -> None:
        """No longer call `on_outlook`. A second call does nothing."""
        for socket in list(self._added):
            self.remove(socket)
        self._discovery.leave(self)


def discover(link: RelayLink, on_outlook: OnOutlook) -> Watch:
    """Begin, unless somebody has; never blocks, and never raises for what the network does.

    `on_outlook` is called in the event loop: local addresses at once, the outside address as soon
    as the relay has said it, the mapping a few round trips later, a port mapping after up to
    seconds. The link's current socket is always the first of `Outlook.sockets`.
    """
    discovery = _discoveries.get(link)
    if discovery is None:
        discovery = _discoveries[link] = Discovery(link)
    return discovery.enter(on_outlook)


class Discovery:
    """All that is found out for one link."""

    def __init__(self, link: RelayLink) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._network = link.endpoint.network
        self._watches: dict[Watch, None] = {}
        self._interfaces = self._network.interfaces()
        self._main: DatagramSocket | None = None  # the one towards the relay
        self._last_seen: Address | None = None
        self._states: dict[DatagramSocket, SocketState] = {}
        self._holders: dict[DatagramSocket, int] = {}  # of those that were added
        self._unwatch: Callable[[], None] | None = None  # None: it does not run
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Handle | None = None
        self._introducing: dict[DatagramSocket, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._idle_since = 0.0  # meaningful while there are no watches
        self._is_closed = False
        link.closers.append(self.close)

    @property
    def outlook(self) -> Outlook:
        """What is known now."""
        ordered = sorted(self._states.items(), key=lambda item: item[0] is not self._main)
        sockets = tuple(state.outlook for _, state in ordered)
        way = self._link.endpoint.current
        listeners = self._link.outside.listeners or ()
        relays = expanded(way.relay, listeners) if way is not None else frozenset(listeners)
        return Outlook(self._interfaces, sockets, relays)

    def enter(self, on_outlook: OnOutlook) -> Watch:
        """Somebody wants to know."""
        watch = Watch(self, on_outlook)
        self._watches[watch] = None
        if self._unwatch is None and not self._is_closed:
            self._unwatch = self._link.outside.watch(self._seen)
            self._seen(self._link.outside.address)
            self._look()
        self._changed()
        return watch

    def leave(self, watch: Watch) -> None:
        """Somebody does no longer."""
        self._watches.pop(watch, None)
        self._idle_since = self._loop.time()

    def hold(self, socket: DatagramSocket) -> None:
        """Find out about a socket that is not the one towards the relay."""
        self._holders[socket] = self._holders.get(socket, 0) + 1
        if socket not in self._states and not self._is_closed:
            self._begin(socket)
            self._introduce(socket)
            self._changed()

    def let_go(self, socket: DatagramSocket) -> None:
        """One who held it does no longer."""
        self._holders[socket] = self._holders.get(socket, 1) - 1
        if self._holders[socket] <= 0:
            del self._holders[socket]
            if socket is not self._main:
                self._end(socket)
                self._changed()

    async def close(self) -> None:
        """End; what is mapped is unmapped."""
        self._is_closed = True
        _discoveries.pop(self._link, None)
        self._watches.clear()
        self._pause()
        if self._ending:
            await asyncio.wait(self._ending)

    def _seen(self, outside: Address | None) -> None:
        """The relay says where it sees the socket that the link uses."""
        way = self._link.endpoint.current
        if way is None or self._is_closed:
            return
        if way.socket is not self._main:
            former, self._main = self._main, way.socket
            if former is not None and former not in self._holders:
                self._end(former)
        state = self._states.get(way.socket) or self._begin(way.socket)
        moved = outside is not None and self._last_seen not in (None, outside)
        self._last_seen = outside or self._last_seen
        if outside is None:
            state.forget()
        else:
            listeners = self._link.outside.listeners or ()
            state.seen_at(outside, way.relay, listeners, self._interfaces)
        if moved:
            self._ask_anew()
        self._map_ports()
        self._changed()

    def _look(self) -> None:
        """See what has changed of this machine's own network, from time to time."""
        interfaces = self._network.interfaces()
        if interfaces != self._interfaces:
            self._interfaces = interfaces
            self._link.outside.ask()  # it may see us elsewhere now
            self._ask_anew()
            self._changed()
        self._map_ports()
        if not self._watches and self._loop.time() - self._idle_since >= LINGER_S:
            self._pause()
        else:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _pause(self) -> None:
        for handle in (self._timer, self._telling):
            if handle is not None:
                handle.cancel()
        self._timer = self._telling = None
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        for socket in list(self._states):
            self._end(socket)
        self._main = None

    def _begin(self, socket: DatagramSocket) -> SocketState:
        link = self._link
        questioner = Questioner(link.endpoint, link.name, link.fingerprint, link.token)
        state = SocketState(socket, questioner, self._changed)
        self._states[socket] = state
        return state

    def _end(self, socket: DatagramSocket) -> None:
        introducing = self._introducing.pop(socket, None)
        if introducing is not None:
            introducing.cancel()
        state = self._states.pop(socket, None)
        if state is not None:
            task = self._loop.create_task(state.close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _ask_anew(self) -> None:
        """What concerns the link's socket concerns those of the other family, too."""
        for socket in self._holders:
            if socket is not self._main and socket in self._states:
                self._introduce(socket)

    def _introduce(self, socket: DatagramSocket) -> None:
        """Show a socket to the relay, which has not seen it yet, or not lately."""
        former = self._introducing.get(socket)
        if former is not None:
            former.cancel()
        self._introducing[socket] = self._loop.create_task(self._find_and_ask(socket))

    async def _find_and_ask(self, socket: DatagramSocket) -> None:
        name, family = self._link.name, socket.local.family
        with suppress(RelayUnreachable):
            found = await self._network.resolve(name.host, name.port)
            reached = [each for each in found if each.family == family][:MAX_ASKED]
            if reached and socket in self._states:
                self._states[socket].ask_first(reached, self._interfaces)

    def _map_ports(self) -> None:
        """Where a NAT is between us and the relay, and its gateway may be asked."""
        way = self._link.endpoint.current
        if way is None or is_loopback(way.relay):
            return
        mappers = Mappers.of(self._network)
        for socket, state in self._states.items():
            outside = state.outside
            if state.family != AddressFamily.AF_INET or (outside is None and socket is self._main):
                continue
            behind_nat = outside is None or not is_own(outside, socket.local, self._interfaces)
            state.map_port(mappers if behind_nat else None)

    def _changed(self) -> None:
        if self._telling is None and self._watches:
            self._telling = self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        outlook = self.outlook
        for watch in list(self._watches):
            self._loop.call_soon(self._tell_one, watch, outlook)

    def _tell_one(self, watch: Watch, outlook: Outlook) -> None:
        if watch in self._watches:
            watch.on_outlook(outlook)


def is_loopback(address: Address) -> bool:
    """Whether it is on this very machine: then there is no gateway between."""
    return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback


_discoveries: dict[RelayLink, Discovery] = {}
"""Of the links that are open: each removes itself when its link closes."""
