"""Keeps the workers running: starts, feeds, watches and replaces them, and sums their counters."""

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from relay.core.bucket import Charge, Used
from relay.core.path import Path
from relay.core.table import Change
from relay.forwarding.channel import Counters, Sent, UpMessage
from relay.forwarding.feed import Feed, StateSource, encode_changes
from relay.forwarding.sockets import BALANCES, Listener
from relay.forwarding.worker_process import WorkerEvents, WorkerProcess
from relay.wire.address import Address

logger = logging.getLogger(__name__)

MAX_DEFAULT_WORKERS = 4

WORKER_COMMAND = (sys.executable, "-m", "relay.forwarding.worker")
"""What a worker is; relay/forwarding/worker.py says with which arguments."""

_FAILED_STARTS = 5
_FAILED_STARTS_WITHIN_S = 10.0
"""So many workers that end before they forwarded anything, within this: give up."""

_SHORT_LIFE_S = 5.0
"""Seconds. A worker that lives longer is replaced at once; the next, if it does not, after a pause
that doubles."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

_FAREWELL_S = 0.5
"""Seconds for the workers to report a last time when the relay stops."""


@dataclass(frozen=True, slots=True)
class PoolTimes:
    """All in seconds."""

    report_interval_s: float = 1.0
    """Between a worker's reports."""
    start_patience_s: float = 15.0
    """Until the workers must forward when the relay starts."""
    watch_interval_s: float = 2.0
    """Between two questions whether a worker still follows."""
    answer_patience_s: float = 8.0
    """For which a worker may neither take its commands nor answer; then it is replaced."""


class WorkersFailed(Exception):
    """Workers end again and again before they do anything: the relay cannot forward."""


def default_workers() -> int:
    """As many as there are cores for us, within reason; one where sockets do not share the load."""
    if not BALANCES:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MAX_DEFAULT_WORKERS, cores or 1))


