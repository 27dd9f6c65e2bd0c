"""When to look for a direct path: in rounds, at once when something changes, then ever less often.

A round is half a second to a second in which both sides probe all pairs. One side says "punch" on
the control stream, and begins itself when that will have arrived, so that the probes of the two
cross and each finds the other's NAT open.
"""

from dataclasses import dataclass

ROUND_S = 1.5
"""Seconds after which a round that found nothing is over."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Seconds from the end of one round to the next: doubled each time."""

BOTH_DEPENDENT_S = 30.0
"""Seconds of probing where both NATs map dependently, and so next to nothing can be hoped for."""
HOPE_S = 300.0
"""Seconds of probing where no direct path ever worked. One that has worked is tried for ever."""

FOLLOWER_PATIENCE_S = 1.0
"""Seconds for which the accepter leaves it to the dialer to begin a round."""

CHANGE_GAP_S = 0.5
"""Seconds between the rounds of two changes: they often come together."""

STEADY_S = 30.0
"""Seconds which a direct path should last. After each one that did not, in a row, the first pause
is twice as long: a path that comes and goes is not worth every attempt."""


MAX_NUMBER = 2**32 - 1
"""Of rounds, as messages carry them. Whoever counts so far finds every later word outdated."""


@dataclass(slots=True)
class Round:
    """One attempt."""

    number: int
    starts_at: float
    has_begun: bool = False

    @property
    def ends_at(self) -> float:
        """When it is over, if it found nothing."""
        return self.starts_at + ROUND_S


class Search:
    """The rounds of one pipe. Times are in seconds."""

    def __init__(self, now: float, *, leads: bool) -> None:
        """:param leads: whether this side begins rounds of its own accord: the dialer."""
        self.round: Round | None = None
        self.number = 0
        """Of the latest round: both sides count them together."""
        self.changed_at = now
        """When something changed last: the network, a candidate, the other end's."""
        self.rounds_since = 0
        """Rounds since then."""
        self.has_worked = False
        """Whether a direct path was used since then."""
        self.gave_up = ""
        """Why nothing more is tried until something changes; empty: it is."""
        self._leads = leads
        self._short_lived = 0  # paths in a row
        self._next: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._ended_at = now - CHANGE_GAP_S

    def change(self, now: float, *, urgent: bool = False) -> None:
        """Something is different: a round soon, and all hope anew.

        :param urgent: do not leave it to the other end to begin.
        """
        self.changed_at = now
        self.rounds_since = 0
        self.has_worked = False
        self.gave_up = ""
        self._pause_s = FIRST_PAUSE_S
        began = self.round.starts_at if self.round is not None else self._ended_at
        self._want(max(now, began + CHANGE_GAP_S), urgent=urgent)

    def lost(self, lasted_s: float, now: float) -> None:
        """The direct path in use died; it had been used for so long."""
        self.gave_up = ""
        self.has_worked = True
        self._pause_s = min(FIRST_PAUSE_S * 2**self._short_lived, LONGEST_PAUSE_S)
        self._short_lived = 0 if lasted_s >= STEADY_S else min(self._short_lived + 1, 6)
        self._pause(now)

    def found(self) -> None:
        """A direct path is in use: no more rounds, but the one that runs goes on."""
        self.has_worked = True
        self._next = None
        self.gave_up = ""

    def is_due(self, now: float) -> bool:
        """Whether to begin a round, and tell the other end."""
        return self._next is not None and now >= self._next

    def begin(self, starts_at: float, number: int | None = None) -> Round:
        """A round begins then.

        :param number: the other end's; None: it is ours.
        """
        self.number = min(max(self.number + 1, number or 0), MAX_NUMBER)
        self.round = Round(self.number, starts_at)
        self.rounds_since += 1
        self._next = None
        self.gave_up = ""
        return self.round

    def end(self, now: float) -> None:
        """The round is over."""
        self.round = None
        self._ended_at = now

    def plan(self, *, is_hopeless: bool, now: float) -> None:
        """There is no direct path: plan the next round, unless that is done, or one is running.

        :param is_hopeless: both NATs map dependently.
        """
        if self.round is not None or self._next is not None or self.gave_up:
            return
        tried_s = now - self.changed_at
        if is_hopeless and tried_s + self._pause_s + ROUND_S > BOTH_DEPENDENT_S:
            self.gave_up = "both NATs map dependently (RFC 4787 §4.1); nothing more until a change"
        elif not self.has_worked and tried_s + self._pause_s > HOPE_S:
            self.gave_up = f"nothing worked for {tried_s:.0f} s; nothing more until a change"
        else:
            self._pause(now)

    def next_due(self, *, is_held: bool) -> float | None:
        """When something is to be done.

        :param is_held: no new round is to begin for now.
        """
        dues = [] if self._next is None or is_held else [self._next]
        if self.round is not None:
            dues.append(self.round.ends_at if self.round.has_begun else self.round.starts_at)
        return min(dues, default=None)

    def next_round_at(self) -> float | None:
        """When the next round is planned; None: none is."""
        return self._next

    def _pause(self, now: float) -> None:
        self._want(now + self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _want(self, at: float, *, urgent: bool = False) -> None:
        at += 0.0 if self._leads or urgent else FOLLOWER_PATIENCE_S
        self._next = at if self._next is None else min(self._next, at)
