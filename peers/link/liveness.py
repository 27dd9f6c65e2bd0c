"""When to ping the relay, and when to give the connection to it up. docs/protocol.md §3.4.

Pure: times come in, decisions go out. Three different things can have gone silent: the relay (it
restarted), the way to it (a NAT gave us another port, the device moved), or just the other peer.
Neither end of a pipe can tell them apart, but a ping to the relay can: its answer means that the
relay knows where we are, and so does its absence.
"""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class LivenessLimits:
    """The times of docs/protocol.md §3.4, in seconds."""

    keepalive_s: float = 15.0
    """A ping at least this often: NATs forget a UDP binding after 30 s, the strictest of them."""
    silences_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)
    """Silence before the first, second, … ping while a pipe is active."""
    active_s: float = 30.0
    """A pipe is active for so long after its last conversation."""
    pause_s: float = 5.0
    """Conversations have no longer pauses. A pipe's own keepalive, every ten seconds, is none."""
    conversation_s: float = 1.0
    """Traffic that goes on for so long is a conversation…"""
    conversation_batches: int = 6
    """…and so is one with so many batches of datagrams from the other peer; a keepalive and its
    answer are two or three."""
    patience_s: float = 1.0
    """Silence after a ping that means that the connection is dead; longer if the relay is far."""
    tries: int = 3
    """Pings within the patience: on a lossy way one alone would cry wolf too often."""
    acknowledgement_s: float = 10.0
    """Without the relay's own answer for so long the connection is dead, whatever others say."""


class Action(Enum):
    """What is to be done now."""

    NOTHING = "nothing"
    PING = "ping"
    RECONNECT = "reconnect"


class Liveness:
    """The state of one connection to the relay. Make a new one for a new connection."""

    def __init__(self, now: float, limits: LivenessLimits | None = None) -> None:
        self._limits = limits or LivenessLimits()
        self._silent_since = now
        self._last_pipe: float | None = None  # None: there was no pipe traffic yet
        self._traffic_since = now  # it had no longer pause than `pause_s`
        self._traffic_received = 0  # batches since then
        self._last_conversation: float | None = None
        self._level = 0  # index into `silences_s`
        self._last_ping = now
        self._urge: float | None = None  # when to ping at the latest, as a quiet pipe has sent
        self._waiting_since: float | None = None  # first ping since which nothing was heard
        self._tries = 0  # pings sent since then
        self._unacknowledged_since: float | None = None  # first ping that is not acknowledged
        self._patience = self._limits.patience_s

    def heard(self, now: float) -> None:
        """A datagram came from the relay's address: its own, or one that it forwarded."""
        self._silent_since = now
        self._waiting_since = None
        self._tries = 0

    def pipe_received(self, now: float) -> None:
        """It was one of a pipe's. Follows `heard`."""
        self._note_traffic(now, received=1)
        self._urge = None
        if self._last_conversation == now:
            self._level = 0

    def pipe_sent(self, now: float) -> None:
        """A pipe has sent something. After a pause that may be what finds out about a dead way."""
        quiet_s = self._limits.silences_s[0]
        was_quiet = self._last_pipe is None or now - self._last_pipe >= quiet_s
        self._note_traffic(now, received=0)
        if was_quiet and self._urge is None:
            self._urge = now + quiet_s

    def ping_acknowledged(self, now: float) -> None:
        """The relay itself has answered a ping."""
        self.heard(now)
        self._unacknowledged_since = None

    def pinged(self, now: float, round_trip_s: float) -> None:
        """A ping went out. `round_trip_s` is the smoothed one to the relay, 0.0 if unknown."""
        if self._waiting_since is None:
            self._waiting_since = now
            self._level = min(self._level + 1, len(self._limits.silences_s) - 1)
            self._patience = self._limits.patience_s + round_trip_s
        if self._unacknowledged_since is None:
            self._unacknowledged_since = now
        self._tries += 1
        self._last_ping = now
        self._urge = None

    def next_timer(self) -> float:
        """When `poll` will next have something to say, if nothing else happens until then."""
        return min(self._dead_at(), self._ping_at())

    def poll(self, now: float) -> Action:
        """Decide. After PING call `pinged`; after RECONNECT this object has done its work."""
        if now >= self._dead_at():
            return Action.RECONNECT
        if now >= self._ping_at():
            return Action.PING
        return Action.NOTHING

    def _dead_at(self) -> float:
        dead_at = float("inf")
        if self._waiting_since is not None:
            dead_at = self._waiting_since + self._patience
        if self._unacknowledged_since is not None:
            limit = self._unacknowledged_since + self._limits.acknowledgement_s
            dead_at = min(dead_at, limit)
        return dead_at

    def _ping_at(self) -> float:
        limits = self._limits
        if self._waiting_since is not None:
            if self._tries >= limits.tries:
                return float("inf")  # it is up to `_dead_at`
            return self._waiting_since + self._tries * self._patience / limits.tries
        ping_at = self._last_ping + limits.keepalive_s
        if self._last_conversation is not None:
            silence_at = self._silent_since + limits.silences_s[self._level]
            if silence_at < self._last_conversation + limits.active_s:
                ping_at = min(ping_at, silence_at)
        return ping_at if self._urge is None else min(ping_at, self._urge)

    def _note_traffic(self, now: float, *, received: int) -> None:
        limits = self._limits
        if self._last_pipe is None or now - self._last_pipe > limits.pause_s:
            self._traffic_since = now
            self._traffic_received = 0
        self._traffic_received += received
        self._last_pipe = now
        is_long = now - self._traffic_since >= limits.conversation_s
        if is_long or self._traffic_received >= limits.conversation_batches:
            self._last_conversation = now


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """How often a lost relay is tried, in seconds."""

    interval_s: float = 1.0
    eager_s: float = 30.0
    """For so long it is tried every `interval_s`; then the interval doubles each time."""
    longest_interval_s: float = 15.0


class AttemptSchedule:
    """When to try to reach a relay that was lost. There is no last attempt."""

    def __init__(self, now: float, limits: AttemptLimits | None = None) -> None:
        self._limits = limits or AttemptLimits()
        self._start = now
        self._interval = self._limits.interval_s
        self.next_at = now
        """When the next attempt is due."""

    def attempted(self, now: float) -> None:
        """An attempt has begun."""
        if now - self._start >= self._limits.eager_s:
            self._interval = min(2 * self._interval, self._limits.longest_interval_s)
        self.next_at = now + self._interval

    def begin_anew(self, now: float) -> None:
        """Our own network is another one: what failed before says little."""
        self._start, self._interval = now, self._limits.interval_s
        self.next_at = min(self.next_at, now)
