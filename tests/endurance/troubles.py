"""Troubles: each begins, lasts for some seconds, and is over. What they need is said if missing."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tests.lab.movable import MovableNetwork
from tests.lab.processes import RelayProcess, wait_until_gone
from tests.lab.shim import UdpShim

_FULL_DISK_BYTES = 2**20
"""Size of the file system that the relay keeps its files on, where we may mount one."""
_LOCAL = [f"127.0.0.{last}" for last in range(1, 10)]
_MOST_OUTAGE_S = 8.0
"""Well below the time after which a pipe is given up for lost (30 s)."""
_OUTAGES = frozenset(
    {
        "the relay is killed",
        "the relay is restarted",
        "the relay stands still",
        "the disk is full",
        "no network at all",
    }
)
"""Nobody gets through meanwhile."""
_OF_THE_RELAY = frozenset(
    {
        "the relay is killed",
        "the relay is restarted",
        "a worker is killed",
        "all workers are killed",
        "the relay stands still",
        "the relay has no descriptors left",
        "the disk is full",
    }
)


class Troubles:
    """What can happen to one relay, the network before it, and the devices of its peers."""

    def __init__(
        self,
        relay: RelayProcess,
        network: UdpShim,
        devices: list[MovableNetwork],
        files: Path,
        clock: Path | None,
        chance: random.Random,
        recovery: Callable[[], Awaitable[None]],
    ) -> None:
        """:param files: the relay's state directory; a small file system of its own, or not.
        :param clock: libfaketime's file, if the relay runs under it.
        :param recovery: waits until there may be another outage.
        """
        self._recovery = recovery
        self._relay, self._network, self._devices = relay, network, devices
        self._files, self._clock, self._chance = files, clock, chance
        self._relay_lock = asyncio.Lock()
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "the relay is killed": self._kill,
            "the relay is restarted": self._restart,
            "a worker is killed": self._kill_worker,
            "all workers are killed": self._kill_workers,
            "the relay stands still": self._stand_still,
            "heavy loss": self._loss,
            "long delay": self._delay,
            "reordering": self._reorder,
            "duplication": self._duplicate,
            "no network at all": self._outage,
            "the NAT forgets": self._rebind,
            "a device moves": self._move,
            "the relay has no descriptors left": self._no_descriptors,
        }
        if clock is not None:
            self.kinds["the clock jumps"] = self._jump
        if os.path.ismount(files):
            self.kinds["the disk is full"] = self._full_disk

    async def cause(self, name: str) -> None:
        """Let one happen, from its beginning to its end; one that concerns the relay's processes
        waits for another one that does."""
        if name in _OF_THE_RELAY:
            async with self._relay_lock:
                await self._begin(name)
                self._relay.check_runs()
        else:
            await self._begin(name)

    async def _begin(self, name: str) -> None:
        if name in _OUTAGES:
            await self._recovery()
        await self.kinds[name]()

    def _seconds(self, most: float = _MOST_OUTAGE_S) -> float:
        return self._chance.uniform(0.5, most)

    async def _kill(self) -> None:
        workers = self._relay.worker_pids()
        self._relay.kill()
        await asyncio.sleep(self._seconds(4.0))
        await asyncio.to_thread(wait_until_gone, workers)
        await asyncio.to_thread(self._relay.start)

    async def _restart(self) -> None:
        await asyncio.to_thread(self._relay.stop)
        await asyncio.to_thread(self._relay.start)

    async def _kill_worker(self) -> None:
        if self._relay.worker_pids():
            self._relay.kill_worker()

    async def _kill_workers(self) -> None:
        self._relay.kill_workers()

    async def _stand_still(self) -> None:
        pids = [self._relay.pid, *self._relay.worker_pids()]
        with _stopped(pids):
            await asyncio.sleep(self._seconds(4.0))

    async def _loss(self) -> None:
        await self._with(loss=self._chance.uniform(0.1, 0.4))

    async def _delay(self) -> None:
        await self._with(delay_s=self._chance.uniform(0.05, 0.4))

    async def _reorder(self) -> None:
        await self._with(late=self._chance.uniform(0.05, 0.3))

    async def _duplicate(self) -> None:
        await self._with(duplicate=self._chance.uniform(0.05, 0.5))

    async def _outage(self) -> None:
        await self._with(loss=1.0)

    async def _with(self, **conditions: float) -> None:
        """The network is so for a while."""
        for name, value in conditions.items():
            setattr(self._network, name, value)
        try:
            await asyncio.sleep(self._seconds())
        finally:
            for name in conditions:
                setattr(self._network, name, 0.0)

    async def _rebind(self) -> None:
        await asyncio.to_thread(self._network.rebind)

    async def _move(self) -> None:
        self._chance.choice(self._devices).move(self._chance.choice(_LOCAL))

    async def _no_descriptors(self) -> None:
        """The control process may open no more than it has: no new file, socket or pipe."""
        pid = self._relay.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        try:
            if self._chance.random() < 0.5 and self._relay.worker_pids():
                self._relay.kill_worker()  # and it cannot be replaced now
            await asyncio.sleep(self._seconds(4.0))
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    async def _jump(self) -> None:
        if self._clock is not None:
            by_s = self._chance.choice([-86_400, -60, 60, 3_600, 86_400])
            self._clock.write_text(f"{by_s:+d}")
            try:
                await asyncio.sleep(self._seconds())
            finally:
                self._clock.write_text("+0")

    async def _full_disk(self) -> None:
        """And the relay is restarted on it, or reloads."""
        filler = self._files / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(2 * _FULL_DISK_BYTES))
        try:
            await asyncio.sleep(self._seconds(2.0))
            if self._chance.random() < 0.5:
                await asyncio.to_thread(self._relay.stop)
                await asyncio.to_thread(self._relay.start)
                await asyncio.sleep(self._seconds(2.0))
        finally:
            filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system there for a while; says whether we may."""
    options = f"size={_FULL_DISK_BYTES},mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(command, check=False).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
