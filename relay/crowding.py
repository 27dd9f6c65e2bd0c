"""Whether a core is short: whether others want it, too, while one wants it oneself (Linux)."""

import contextlib
import os
import time
from collections.abc import Callable

_SHORT_ABOVE = 0.1
"""The core is short if this thread had to wait for it for more than so much of its time there."""

_JUDGED_S = 0.02
"""Seconds of running and waiting after which that is judged anew."""

_SCHEDSTAT = "/proc/thread-self/schedstat"


class Core:
    """That on which the thread runs that asks first; it is for no other thread."""

    def __init__(self) -> None:
        """Where the system does not tell, a core is never short."""
        self._file: int | None = None
        self._judged = 0, 0
        self._is_short = False

    def is_short(self) -> bool:
        """As it was lately: some hundredths of a second of what this thread wanted."""
        if self._file is None:
            self._file = -1
            with contextlib.suppress(OSError):
                self._file = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        if self._file < 0:
            return False
        # Nanoseconds: for which it ran, and for which it could have run.
        ran, waited = map(int, os.pread(self._file, 80, 0).split()[:2])
        self._is_short, self._judged = judge(self._is_short, self._judged, (ran, waited))
        return self._is_short

    def __del__(self) -> None:
        if self._file is not None and self._file >= 0:
            os.close(self._file)


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


HEAVY_PER_S = 50_000.0
"""Datagrams a second from which on forwarding is heavy: less takes a fifth of a core, which the
system gives a worker in any case, whoever else wants it."""

_STALE_AFTER_S = 5.0
"""What was forwarded before a look so long ago says nothing of now. It is longer than a door that
was shut stays so without a look."""


class Forwarding:
    """Whether much was forwarded lately. If nobody has looked for long, the next looks tell."""

    def __init__(
        self,
        total: Callable[[], int],
        over_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds.

        :param total: how many datagrams were forwarded, ever, as far as is known.
        :param over_s: seconds to judge over; `total` must be brought up to date more often.
        """
        self._total, self._over_s, self._clock = total, over_s, clock
        self._before = total()
        self._since = clock()
        self._is_heavy = False

    def is_heavy(self) -> bool:
        """Since it was last looked at, `over_s` ago or longer."""
        now = self._clock()
        elapsed = now - self._since
        if elapsed >= self._over_s:
            total = self._total()
            heavy = (total - self._before) / elapsed >= HEAVY_PER_S
            self._is_heavy = heavy and elapsed < _STALE_AFTER_S
            self._before, self._since = total, now
        return self._is_heavy


def short_while_forwarding(forwarded: Callable[[], int], over_s: float) -> Callable[[], bool]:
    """Tells whether the core is short and forwarding is heavy, so that others must wait.

    The parameters are those of `Forwarding`.
    """
    core, forwarding = Core(), Forwarding(forwarded, over_s)
    return lambda: forwarding.is_heavy() and core.is_short()
