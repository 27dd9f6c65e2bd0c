"""The last minutes in one-second steps: what was forwarded and dropped. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

STEPS = 300
"""Seconds that are remembered."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step; all rates are per second."""

    at: float
    """Its end, in seconds since 1970."""
    packets_per_s: float
    bytes_per_s: float
    dropped_per_s: float
    registrations: int

    def to_json(self) -> dict[str, float]:
        """For a page."""
        return {
            "at": round(self.at, 3),
            "packets_per_s": round(self.packets_per_s, 1),
            "bytes_per_s": round(self.bytes_per_s, 1),
            "dropped_per_s": round(self.dropped_per_s, 1),
            "registrations": self.registrations,
        }


class History:
    """Made of totals that only grow; should one shrink, its counter has begun anew."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque(maxlen=STEPS)
        self.drop_rates: dict[str, float] = {}
        """Per second, in the last step."""
        self._before: tuple[float, int, int, Mapping[str, int]] | None = None

    def add(
        self,
        now: float,
        wall: float,
        *,
        packets: int,
        bytes: int,
        drops: Mapping[str, int],
        registrations: int,
    ) -> Step | None:
        """Take the totals of this moment; returns the step that ends here, None for the first.

        :param now: seconds, by a clock that nobody sets.
        :param wall: seconds since 1970.
        """
        before, self._before = self._before, (now, packets, bytes, dict(drops))
        if before is None or now <= before[0]:
            return None
        elapsed = now - before[0]
        self.drop_rates = {
            reason: _rate(before[3].get(reason, 0), count, elapsed)
            for reason, count in drops.items()
        }
        step = Step(
            wall,
            _rate(before[1], packets, elapsed),
            _rate(before[2], bytes, elapsed),
            sum(self.drop_rates.values()),
            registrations,
        )
        self.steps.append(step)
        return step


def _rate(before: int, after: int, elapsed: float) -> float:
    return max(0, after - before) / elapsed
