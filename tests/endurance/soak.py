"""`python -m tests.endurance.soak`: an hour of moderate load, and whether memory stays flat.

Pipes talk through one relay, without troubles but with a little loss; every few seconds one of them
ends and another one takes its place. Memory that is no file's is sampled of the relay's control
process, its workers, and the peers; a line is laid through each after a warm-up.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.network import SystemNetwork
from tests.endurance.traffic import Talk, Tally
from tests.lab.processes import RelayProcess
from tests.lab.shim import UdpShim

LOSS = 0.001
RENEWAL_S = 3.0
SAMPLES = 240
"""Over the whole run."""
WARM_UP = 0.5
"""Of the run, in which memory may grow: caches, pools, and the holes between what lives for a
second and what lives for a minute, which fill up ever more slowly. A leak goes on."""
MOST_MINUTES = 24 * 60.0
LEAST_NOISE_MB = 1.0
LEAST_NOISE_SHARE = 0.02
"""A slope that makes less of a difference than this, and than this share of the memory, is none,
however quiet the samples are."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through one process's memory after the warm-up."""

    name: str
    first_mb: float
    last_mb: float
    rise_mb: float
    """Of the line, from its beginning to its end."""
    per_hour_mb: float
    noise_mb: float
    """Twice the standard deviation of the samples around it."""

    @property
    def is_flat(self) -> bool:
        """Whether it rises by no more than the samples scatter."""
        least_mb = max(LEAST_NOISE_MB, LEAST_NOISE_SHARE * self.first_mb)
        return self.rise_mb <= max(self.noise_mb, least_mb)

    def __str__(self) -> str:
        verdict = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{self.name}: {self.first_mb:.1f} MB at first, {self.last_mb:.1f} MB at last; line"
            f" {self.rise_mb:+.2f} MB, {self.per_hour_mb:+.2f} MB/h,"
            f" noise {self.noise_mb:.2f} MB: {verdict}"
        )


def slope(name: str, samples: Sequence[tuple[float, float]]) -> Slope:
    """Of samples of time (seconds) and MB, at least three."""
    line = statistics.linear_regression(*zip(*samples, strict=True))
    around = [mb - (line.intercept + line.slope * when) for when, mb in samples]
    rise = line.slope * (samples[-1][0] - samples[0][0])
    noise = 2 * statistics.pstdev(around)
    return Slope(name, samples[0][1], samples[-1][1], rise, line.slope * 3600.0, noise)


class Soak:
    """One run, on loopback."""

    def __init__(self, relay: RelayProcess, network: UdpShim) -> None:
        self._relay, self._network = relay, network
        self.tally = Tally()
        self.samples: dict[str, list[tuple[float, float]]] = {}
        self._talks: dict[Talk, asyncio.Task[None]] = {}
        self._number = 0

    async def run(self, pipes: int, seconds: float, rate: float, chance: random.Random) -> None:
        """Let them talk; then all pipes must end in order."""
        start = time.monotonic()
        renewal, sample = start, start + WARM_UP * seconds
        while (now := time.monotonic()) < start + seconds:
            if now >= renewal:
                renewal = now + RENEWAL_S
                self._renew(pipes, rate, chance)
            if now >= sample:
                sample = now + seconds * (1.0 - WARM_UP) / SAMPLES
                self._sample(now)
            await asyncio.sleep(min(0.5, seconds / 100.0))
        for talk in self._talks:
            talk.stop()
        await asyncio.gather(*self._talks.values())

    def _renew(self, pipes: int, rate: float, chance: random.Random) -> None:
        opened = [talk for talk in self._talks if talk.is_open]
        if len(opened) >= pipes:  # one more, where pipes are slow to open
            chance.choice(opened).stop()
        self._talks = {talk: task for talk, task in self._talks.items() if not task.done()}
        # Not all at once at the beginning: an operator's relay does not see that either.
        if len(self._talks) < pipes + 1:
            self._number += 1
            talk = Talk(self.tally, f"pipe {self._number}", rate)
            ends = (SystemNetwork(), SystemNetwork())
            task = asyncio.create_task(talk.run(str(self._network.address), ends=ends))
            self._talks[talk] = task

    def _sample(self, now: float) -> None:
        workers = enumerate(sorted(self._relay.worker_pids()))
        processes = {"control": self._relay.pid, "peers": os.getpid()}
        processes |= {f"worker {number}": pid for number, pid in workers}
        for name, pid in processes.items():
            self.samples.setdefault(name, []).append((now, _memory_mb(pid)))


def _memory_mb(pid: int) -> float:
    # Pages of files are shared with whoever else runs: their share changes without us.
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the system does not tell the memory of process {pid}")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--pipes", type=int, default=20)
    parser.add_argument("--rate", type=float, default=10_000.0, help="bytes/s of each end")
    options = parser.parse_args()
    if not 0 < options.minutes <= MOST_MINUTES or not 0 < options.pipes <= 24:
        parser.error(f"up to {MOST_MINUTES:.0f} minutes and 24 pipes")
    seconds = options.minutes * 60.0
    print(f"{options.pipes} pipes, {options.minutes:g} minutes", flush=True)
    with contextlib.ExitStack() as undo:
        state = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="quicpipe-soak-")))
        relay = undo.enter_context(RelayProcess(state))
        shim = UdpShim(relay.address, loss=LOSS, limit_s=seconds + 300.0, own_addresses=True)
        network = undo.enter_context(shim)
        soak = Soak(relay, network)
        asyncio.run(soak.run(options.pipes, seconds, options.rate, random.Random(1)))
    slopes = [slope(name, samples) for name, samples in soak.samples.items() if len(samples) > 2]
    tally = soak.tally
    print(f"pipes: {tally.opened} opened, {tally.ended} ended in order, not opened {tally.refused}")
    print(f"delivered: {tally.bytes_delivered / 1e6:.1f} MB, {tally.datagrams_delivered} datagrams")
    for each in slopes:
        print(each)
    for text in tally.wrong:
        print(f"WRONG: {text}")
    is_right = not tally.wrong and tally.opened > 0 and all(each.is_flat for each in slopes)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
