"""How much that may be for HTTP/3 a worker passes up to the control process.

All workers have one control process behind them. A flood of what looks like HTTP/3 must neither
keep peers' own connections from it, nor have it take the core that the workers need.
"""

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from relay.core.bucket import Bucket

STRANGERS_PER_S = 1_000.0
"""Datagrams of all who are not registered, together. A newcomer sends about five until he is: so
two hundred newcomers a second come through each worker's door."""

REGISTERED_PER_S = 10_000.0
"""Of all who are registered: ten thousand that wait for invites send a sixth of it."""

STRANGER_PER_S = 200
REGISTERED_ONE_PER_S = 1_000
"""Of one address and port in a second; far more than anybody's requests need."""

K = TypeVar("K")


class Door(Generic[K]):
    """For one worker. It takes addresses as the loop has them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds, and does not go back."""
        self._clock = clock
        self._strangers, self._registered = Bucket(), Bucket()
        self._strangers.set_rate(math.inf, STRANGERS_PER_S)
        self._registered.set_rate(math.inf, REGISTERED_PER_S)
        self._admitted: dict[K, int] = {}  # in this second, by source: so the buckets bound it
        self._second_ends = -math.inf

    def admits(self, source: K, is_registered: bool) -> bool:
        """Whether one more datagram from there may pass."""
        now = self._clock()
        if now >= self._second_ends:
            self._admitted.clear()
            self._second_ends = now + 1.0
        admitted = self._admitted.get(source, 0)
        if admitted >= (REGISTERED_ONE_PER_S if is_registered else STRANGER_PER_S):
            return False
        bucket = self._registered if is_registered else self._strangers
        if not bucket.has(now):
            return False
        bucket.take(1, 0, now)
        self._admitted[source] = admitted + 1
        return True
