"""What moves a pipe's path agent: the event loop, the endpoint, the control stream, QUIC.

It begins when the pipe is open, and delays nothing. The agent decides; this only carries out.
"""

import asyncio
import copy
import logging
from collections.abc import Callable
from contextlib import suppress
from socket import AF_INET, AF_INET6, AddressFamily

from relay.wire.address import Address

from ..attachment import Attachment
from ..endpoint import Endpoint
from ..errors import CloseCode, NoDirectPath, PeersError
from ..link.link import RelayLink
from ..nat.discovery import Watch, discover
from ..nat.outlook import Outlook
from ..network import DatagramSocket
from ..pipe_core import PipeCore
from ..waiters import Waiters
from .agent import PathAgent
from .candidate import SocketId
from .path import (
    RELAY,
    Action,
    AddIds,
    CloseSockets,
    Direct,
    OpenSockets,
    Path,
    PathPolicy,
    RemoveIds,
    SendMessage,
    SendProbe,
    SwitchTo,
)
from .report import Change, PathReport
from .view import local_view

TELL_S = 0.02
"""Seconds in which what the pipe does is gathered before the agent hears of it. Its patience is a
third of a second at the least, and each batch of a fast pipe would cost it more than that."""

DIRECT_WITHIN_S = 30.0
"""Seconds to find a direct path, where only that will do; and to find another one."""

_MOST_ROUNDS = 16
"""Of actions that make for new ones, at one moment. An agent does not go in circles, we hope."""

_log = logging.getLogger(__name__)

OnChange = Callable[[Change], None]


