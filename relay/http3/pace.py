"""How fast handshakes are begun: as fast as they come, unless somebody else wants the core.

A handshake computes for milliseconds, and anybody may ask for one. Where the processes share
a core, a flood of them would take it from the forwarding of the pipes that there are. To be nicer
as a process is no way out: then established clients would wait as well, for tens of milliseconds.
"""

import time
from collections.abc import Callable

SHARE = 1 / 64
"""Of a core, for beginning handshakes while others want it, too: some fifteen a second. What
follows upon each costs twice as much, and a flood of other datagrams comes beside it."""

BURST_S = 0.25
"""Seconds of that share that may be spent at once: for a few handshakes."""


class Pace:
    """When the next handshake may begin."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """:param clock: gives the processor time that this thread has used, in seconds."""
        self._clock = clock
        self._began = 0.0
        self._until = 0.0

    def wait_s(self, now: float, *, is_core_short: bool) -> float:
        """Seconds until one may begin; 0.0: now."""
        if not is_core_short:
            self._until = min(self._until, now)
        return max(0.0, self._until - BURST_S - now)

    def begin(self) -> None:
        """One begins."""
        self._began = self._clock()

    def end(self, now: float) -> None:
        """It has begun; what that took is known now."""
        spent_s = self._clock() - self._began
        self._until = max(self._until, now) + spent_s / SHARE
