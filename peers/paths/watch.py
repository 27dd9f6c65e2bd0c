"""Watches the direct path in use: when to ask whether it lives, and when to say that it is dead.

A path that carries data proves itself by acknowledgements, an idle one by answers to probes. The
path is given up only after a probe of its own went unanswered for a while: so a caller who slept
himself, or a pipe whose packets are lost for another reason, is not taken for a dead path at once.
"""

from dataclasses import dataclass

KEEPALIVE_S = 4.0
"""Seconds without proof after which an idle path is probed. UDP mappings of NATs are to live 2 min
and many live 30 s (RFC 4787 §4.3)."""
USE_S = 15.0
"""Seconds after which a path is probed even though it proves itself otherwise."""
IDLE_PATIENCE_S = 3.0
"""Seconds for which the probes of an idle path may go unanswered."""
IDLE_INTERVAL_S = 0.5

SHORTEST_PATIENCE_S, LONGEST_PATIENCE_S = 0.3, 0.7
"""Seconds for which a path that carries data may prove nothing; a long one needs more: 2.2 RTT."""
PROBES_ONLY_S = 2.0
"""Seconds for which answered probes speak for a path on which no packet is acknowledged."""

STREAM_S = 1.0
"""Seconds for which the pipe's packets must have come without a pause for their end to be odd: who
only receives asks nothing by himself, and would learn too late that he is at another address."""

LATE_S = 0.05
"""If we are called later than we asked for by more than this, it was us who slept."""

NEVER = float("inf")


@dataclass(slots=True)
class Suspicion:
    """The path has been asked, and has not answered yet."""

    since: float
    ends: float
    """When it is dead."""
    interval_s: float
    next_probe: float
    why: str
    has_been_late: bool = False


class Watch:
    """Of one direct path, from when it is taken into use. Times are in seconds."""

    def __init__(self, now: float, round_trip_s: float) -> None:
        self.began = now
        self._probe_round_trip_s = round_trip_s
        self._pipe_round_trip_s = 0.0
        self._proved_at = now  # by an acknowledgement or an answered probe
        self._probed_at = now
        self._unacknowledged_since: float | None = None
        self._asked_before_sending = now  # answers speak for the pipe's packets only so long
        self._suspicion: Suspicion | None = None
        self._stream_began = self._heard_at = NEVER  # the pipe's packets, without a pause
        self._asked_of_stream = False

    @property
    def patience_s(self) -> float:
        """How long a path that carries data may prove nothing: three round trips, bounded."""
        rtt = self._round_trip_s
        # At the limit the question is asked 1.2 round trips before the end.
        longest = max(LONGEST_PATIENCE_S, 2.2 * rtt + 0.1)
        return min(max(3 * rtt, SHORTEST_PATIENCE_S), longest)

    @property
    def wants_large(self) -> bool:
        """Whether its probes should be as long as the pipe's packets, which wait for an answer."""
        return self._unacknowledged_since is not None

    def heard(self, now: float) -> None:
        """Packets of the pipe came by it."""
        if self._heard_at is NEVER or now >= self._heard_at + self._pause_s:
            self._stream_began = now
        self._heard_at = now
        self._asked_of_stream = False

    def measured(self, round_trip_s: float) -> None:
        """The pipe's own smoothed round-trip time: it knows of the queue that the pipe fills."""
        self._pipe_round_trip_s = round_trip_s

    def sent(self, now: float) -> None:
        """The pipe sent something by it that must be acknowledged."""
        if self._unacknowledged_since is None:
            self._unacknowledged_since = self._asked_before_sending = now

    def acknowledged(self, now: float) -> None:
        """The other end acknowledged some of it; what was sent after that still waits."""
        if self._unacknowledged_since is not None and self._unacknowledged_since <= now:
            self._unacknowledged_since = None
        self._proved(now)

    def answered(self, sent_at: float, now: float) -> None:
        """A probe on it, sent then, was answered."""
        self._probe_round_trip_s = max(0.0, now - sent_at)
        if self._suspicion is not None and sent_at < self._suspicion.since:
            return  # of the time before: what we suspect came after it
        if self._unacknowledged_since is not None:
            if now - self._asked_before_sending > PROBES_ONLY_S:
                return
            self._unacknowledged_since = now
        self._proved(now)

    def suspect(self, why: str, now: float, patience_s: float | None = None) -> None:
        """Ask now whether it lives, and do not wait long for the answer."""
        patience_s = patience_s or self.patience_s
        ends = now + patience_s
        if self._suspicion is not None:
            self._suspicion.ends = min(self._suspicion.ends, ends)
            return
        self._suspicion = Suspicion(now, ends, max(0.1, patience_s / 4), now, why)

    def poll(self, now: float) -> bool:
        """Whether a probe is due now; it counts as sent. Then ask `is_dead`."""
        if self._suspicion is None:
            self._begin_suspicion(now)
        suspicion = self._suspicion
        if suspicion is not None:
            if now < suspicion.next_probe:
                return False
            suspicion.next_probe = now + suspicion.interval_s
        elif now < self._probed_at + USE_S:
            return False
        self._probed_at = now
        return True

    def is_dead(self, now: float) -> str:
        """Why it must be given up; empty: it must not."""
        suspicion = self._suspicion
        if suspicion is None or now < suspicion.ends:
            return ""
        if now > suspicion.ends + LATE_S and not suspicion.has_been_late:
            # The answer may wait in our own socket.
            suspicion.has_been_late = True
            suspicion.ends = now + LATE_S
            return ""
        return suspicion.why

    def next_due(self) -> float:
        """When to `poll` again."""
        if self._suspicion is not None:
            return min(self._suspicion.next_probe, self._suspicion.ends)
        return min(
            self._probed_at + USE_S,
            self._silence_ends(),
            self._stream_ends(),
            self._proved_at + KEEPALIVE_S,
        )

    @property
    def _round_trip_s(self) -> float:
        return max(self._probe_round_trip_s, self._pipe_round_trip_s)

    def _silence_ends(self) -> float:
        """When unacknowledged packets make us ask: early enough for an answer in time."""
        if self._unacknowledged_since is None:
            return NEVER
        patience = self.patience_s
        return self._unacknowledged_since + max(
            0.0, min(patience / 2, patience - 1.2 * self._round_trip_s)
        )

    @property
    def _pause_s(self) -> float:
        return max(SHORTEST_PATIENCE_S, self.patience_s / 2)

    def _stream_ends(self) -> float:
        """When it is odd that nothing comes any more."""
        is_stream = self._heard_at is not NEVER and self._heard_at - self._stream_began >= STREAM_S
        return self._heard_at + self._pause_s if is_stream and not self._asked_of_stream else NEVER

    def _begin_suspicion(self, now: float) -> None:
        if now >= self._silence_ends():
            since = self._unacknowledged_since or now
            # Having slept we ask first; in time the patience counts from the packet.
            ends = max(since + self.patience_s, now + self.patience_s / 3)
            why = "packets are not acknowledged, probes not answered"
            interval = max(0.05, self.patience_s / 8)
            self._suspicion = Suspicion(now, ends, interval, now, why)
        elif now >= self._stream_ends():
            self._asked_of_stream = True
            why = "nothing comes any more, probes are not answered"
            self._suspicion = Suspicion(now, now + self.patience_s, 0.1, now, why)
        elif now >= self._proved_at + KEEPALIVE_S:
            why = "keepalives are not answered"
            self._suspicion = Suspicion(now, now + IDLE_PATIENCE_S, IDLE_INTERVAL_S, now, why)

    def _proved(self, now: float) -> None:
        self._proved_at = now
        self._suspicion = None