class PathDriver:
    """One for each pipe. It is the pipe's `Companion` and its attachment's `Guide`."""

    def __init__(
        self, core: PipeCore, place: Attachment, link: RelayLink, policy: PathPolicy
    ) -> None:
        self._core = core
        self._place = place
        self._link = link
        self._endpoint: Endpoint = link.endpoint
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._agent: PathAgent | None = None  # None until the pipe is open
        self._watch: Watch | None = None
        self._outlook = Outlook()
        self._shared: dict[AddressFamily, SocketId] = {}
        self._opened: set[SocketId] = set()  # for birthday probing
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # meaningful while `_timer` is set
        self._telling: asyncio.TimerHandle | None = None
        self._too_late: asyncio.TimerHandle | None = None
        self._heard: dict[Path, float] = {}  # what the agent is still to hear of
        self._asked_at = self._acknowledged_at = 0.0  # what it has heard of
        self._has_ended = False
        self._listeners: list[OnChange] = []
        self.changes = Waiters()
        """Woken at each switch, and at the end."""
        self.probes_unsent = 0
        """Probes whose socket was closed."""
        core.quic.is_held = policy is PathPolicy.DIRECT_ONLY
        core.companion = self

    # For the pipe

    @property
    def policy(self) -> PathPolicy:
        """What the application permits."""
        return self._policy

    @property
    def current(self) -> Path:
        """The path that the pipe is sent by."""
        return RELAY if self._place.direct is None else Direct(*self._place.direct)

    def report(self) -> PathReport:
        """What is used, why, and what became of the rest."""
        if self._agent is None:
            return no_paths(self._core.quic.is_client)
        return self._agent.report(self._loop.time())

    def on_change(self, action: OnChange) -> None:
        """Call it at each switch."""
        self._listeners.append(action)

    async def wait_direct(self, timeout_s: float) -> None:
        """Wait for a direct path.

        :raises NoDirectPath: there is none in that time.
        :raises PipeClosed: the pipe has ended.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._place.direct is None:
                    if self._core.error is not None:
                        raise copy.copy(self._core.error)
                    await self.changes.wait()
        except TimeoutError:
            raise self._no_path(timeout_s) from None

    # `Companion`

    def pipe_opened(self, now: float) -> None:
        """Begin to search."""
        self._agent = PathAgent(
            is_dialer=self._core.quic.is_client,
            now=now,
            policy=self._policy,
            permits=self._endpoint.birthday_permits,
        )
        self._place.guide = self
        if self._policy is not PathPolicy.RELAY_ONLY:
            self._watch = discover(self._link, self._outlook_changed)
            self._outlook = self._watch.outlook
            self._set_local(now)
        if self._policy is PathPolicy.DIRECT_ONLY:
            self._expect_direct()
        self._pump(now)

    def message_received(self, body: bytes, now: float) -> None:
        """The other end's agent has something to say."""
        if self._agent is not None and not self._has_ended:
            self._agent.receive_message(body, now)
            self._pump(now)

    def pipe_ended(self) -> None:
        """Stop. The way stays for what is still to be said: that the pipe is closed."""
        self._has_ended = True
        for timer in (self._timer, self._telling, self._too_late):
            if timer is not None:
                timer.cancel()
        self._timer = self._telling = self._too_late = None
        if self._watch is not None:
            self._watch.stop()
        for socket_id in (*self._shared.values(), *self._opened):
            self._endpoint.sockets.let_go(socket_id)
        self._shared.clear()
        self._opened.clear()
        self.changes.wake()
        if self._place.direct is not None:
            # The goodbye is said three times: once directly, then by the relay, should this path
            # be the reason for it.
            self._loop.call_later(TELL_S, self._place.go_by_relay)

    # `Guide`

    def accepts(self, socket: SocketId, source: Address) -> bool:
        """Whether packets of the pipe may come from there."""
        return self._agent is not None and self._agent.accepts(socket, source)

    def receive_probe(self, datagram: bytes, socket: SocketId, source: Address, now: float) -> None:
        """A probe, as far as its ID says."""
        if self._agent is not None and not self._has_ended:
            self._agent.receive_probe(datagram, socket, source, now)
            self._pump(now)

    def heard(self, socket: SocketId, source: Address | None, now: float) -> None:
        """Packets of the pipe came."""
        self._heard[RELAY if source is None else Direct(socket, source)] = now
        self._tell_soon()

    def sent(self, now: float) -> None:
        """The pipe has sent something."""
        self._tell_soon()

    def way_changed(self, now: float) -> None:
        """We are perhaps elsewhere."""
        if self._agent is not None and not self._has_ended:
            self._agent.network_changed(now)
            self._set_local(now)
            self._pump(now)

    # What the agent is told

    def _tell_soon(self) -> None:
        if self._telling is None and not self._has_ended:
            self._telling = self._loop.call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        agent, quic, now = self._agent, self._core.quic, self._loop.time()
        if agent is None:
            return
        heard, self._heard = self._heard, {}
        for path, at in heard.items():
            agent.heard(path, at)
        if quic.asked_at > self._asked_at:
            self._asked_at = quic.asked_at
            agent.sent(self._asked_at)
        acknowledged_at = quic.acknowledged_at
        if acknowledged_at is not None and acknowledged_at > self._acknowledged_at:
            self._acknowledged_at = acknowledged_at
            agent.measured(quic.smoothed_rtt_s, acknowledged_at)
            agent.acknowledged(acknowledged_at)
        due = agent.next_timer()
        if due is not None and due <= now:
            self._pump(now)
        else:
            self._arm(due)

    def _outlook_changed(self, outlook: Outlook) -> None:
        if self._has_ended or self._agent is None:
            return
        now = self._loop.time()
        moved = bool(self._outlook.interfaces) and outlook.interfaces != self._outlook.interfaces
        self._outlook = outlook
        self._set_local(now)
        if moved:
            self._agent.network_changed(now)
        self._pump(now)

    def _set_local(self, now: float) -> None:
        if self._agent is None or self._watch is None:
            return
        way = self._endpoint.current
        relays = [] if way is None else [way.relay]
        relays += self._link.outside.listeners or ()
        self._agent.set_local(local_view(self._outlook, self._sockets(), relays), now)

    def _sockets(self) -> dict[SocketId, tuple[DatagramSocket, AddressFamily]]:
        """One to probe from for each family: that of the path in use, that towards the relay, or
        one that the pipes share."""
        sockets = self._endpoint.sockets
        chosen: dict[AddressFamily, SocketId] = {}
        way = self._endpoint.current
        if way is not None:
            chosen[way.relay.family] = way.socket_id
        for family in (AF_INET, AF_INET6):
            if family not in chosen and (shared := self._share(family)) is not None:
                chosen[family] = shared
        if self._place.direct is not None and self._place.direct[0] not in self._opened:
            # It goes on, though the relay may now see us at another socket.
            chosen[self._place.direct[1].family] = self._place.direct[0]
        return {each: (sockets[each], family) for family, each in chosen.items() if each in sockets}

    def _share(self, family: AddressFamily) -> SocketId | None:
        version = 6 if family is AF_INET6 else 4
        if family in self._shared:
            return self._shared[family]
        if not any(each.version == version for each in self._outlook.interfaces):
            return None
        with suppress(OSError):
            socket_id = self._endpoint.sockets.share(family)
            self._shared[family] = socket_id
            if self._watch is not None:
                self._watch.add(self._endpoint.sockets[socket_id])
            return socket_id
        return None

    # What it wants done

    def _pump(self, now: float) -> None:
        agent = self._agent
        for _ in range(_MOST_ROUNDS):
            if agent is None or self._has_ended:
                return
            actions = agent.poll(now)
            for action in actions:
                self._do(agent, action, now)
            if not actions:
                self._arm(agent.next_timer())
                return
        _log.error("a path agent does not come to an end; it goes on a little later")
        self._arm(now + TELL_S)

    def _do(self, agent: PathAgent, action: Action, now: float) -> None:
        match action:
            case SendProbe(datagram, socket_id, destination):
                socket = self._endpoint.sockets.get(socket_id)
                if socket is None:
                    self.probes_unsent += 1
                else:
                    socket.send([datagram], destination)
            case SendMessage(body):
                self._core.send_control(body)
            case AddIds(ids):
                self._place.add_probe_ids(ids)
            case RemoveIds(ids):
                self._place.discard_probe_ids(ids)
            case OpenSockets(count, family):
                agent.sockets_opened(self._open(count, family), now)
            case CloseSockets(socket_ids):
                for each in self._opened.intersection(socket_ids):
                    self._opened.discard(each)
                    self._endpoint.sockets.let_go(each)
            case SwitchTo(path, reason):
                self._switch(agent, path, reason, now)

    def _open(self, count: int, family: AddressFamily) -> list[SocketId]:
        opened: list[SocketId] = []
        with suppress(OSError):  # fewer will do
            while len(opened) < count:
                opened.append(self._endpoint.sockets.open(family))
        self._opened.update(opened)
        return opened

    def _switch(self, agent: PathAgent, path: Path, reason: str, now: float) -> None:
        match path:
            case Direct(socket_id, address):
                if socket_id not in self._endpoint.sockets:
                    self._set_local(now)  # so it hears that this socket is no more
                    return
                self._place.go_direct(socket_id, address)
            case _:
                self._place.go_by_relay()
                self._endpoint.pipe_returned(now)
        quic = self._core.quic
        quic.switch_path(path if path != RELAY else None, now, _round_trip(agent, path, now))
        # Nothing that came before says anything of this path.
        self._asked_at, self._acknowledged_at = quic.asked_at, now
        if self._policy is PathPolicy.DIRECT_ONLY:
            quic.is_held = path == RELAY
            self._expect_direct()
        self._core.schedule()
        self._set_local(now)
        _log.info("path: %s: %s", path, reason)
        self.changes.wake()
        for action in self._listeners:
            action(Change(now, path, reason))

    def _arm(self, at: float | None) -> None:
        if self._timer is not None:
            if at is not None and self._timer_at <= at:
                return  # it comes in time, perhaps in vain
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer_at = max(at, self._loop.time() + 0.001)
            self._timer = self._loop.call_at(self._timer_at, self._handle_timer)

    def _handle_timer(self) -> None:
        now = max(self._loop.time(), self._timer_at)
        self._timer = None
        self._pump(now)

    # Where only a direct path will do

    def _expect_direct(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None
        if self._place.direct is None:
            self._too_late = self._loop.call_later(DIRECT_WITHIN_S, self._give_up)

    def _give_up(self) -> None:
        self._core.give_up(self._no_path(DIRECT_WITHIN_S), CloseCode.FAILED, "no direct path")

    def _no_path(self, waited_s: float) -> PeersError:
        tried = "; ".join(self.report().lines())
        return NoDirectPath(f"no direct path within {waited_s:.0f} s ({tried})")


def no_paths(is_dialer: bool) -> PathReport:
    """What is reported of a pipe that is not open yet, or has no search for paths."""
    agent = PathAgent(is_dialer=is_dialer, now=0.0, policy=PathPolicy.RELAY_ONLY)
    return agent.report(0.0)


def _round_trip(agent: PathAgent, path: Path, now: float) -> float | None:
    """What probes have measured of it."""
    if not isinstance(path, Direct):
        return agent.report(now).relay_round_trip_s
    pairs = agent.report(now).pairs
    return next(
        (each.round_trip_s for each in pairs if Direct(each.socket, each.remote) == path), None
    )
