"""A token bucket: bursts up to a bound, and a rate in the long run."""


class Allowance:
    """So many at once, and so many a second after that."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._at = 0.0  # when `_left` was right

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take so many, if there are."""
        if self.left(now) < count:
            return False
        self._left -= count
        return True

    def left(self, now: float) -> float:
        """How many could be taken now."""
        passed = max(0.0, now - self._at)
        self._left = min(self._burst, self._left + passed * self._per_s)
        self._at = max(self._at, now)
        return self._left

    def when(self, now: float, count: float = 1.0) -> float:
        """The time at which so many can be taken."""
        missing = count - self.left(now)
        return now if missing <= 0 else now + missing / self._per_s
