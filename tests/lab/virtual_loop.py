"""An asyncio event loop whose clock jumps: an hour of waiting costs the milliseconds it computes.

`time()` starts at 0 and stands still while callbacks run. When nothing is ready it jumps to the
next timer. When there is no timer either, nothing can ever happen again: that is `Deadlock`, and
it names the tasks that wait. File descriptors work (they are polled), and so do executors: time
stands still until the thread has answered. Only what threads do is not deterministic.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_CLOCK_RESOLUTION_S = 1e-9
"""Timers this close are due together: it absorbs the rounding of `now + (when - now)`."""

_EXECUTOR_PATIENCE_S = 20.0
"""Real seconds for which a thread may keep virtual time standing still."""

_SPIN_LIMIT = 1_000_000
"""Iterations of the loop at one moment of virtual time: more is a busy loop, not work."""


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: the awaited thing cannot happen any more."""


class VirtualTimeStuck(RuntimeError):
    """The loop runs and runs, and its clock does not move: something calls itself soon for ever."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module's text. Use `run_virtual`, unless two loops must be compared."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self._executor_jobs = 0
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = _CLOCK_RESOLUTION_S  # what BaseEventLoop calls "due together"

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Move the clock on; timers that are then due run in the next iteration."""
        self._virtual_now += seconds

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[Unpack[_Ts]], _T],
        *args: *_Ts,
    ) -> "asyncio.Future[_T]":
        """As ever; virtual time stands still until the job is done."""
        future = super().run_in_executor(executor, func, *args)
        self._executor_jobs += 1
        future.add_done_callback(self._executor_job_done)
        return future

    async def shutdown_default_executor(self) -> None:
        """As ever: it too waits for threads."""
        self._executor_jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._executor_jobs -= 1

    @property
    def waits_for_thread(self) -> bool:
        """Whether a job that was given to an executor has not answered yet."""
        return self._executor_jobs > 0

    def _executor_job_done(self, _: "asyncio.Future[Any]") -> None:
        self._executor_jobs -= 1


class _JumpingSelector(selectors.BaseSelector):
    """Polls the real descriptors; where the real one would sleep, it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()
        self._idle_iterations = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready:
            return ready
        if timeout is not None and timeout <= 0:
            self._count_iteration()
            return []
        self._idle_iterations = 0
        if self._loop.waits_for_thread:
            ready = self._real.select(_EXECUTOR_PATIENCE_S)
            if not ready:
                raise Deadlock(f"a thread did not answer in {_EXECUTOR_PATIENCE_S:g} real seconds")
            return ready
        if timeout is None:
            raise Deadlock(
                f"nothing can happen any more at {self._loop.time():.6f} s; {_waiting(self._loop)}"
            )
        self._loop.jump(timeout)
        return []

    def _count_iteration(self) -> None:
        self._idle_iterations += 1
        if self._idle_iterations > _SPIN_LIMIT:
            self._idle_iterations = 0
            raise VirtualTimeStuck(
                f"{_SPIN_LIMIT} iterations at {self._loop.time():.6f} s; {_waiting(self._loop)}"
            )

    def register(
        self,
        fileobj: Any,
        events: int,
        data: Any = None,  # selectors.FileDescriptorLike
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


def _waiting(loop: VirtualLoop) -> str:
    names = sorted(repr(task.get_coro()) for task in asyncio.all_tasks(loop) if not task.done())
    return f"tasks that wait: {'; '.join(names) or 'none'}"


def run_virtual(main: Coroutine[Any, Any, _T], limit_s: float = 3600.0) -> _T:
    """Run `main` under a virtual clock that starts at 0, and return what it returns.

    :param limit_s: virtual seconds after which the run is given up.
    :raises TimeoutError: when they are over.
    :raises Deadlock: when nothing can happen any more.
    """

    async def bounded() -> _T:
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())
