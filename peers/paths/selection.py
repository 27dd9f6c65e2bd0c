"""Which path is the best: by round-trip time and loss, and not another one at every moment."""

from collections.abc import Iterable

from .pair import CHECK_S, Pair

BETTER_SHARE, BETTER_S = 0.2, 0.005
"""A path must cost less by this share and by these seconds to take another's place."""
BETTER_FOR_S = 3.0
"""Seconds for which it must do so."""

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
        self._rival: Pair | None = None
        self._rival_since = 0.0
        self._relay_since: float | None = None

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
            if cost_s(best) > relay_cost_s(relay_s):
                return None
            return best, f"proved both ways, {_ms(best)}"
        if self._is_relay_better(current, best, relay_s, now):
            return None, f"the direct path is much worse: {_ms(current)}"
        if best is current or not _is_better(best, current):
            self._rival = None
            return None
        if best is not self._rival:
            self._rival, self._rival_since = best, now
        if now - self._rival_since < BETTER_FOR_S:
            return None
        self._rival = None
        return best, f"better: {_ms(best)} instead of {_ms(current)}"

    def next_due(self) -> float | None:
        """When to choose again, if nothing happens until then."""
        dues = []
        if self._rival is not None:
            dues.append(self._rival_since + BETTER_FOR_S)
        if self._relay_since is not None:
            dues.append(self._relay_since + WORSE_FOR_S)
        return min(dues, default=None)

    def forget(self) -> None:
        """The path has changed."""
        self._rival = self._relay_since = None

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
    ours, theirs = cost_s(pair), cost_s(than)
    return ours <= theirs * (1 - BETTER_SHARE) and ours <= theirs - BETTER_S


def _ms(pair: Pair) -> str:
    loss = f", {pair.loss:.0%} lost" if pair.loss >= 0.01 else ""
    return f"{(pair.best_round_trip_s or 0.0) * 1000:.0f} ms{loss}"
