"""How fast handshakes are begun: as fast as they come, unless somebody else wants the core.

A handshake computes for milliseconds, and anybody may ask for one. Where the processes share
a core, a flood of them would take it from the forwarding of the pipes that there are. To be nicer
as a process is no way out: then established clients would wait as well, for tens of milliseconds.
"""

import contextlib
import os
import time
from collections.abc import Callable

SHARE = 1 / 32
"""Of a core, for beginning handshakes while others want it, too; what follows upon each costs as
much again, and a flood of other datagrams comes beside it."""

BURST_S = 1.0
"""Seconds of that share that may be spent at once: for some thirty handshakes."""

_SHORT_ABOVE = 0.1
"""The core is short if this thread had to wait for it for more than so much of its time there."""

_JUDGED_S = 0.02
"""Seconds of running and waiting after which that is judged anew."""

_SCHEDSTAT = "/proc/thread-self/schedstat"


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


class Core:
    """Whether others want the core that the calling thread runs on."""

    def __init__(self) -> None:
        """Where the system does not tell, they do not. One is for one thread."""
        self._file = -1
        with contextlib.suppress(OSError):
            self._file = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        self._judged = 0, 0
        self._is_short = False

    def is_short(self) -> bool:
        """As it was lately."""
        if self._file < 0:
            return False
        # Nanoseconds: for which it ran, and for which it could have run.
        ran, waited = map(int, os.pread(self._file, 80, 0).split()[:2])
        self._is_short, self._judged = judge(self._is_short, self._judged, (ran, waited))
        return self._is_short

    def close(self) -> None:
        """No more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def judge(
    was_short: bool, before: tuple[int, int], now: tuple[int, int]
) -> tuple[bool, tuple[int, int]]:
    """Whether a core is short, and since when that is so.

    :param before: when it was last judged, nanoseconds run and waited; `now` likewise.
    """
    ran, waited = now[0] - before[0], now[1] - before[1]
    if ran + waited < _JUDGED_S * 1e9:
        return was_short, before
    return waited > _SHORT_ABOVE * (ran + waited), now
