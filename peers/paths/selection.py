"""Which path is the best: by round-trip time and loss, and not another one at every moment."""

from collections.abc import Iterable

from .pair import CHECK_S, Pair

BETTER_SHARE, BETTER_S = 0.2, 0.005
"""A path must cost less by this share and by these seconds to take another's place."""
BETTER_FOR_S = 3.0
"""Seconds for which it must do so."""
COMPARE_S = 0.3
"""Seconds between two probes of both meanwhile."""
BETTER_SAMPLES = 8
"""Answers that each of the two must have given meanwhile: one sample may be anything."""

FAVOURITE_S, FAVOURITE_ROUND_TRIPS = 0.1, 1.5
"""For so long the first path to be answered is waited for before another one is taken, which has
proved valid earlier: of several good paths the other end knows of the first one already."""

RELAY_SHARE, RELAY_S = 2.0, 0.05
"""What the relay's round-trip time is multiplied by, and added to, before it is compared: it is a
cost to somebody, and a failure shared by many."""
WORSE_FOR_S = 10.0
"""Seconds for which a direct path must be worse than that before the relay is used instead."""

LOSS_WEIGHT = 4.0
"""A tenth of the probes lost costs as much as 40 % more round-trip time."""

STANDBYS = 3
"""Valid pairs besides the one in use that are kept up."""
STANDBY_RETRY_S = 1.0
"""Seconds until one that did not answer is asked again."""
STANDBY_MISSES = 3
"""Requests in a row without an answer after which one is no longer valid."""


def cost_s(pair: Pair) -> float:
    """What its use costs, in seconds of round-trip time."""
    return (pair.best_round_trip_s or 0.0) * (1 + LOSS_WEIGHT * pair.loss)


def relay_cost_s(round_trip_s: float | None) -> float:
    """What the relay's use costs; where nothing was measured, more than any direct path's."""
    return float("inf") if round_trip_s is None else round_trip_s * RELAY_SHARE + RELAY_S


class Selection:
    """Remembers for how long another path has been the better one."""

    def __init__(self) -> None:
        self._favourite: Pair | None = None
        self._favourite_ends = 0.0  # until when it is waited for
        self._rival: Pair | None = None
        self._rival_since = 0.0
        self._answers = (0, 0)  # of the rival and of the path in use, when the rival came up
        self._compare_at = 0.0
        self._relay_since: float | None = None

    def name_favourite(
        self, answered: Iterable[Pair], relay_s: float | None, now: float
    ) -> Pair | None:
        """Which of these is to be taken, while the relay is in use and all are yet to be proved.

        It stays the same one until it fails: the other end is told, and follows.
        """
        named = self._favourite
        if named is not None and (named.is_answered or named.is_valid):
            return named
        self._favourite = best = min(answered, key=cost_s, default=None)
        if best is None or cost_s(best) > relay_cost_s(relay_s):
            self._favourite = None
            return None
        patience_s = FAVOURITE_ROUND_TRIPS * (best.best_round_trip_s or 0.0)
        self._favourite_ends = now + max(FAVOURITE_S, patience_s)
        return best

    def choose(
        self, valid: Iterable[Pair], current: Pair | None, relay_s: float | None, now: float
    ) -> tuple[Pair | None, str] | None:
        """The path to change to (None: the relay) and why; None: stay.

        :param current: None: the relay.
        :param relay_s: the round-trip time by the relay, if known.
        """
        best = min(valid, key=cost_s, default=None)
        if best is None:
            return None
        if current is None:
            return self._choose_first(best, relay_s, now)
        if self._is_relay_better(current, best, relay_s, now):
            return None, f"the direct path is much worse: {_ms(current)}"
        rival = self._rival
        if rival is None or not rival.is_valid or not _is_better(rival, current):
            rival = self._rival = best if _is_better(best, current) else None
            if rival is None:
                return None
            self._rival_since = self._compare_at = now
            self._answers = rival.answers, current.answers
        samples = min(rival.answers - self._answers[0], current.answers - self._answers[1])
        if now - self._rival_since < BETTER_FOR_S or samples < BETTER_SAMPLES:
            return None
        return rival, f"better: {_ms(rival)} instead of {_ms(current)}"

    def to_compare(self, current: Pair | None, now: float) -> list[Pair]:
        """What is to be probed now to see whether another path is better than this one."""
        if self._rival is None or current is None or now < self._compare_at:
            return []
        self._compare_at = now + COMPARE_S
        return [self._rival, current]

    def next_due(self) -> float | None:
        """When to choose again, if nothing happens until then."""
        dues = []
        if self._is_awaited:
            dues.append(self._favourite_ends)
        if self._rival is not None:
            dues.append(self._compare_at)
        if self._relay_since is not None:
            dues.append(self._relay_since + WORSE_FOR_S)
        return min(dues, default=None)

    def forget(self) -> None:
        """The path has changed."""
        self._favourite = self._rival = self._relay_since = None

    @property
    def _is_awaited(self) -> bool:
        return self._favourite is not None and self._favourite.is_answered

    def _choose_first(
        self, best: Pair, relay_s: float | None, now: float
    ) -> tuple[Pair, str] | None:
        favourite = self._favourite
        if favourite is not None and favourite.is_valid:
            best = favourite
        elif self._is_awaited and now < self._favourite_ends:
            return None
        if cost_s(best) > relay_cost_s(relay_s):
            return None
        return best, f"proved both ways, {_ms(best)}"

    def _is_relay_better(
        self, current: Pair, best: Pair, relay_s: float | None, now: float
    ) -> bool:
        if min(cost_s(current), cost_s(best)) <= relay_cost_s(relay_s):
            self._relay_since = None
            return False
        if self._relay_since is None:
            self._relay_since = now
        return now - self._relay_since >= WORSE_FOR_S


def keep_up(valid: Iterable[Pair], current: Pair | None, now: float) -> list[Pair]:
    """The standbys that are to be probed now. The others are given up, and the dead ones fail."""
    standbys = sorted((each for each in valid if each is not current), key=cost_s)
    due = []
    for rank, pair in enumerate(standbys):
        if rank >= STANDBYS:
            pair.fail("worked; others that are better are kept up", now)
        elif pair.misses >= STANDBY_MISSES:
            pair.fail("worked, and fell silent", now)
        elif now >= pair.check_at:
            pair.check_at = now + (STANDBY_RETRY_S if pair.misses else CHECK_S)
            due.append(pair)
    return due


def standby_due(valid: Iterable[Pair], current: Pair | None) -> float | None:
    """When `keep_up` has something to do."""
    return min((each.check_at for each in valid if each is not current), default=None)


def _is_better(pair: Pair, than: Pair) -> bool:
    # The shortest time alone is luck where times vary, the mean alone is a queue of our own.
    mean = (pair.round_trip_s or 0.0, than.round_trip_s or 0.0)
    return all(
        ours <= theirs * (1 - BETTER_SHARE) and ours <= theirs - BETTER_S
        for ours, theirs in ((cost_s(pair), cost_s(than)), mean)
    )


def _ms(pair: Pair) -> str:
    loss = f", {pair.loss:.0%} lost" if pair.loss >= 0.01 else ""
    return f"{(pair.best_round_trip_s or 0.0) * 1000:.0f} ms{loss}"
