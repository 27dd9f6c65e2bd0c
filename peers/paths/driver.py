"""What moves a pipe's path agent: the event loop, the endpoint, the control stream, QUIC.

It begins when the pipe is open, and delays nothing. The agent decides; this only carries out.
"""

import asyncio
import copy
import logging
from collections.abc import Callable

from relay.wire.address import Address

from ..attachment import Attachment
from ..endpoint import Endpoint
from ..errors import CloseCode, NoDirectPath, PeersError
from ..link.link import RelayLink
from ..nat.discovery import Watch, discover
from ..nat.outlook import Outlook
from ..pipe_core import PipeCore
from ..waiters import Waiters
from .agent import PathAgent
from .candidate import SocketId
from .fence import fenced
from .local_sockets import LocalSockets
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
        self._sockets = LocalSockets(link.endpoint)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # meaningful while `_timer` is set
        self._telling: asyncio.TimerHandle | None = None
        self._pumping: asyncio.Handle | None = None
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
        if core.quic.is_client:
            self._look_around()  # it waits for its accepter anyway, and a router may be slow

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

    @fenced
    def pipe_opened(self, now: float) -> None:
        """Begin to search."""
        self._agent = PathAgent(
            is_dialer=self._core.quic.is_client,
            now=now,
            policy=self._policy,
            permits=self._endpoint.birthday_permits,
        )
        self._place.guide = self
        self._look_around()
        if self._watch is not None:
            self._outlook = self._watch.outlook
            self._set_local(now)
        if self._policy is PathPolicy.DIRECT_ONLY:
            self._expect_direct()
        self._pump(now)

    @fenced
    def message_received(self, body: bytes, now: float) -> None:
        """The other end's agent has something to say."""
        if self._agent is not None and not self._has_ended:
            self._agent.receive_message(body, now)
            self._pump_soon()

    def pipe_ended(self) -> None:
        """Stop. The way stays for what is still to be said: that the pipe is closed."""
        self._stop()
        if self._place.direct is not None:
            # The goodbye is said three times: once directly, then by the relay, should this path
            # be the reason for it.
            self._loop.call_later(TELL_S, self._place.go_by_relay)

    def fail(self, error: Exception) -> None:
        """Something is wrong here, or in what it stands on: no direct path, for good."""
        _log.error("the search for direct paths failed: %s: %s", type(error).__name__, error)
        _log.info("the error's origin:", exc_info=error)
        self._stop()
        self._agent = None
        if self._place.direct is not None:
            self._place.go_by_relay()
            self._core.quic.switch_path(None, self._loop.time())
            self._core.schedule()
        if self._policy is PathPolicy.DIRECT_ONLY:
            self._core.give_up(
                NoDirectPath("the search for direct paths failed"), CloseCode.FAILED, ""
            )

    def _stop(self) -> None:
        self._has_ended = True
        for handle in (self._timer, self._telling, self._pumping, self._too_late):
            if handle is not None:
                handle.cancel()
        self._timer = self._telling = self._pumping = self._too_late = None
        if self._watch is not None:
            self._watch.stop()
        self._sockets.close()
        self.changes.wake()

    # `Guide`

    def accepts(self, socket: SocketId, source: Address) -> bool:
        """Whether packets of the pipe may come from there."""
        return self._agent is not None and self._agent.accepts(socket, source)

    @fenced
    def receive_probe(self, datagram: bytes, socket: SocketId, source: Address, now: float) -> None:
        """A probe, as far as its ID says."""
        if self._agent is not None and not self._has_ended:
            self._agent.receive_probe(datagram, socket, source, now)
            self._pump_soon()

    def heard(self, socket: SocketId, source: Address | None, now: float) -> None:
        """Packets of the pipe came."""
        self._heard[RELAY if source is None else Direct(socket, source)] = now
        self._tell_soon()

    def sent(self, now: float) -> None:
        """The pipe has sent something."""
        self._tell_soon()

    @fenced
    def way_changed(self, now: float) -> None:
        """We are perhaps elsewhere."""
        if self._agent is not None and not self._has_ended:
            self._agent.network_changed(now)
            self._set_local(now)
            self._pump(now)

    # What the agent is told

    def _look_around(self) -> None:
        if self._watch is None and self._policy is not PathPolicy.RELAY_ONLY:
            self._watch = discover(self._link, self._outlook_changed)

    def _tell_soon(self) -> None:
        if self._telling is None and not self._has_ended:
            self._telling = self._loop.call_later(TELL_S, self._tell)

    @fenced
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

    @fenced
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
        in_use = None if self._place.direct is None else self._place.direct[0]
        sockets = self._sockets.choose(self._outlook, in_use, self._watch)
        self._agent.set_local(local_view(self._outlook, sockets, relays), now)

    # What it wants done

    def _pump_soon(self) -> None:
        """Once for all that comes in one batch: the other end may send hundreds of messages."""
        if self._pumping is None and not self._has_ended:
            self._pumping = self._loop.call_soon(self._pump_now)

    @fenced
    def _pump_now(self) -> None:
        self._pumping = None
        self._pump(self._loop.time())

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
                agent.sockets_opened(self._sockets.open(count, family), now)
            case CloseSockets(socket_ids):
                self._sockets.let_go(socket_ids)
            case SwitchTo(path, reason):
                self._switch(agent, path, reason, now)

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
        _log.debug("path: %s: %s", path, reason)
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

    @fenced
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
