"""How much that may be for HTTP/3 a worker passes up to the control process.

All workers have one control process behind them. A flood of what looks like HTTP/3 must neither
keep peers' own connections from it, nor have it take the core that a worker needs.
"""

import math
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from relay.core.bucket import Bucket


class Measure(NamedTuple):
    """Datagrams in a second."""

    one: int
    """Of one address and port."""
    strangers: float
    """Of all who are not registered. A newcomer sends about five until he is."""
    registered: float
    """Of all who are. Ten thousand that wait for invites send 1,600."""


SHORT = Measure(500, 200.0, 2_000.0)
"""While others want the worker's core: forty newcomers a second, more than may begin a handshake
then (`relay.http3.pace`); and a flood of strangers costs the control process a 20th of it."""
ROOMY = Measure(2_000, 10_000.0, 20_000.0)
"""Else: as much as a control process that has a core for itself can take."""

HEAVY_OVER_S = 0.1
"""Seconds in which a worker finds out whether it forwards much: for so long a flood comes in."""

_STAYS_SHORT_S = 2.0
"""Seconds for which a core is taken for short after it was: else a flood would be let in to see."""

K = TypeVar("K")


class Door(Generic[K]):
    """For one worker. It takes addresses as the loop has them."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        is_core_short: Callable[[], bool] = lambda: False,
    ) -> None:
        """`clock` gives seconds, and does not go back."""
        self._clock = clock
        self._is_core_short = is_core_short
        self._short_until = -math.inf
        self._usual, self._more = (
            {False: _bucket(each.strangers), True: _bucket(each.registered)}
            for each in (SHORT, ROOMY)
        )
        self._admitted: dict[K, int] = {}  # in this second, by source: so the buckets bound it
        self._second_ends = -math.inf

    def admits(self, source: K, is_registered: bool) -> bool:
        """Whether one more datagram from there may pass."""
        now = self._clock()
        if now >= self._second_ends:
            self._admitted.clear()
            self._second_ends = now + 1.0
        admitted = self._admitted.get(source, 0)
        bucket = self._usual[is_registered]
        if admitted >= SHORT.one or not bucket.has(now):
            bucket = self._more[is_registered]
            if admitted >= ROOMY.one or not bucket.has(now) or self._is_short(now):
                return False
        bucket.take(1, 0, now)
        self._admitted[source] = admitted + 1
        return True

    def _is_short(self, now: float) -> bool:
        if now < self._short_until:
            return True
        if self._is_core_short():
            self._short_until = now + _STAYS_SHORT_S
        return now < self._short_until


def _bucket(rate: float) -> Bucket:
    bucket = Bucket()
    bucket.set_rate(math.inf, rate)
    return bucket
