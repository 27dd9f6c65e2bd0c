"""A path agent that does what the test says: for what stands around the real one."""

import random
from collections.abc import Sequence

import pytest

from peers.nat.outlook import Mapping
from peers.paths import driver
from peers.paths.agent import BirthdayPermits
from peers.paths.candidate import LocalView, SocketId
from peers.paths.path import RELAY, Action, Direct, Path, PathPolicy, SwitchTo
from peers.paths.report import PathReport
from relay.wire.address import Address


class ScriptedAgent:
    """Implements what the driver asks of `PathAgent`. The test appends to `actions`."""

    def __init__(
        self,
        *,
        is_dialer: bool,
        now: float,
        policy: PathPolicy = PathPolicy.ANY,
        permits: BirthdayPermits | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.is_dialer = is_dialer
        self.policy = policy
        self.actions: list[Action] = []
        self.accepted: set[tuple[SocketId, Address]] = set()
        self.views: list[LocalView] = []
        self.messages: list[bytes] = []
        self.probes: list[tuple[bytes, SocketId, Address]] = []
        self.opened: list[SocketId] = []
        self.calls: list[tuple[str, float]] = []
        self.heard_by: dict[Path, int] = {}
        self.network_changes = 0
        self.timer: float | None = None

    def set_local(self, view: LocalView, now: float) -> None:
        self.views.append(view)

    def network_changed(self, now: float) -> None:
        self.network_changes += 1

    def sockets_opened(self, sockets: Sequence[SocketId], now: float) -> None:
        self.opened += sockets

    def receive_message(self, body: bytes, now: float) -> None:
        self.messages.append(body)

    def receive_probe(self, datagram: bytes, socket: SocketId, source: Address, now: float) -> bool:
        self.probes.append((datagram, socket, source))
        return True

    def accepts(self, socket: SocketId, source: Address) -> bool:
        return (socket, source) in self.accepted

    def sent(self, now: float) -> None:
        self.calls.append(("sent", now))

    def acknowledged(self, now: float) -> None:
        self.calls.append(("acknowledged", now))

    def heard(self, path: Path, now: float) -> None:
        self.heard_by[path] = self.heard_by.get(path, 0) + 1

    def measured(self, round_trip_s: float, now: float) -> None:
        self.calls.append(("measured", round_trip_s))

    def poll(self, now: float) -> list[Action]:
        actions, self.actions = self.actions, []
        self.timer = None
        return actions

    def next_timer(self) -> float | None:
        return self.timer

    current: Path = RELAY
    has_given_up = False

    def report(self, now: float) -> PathReport:
        return PathReport(
            current=self.current,
            reason="scripted",
            since=0.0,
            searching="nothing",
            mapping=Mapping.UNKNOWN,
            peer_mapping=Mapping.UNKNOWN,
            relay_round_trip_s=None,
            pairs=(),
            refused={},
            dropped={},
            probes_sent=0,
            probes_received=0,
            changes=(),
        )


class Cast:
    """The two agents of the one pipe that a test opens after `install`."""

    def __init__(self) -> None:
        self.agents: list[ScriptedAgent] = []

    def make(self, **arguments: object) -> ScriptedAgent:
        self.agents.append(ScriptedAgent(**arguments))  # type: ignore[arg-type]  # as they come
        return self.agents[-1]

    @property
    def dialer(self) -> ScriptedAgent:
        return next(each for each in self.agents if each.is_dialer)

    @property
    def accepter(self) -> ScriptedAgent:
        return next(each for each in self.agents if not each.is_dialer)


def install(monkeypatch: pytest.MonkeyPatch) -> Cast:
    """From now on all pipes have scripted agents."""
    cast = Cast()
    monkeypatch.setattr(driver, "PathAgent", cast.make)
    return cast


def switch(agent: ScriptedAgent, path: Path, reason: str = "the test says so") -> SwitchTo:
    """To be carried out at the next poll."""
    agent.current = path
    action = SwitchTo(path, reason)
    agent.actions.append(action)
    return action


__all__ = ["Cast", "Direct", "ScriptedAgent", "install", "switch"]