class WorkerPool:
    """All workers of a relay: a `Forwarder`. Worker i reads socket i of every listener."""

    def __init__(
        self,
        listeners: Sequence[Listener],
        times: PoolTimes | None = None,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        """Nothing runs before `start`. The listeners stay the caller's."""
        self._sockets = list(zip(*(each.sockets for each in listeners), strict=True))
        self._times = times or PoolTimes()
        self._command = command
        self._workers: list[WorkerProcess | None] = [None] * len(self._sockets)
        self._born = [0.0] * len(self._sockets)
        self._short_lives = [0] * len(self._sockets)
        self._failed_starts: deque[float] = deque(maxlen=_FAILED_STARTS)
        self._past = Counters.zero()  # of workers that have ended
        self._tasks: set[asyncio.Task[int]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._state: StateSource | None = None  # until `begin`
        self._counting: Callable[[Iterable[Sent]], None] | None = None
        self._started = False
        self._stopping = False
        self._changed = asyncio.Event()  # set whenever a worker has answered or ended

    async def start(
        self,
        state: StateSource,
        *,
        receive: Callable[[bytes, Path], None],
        heard: Callable[[Iterable[Address]], None],
        failed: Callable[[WorkersFailed], None],
    ) -> None:
        """Start all workers and wait until they forward.

        :param receive: takes what may be HTTP/3.
        :param heard: takes registered sources that were heard from.
        :param failed: called, later than this, when there is no use in going on.
        :raises WorkersFailed: they do not start.
        """
        self.spawn(receive=receive, heard=heard, failed=failed)
        await self.begin(state)

    def spawn(
        self,
        *,
        receive: Callable[[bytes, Path], None],
        heard: Callable[[Iterable[Address]], None],
        failed: Callable[[WorkersFailed], None],
    ) -> None:
        """Start all workers; `begin` lets them read datagrams. See `start`."""
        self._loop = asyncio.get_running_loop()
        self._failure: WorkersFailed | None = None
        self._failed = failed

        def pass_on(message: UpMessage) -> None:
            receive(message.datagram, message.path)

        self._events = WorkerEvents(
            pass_on, heard, self._synced, self._changed.set, self._forwarded, self._ended
        )
        for index in range(len(self._workers)):
            self._spawn(index)

    async def loaded(self) -> None:
        """Wait until all workers only wait for their tables.

        :raises WorkersFailed: they do not start.
        """
        await self._started_well(lambda worker: worker.is_loaded)

    async def begin(self, state: StateSource) -> None:
        """Tell the workers all that `state` holds, and wait until they forward.

        :raises WorkersFailed: they do not start.
        """
        self._state = state
        for worker in self._running():
            worker.begin(state)
        await self._started_well(lambda worker: worker.answered >= 0)
        self._started = True
        self._call_later(self._times.watch_interval_s, self._watch)

    def count_senders(self, forwarded: Callable[[Iterable[Sent]], None]) -> None:
        """From now on tell about once a second what senders have had forwarded since."""
        self._counting = forwarded
        for worker in self._running():
            worker.count_senders()

    def apply(self, changes: Sequence[Change]) -> None:
        """Tell every worker; returns at once."""
        encoded = encode_changes(changes)
        for worker in self._running():
            worker.change(encoded)

    async def synchronise(self) -> None:
        """Wait until all that was applied is followed, and the counters are up to date."""
        asked = [(worker, worker.ask()) for worker in self._running()]
        await self._until(
            lambda: all(
                worker.answered >= number or worker is not self._workers[worker.index]
                for worker, number in asked
            )
        )

    def counters(self) -> Counters:
        """Of all workers, those that have ended among them, as last reported."""
        return sum((worker.counters for worker in self._running()), self._past)

    @property
    def meters(self) -> list[Hashable]:
        """Each worker, by a name that no other has had: a new one knows no rates but the first."""
        return [(index, born) for index, born in enumerate(self._born)]

    def take_used(self) -> list[tuple[Hashable, list[Used]]]:
        """What the workers have reported of their buckets since they were asked last."""
        meters = self.meters
        return [(meters[worker.index], worker.take_used()) for worker in self._running()]

    def set_rates(self, meter: Hashable, charges: Sequence[Charge]) -> None:
        """Tell one worker how fast to fill its buckets; one that has ended is ignored."""
        for worker in self._running():
            if self.meters[worker.index] == meter:
                worker.set_rates(charges)

    @property
    def pids(self) -> list[int]:
        """Of the workers that run now."""
        return [worker.pid for worker in self._running()]

    async def stop(self) -> None:
        """End all workers; they report a last time. Done well within a second."""
        self._stopping = True
        for timer in self._timers:
            timer.cancel()
        for worker in self._running():
            worker.finish()
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await self._until(lambda: not self._running())
        except TimeoutError:
            for worker in self._running():
                worker.kill()
        await asyncio.gather(*self._tasks)

    def _running(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker is not None]

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _started_well(self, is_so: Callable[[WorkerProcess], bool]) -> None:
        def all_are() -> bool:
            return self._failure is not None or all(
                worker is not None and is_so(worker) for worker in self._workers
            )

        try:
            async with asyncio.timeout(self._times.start_patience_s):
                await self._until(all_are)
        except TimeoutError:
            raise WorkersFailed("the workers did not start in time") from None
        if self._failure is not None:
            raise self._failure

    def _spawn(self, index: int) -> None:
        if self._stopping:
            return
        self._born[index] = self._loop.time()
        try:
            command = [*self._command, str(self._times.report_interval_s)]
            self._workers[index] = worker = WorkerProcess(
                index, command, self._sockets[index], Feed(self._state), self._events
            )
            if self._counting is not None:
                worker.count_senders()
        except OSError as error:
            logger.error("worker %d cannot be started: %s", index, error)
            # Once all have run it is descriptors or memory that lack: others hold them, and may let
            # them go. Whoever gave up now would end what the other workers still forward.
            self._replace(index, forwarded=self._started)

    def _forwarded(self, sent: Iterable[Sent]) -> None:
        if self._counting is not None:
            self._counting(sent)

    def _synced(self, worker: WorkerProcess, number: int) -> None:
        if number == 0:
            logger.info("worker %d forwards (process %d)", worker.index, worker.pid)
            self._failed_starts.clear()
        self._changed.set()

    def _ended(self, worker: WorkerProcess) -> None:
        self._past += worker.counters
        self._workers[worker.index] = None
        self._changed.set()
        task = self._loop.create_task(self._reap(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not self._stopping:
            self._replace(worker.index, forwarded=worker.answered >= 0)

    async def _reap(self, worker: WorkerProcess) -> int:
        code = await worker.reap()
        if not self._stopping:
            logger.warning(
                "worker %d (process %d) ended with code %d; it is replaced",
                worker.index,
                worker.pid,
                code,
            )
        return code

    def _replace(self, index: int, *, forwarded: bool) -> None:
        now = self._loop.time()
        if not forwarded:
            self._failed_starts.append(now)
            if (
                len(self._failed_starts) == _FAILED_STARTS
                and now - self._failed_starts[0] <= _FAILED_STARTS_WITHIN_S
            ):
                self._give_up()
                return
        if now - self._born[index] >= _SHORT_LIFE_S:
            self._short_lives[index] = 0
            self._spawn(index)
            return
        lives = self._short_lives[index]
        self._short_lives[index] += 1
        pause = min(_FIRST_PAUSE_S * 2 ** min(lives, 10), _LONGEST_PAUSE_S)
        self._call_later(pause, lambda: self._spawn(index))

    def _give_up(self) -> None:
        if self._failure is None:
            self._failure = WorkersFailed(
                f"{_FAILED_STARTS} workers ended before they forwarded anything; "
                "what they said stands above"
            )
            self._changed.set()
            if self._started:
                self._failed(self._failure)

    def _watch(self) -> None:
        """Ask each worker whether it still follows; replace one that has long not answered."""
        for worker in self._running():
            if worker.stalled_s > self._times.answer_patience_s:
                logger.error("worker %d hangs", worker.index)
                worker.kill()
            elif worker.answered == worker.asked:
                worker.ask()
        self._call_later(self._times.watch_interval_s, self._watch)

    def _call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = self._loop.call_later(delay_s, fire)
        self._timers.add(handle)
