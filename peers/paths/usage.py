"""The path in use: taken, watched, given up. It always is one: the relay, or a pair."""

from collections import deque

from .pair import Pair
from .path import RELAY, Action, Direct, Path, SwitchTo
from .report import Change
from .watch import Watch

MAX_CHANGES = 16
"""Switches that are remembered."""

CROSSING_S = 1.0
"""Seconds after a switch in which packets still come by the former path."""
ASK_AGAIN_S = 2.0
"""Seconds between two doubts because the other end uses the relay."""


class Usage:
    """Times are in seconds."""

    def __init__(self, now: float, actions: list[Action]) -> None:
        self.path: Path = RELAY
        self.pair: Pair | None = None
        """That of a direct path."""
        self.watch: Watch | None = None
        """That of a direct path."""
        self.since = now
        self.reason = "the pipe began there"
        self.round = 0
        """The search's round in which the path was taken."""
        self.changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self.relay_round_trip_s: float | None = None
        """The pipe's own, when it went by the relay last."""
        self._actions = actions
        self._asked_at = now

    @property
    def is_direct(self) -> bool:
        """Whether a direct path is in use."""
        return self.pair is not None

    def take(self, pair: Pair | None, reason: str, round_number: int, now: float) -> None:
        """Use this pair, or the relay, from now on."""
        self.pair = pair
        if pair is None:
            self.path, self.watch = RELAY, None
        else:
            self.path = Direct(pair.socket, pair.address)
            self.watch = Watch(now, pair.round_trip_s or 0.0)
            # Prove it again with the first packets, and let the other end know.
            self.watch.suspect("the new path does not answer", now)
        self.since, self.reason, self.round = now, reason, round_number
        self.changes.append(Change(now, self.path, reason))
        self._actions.append(SwitchTo(self.path, reason))

    def heard(self, path: Path, now: float) -> None:
        """Packets of the pipe came by that path; if not by ours, the other end may know more."""
        if self.watch is not None and path == self.path:
            self.watch.heard(now)
        settled_at = self.since + max(CROSSING_S, 3 * (self.relay_round_trip_s or 0.0))
        if self.watch is None or path is not RELAY or now < settled_at:
            return
        if now >= self._asked_at + ASK_AGAIN_S:
            self._asked_at = now
            self.watch.suspect("the other end uses the relay, and probes are not answered", now)

    def measured(self, round_trip_s: float) -> None:
        """The pipe's smoothed round-trip time."""
        if self.watch is None:
            self.relay_round_trip_s = round_trip_s
        else:
            self.watch.measured(round_trip_s)
