"""`python -m tests.endurance.chaos`: pipes that talk while everything that can fail does.

Nothing delivered may be wrong: no byte altered, lost from a stream, or from another pipe; no
datagram altered, repeated, or from another pipe; no open pipe lost; the relay never ends by itself.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.endurance.traffic import Talk, Tally
from tests.endurance.troubles import Troubles, small_disk
from tests.lab.movable import MovableNetwork
from tests.lab.processes import RelayProcess
from tests.lab.shim import UdpShim

FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
KEPT = Path("build/chaos")
PEACE_S = (0.5, 4.0)
"""Between two troubles. Now and then two come at a time."""
RENEWAL_S = 15.0
"""How often a pipe is closed in order, and another one opened."""
UNWELL_S = 3.0
"""A pipe that was not heard for so long is not well."""
MOST_UNWELL_S = 10.0
"""Seconds since all were well after which there is no further outage. Else several in a row, on a
slow machine above all, keep pipes apart for the 30 s that they live, whatever the peers do."""
WATCH_S = 0.1
LAST_PEACE_S = 6.0
MOST_MINUTES = 120.0


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    tally: Tally = field(default_factory=Tally)
    troubles: Counter[str] = field(default_factory=Counter)
    diary: list[tuple[float, float, str]] = field(default_factory=list)
    """Each trouble: from when to when (seconds since 1970), and what it was."""
    longest_stall_s: float = 0.0
    """How late the peers' event loop was at the most: a machine that is busy with other work makes
    every outage longer than it was meant to be."""

    @property
    def is_right(self) -> bool:
        """Whether nothing was wrong, and there was anything at all."""
        tally = self.tally
        return not tally.wrong and tally.opened > 0 and tally.bytes_delivered > 0

    def lines(self) -> list[str]:
        """For people."""
        tally = self.tally
        refused = ", ".join(f"{count} {name}" for name, count in tally.refused.items()) or "none"
        return [
            f"pipes: {tally.opened} opened, {tally.ended} ended in order; not opened: {refused}",
            f"delivered: {tally.bytes_delivered / 1e6:.1f} MB on streams,"
            f" {tally.datagrams_delivered} of {tally.datagrams_sent} datagrams",
            f"longest silence on a stream: {tally.longest_silence_s:.1f} s;"
            f" longest stall of the peers' process: {self.longest_stall_s:.1f} s",
            "troubles: " + ", ".join(f"{name} {n}" for name, n in sorted(self.troubles.items())),
            *(f"WRONG: {each}" for each in tally.wrong),
        ]


class Chaos:
    """One run, on loopback."""

    def __init__(self, network: UdpShim) -> None:
        self._network = network
        self._recovered = asyncio.Event()
        self._recovered.set()
        self.outcome = Outcome()
        self._talks: dict[Talk, asyncio.Task[None]] = {}
        self._number = 0

    async def run(
        self,
        devices: list[MovableNetwork],
        troubles: Troubles,
        seconds: float,
        rate: float,
        chance: random.Random,
    ) -> None:
        """Let it be chaos for a while, then peace; then all pipes must end in order."""
        for device in devices:
            self._begin(device, rate)
        await asyncio.sleep(3.0)
        end = time.monotonic() + seconds
        watching = asyncio.create_task(self._watch())
        renewing = asyncio.create_task(self._renew(devices, rate, chance, end))
        # What has begun comes to its end: a relay that was killed is there again.
        await asyncio.gather(
            self._trouble(troubles, chance, end),
            self._trouble(troubles, chance, end, 4.0),
            renewing,
        )
        watching.cancel()
        await asyncio.sleep(LAST_PEACE_S)
        for talk in self._talks:
            talk.stop()
        await asyncio.gather(*self._talks.values())

    async def recovery(self) -> None:
        """Wait until there may be another outage: all pipes are well, or were just now."""
        await self._recovered.wait()

    async def _watch(self) -> None:
        well_at = last = time.monotonic()
        while True:
            now = time.monotonic()
            stall_s = now - last - WATCH_S
            self.outcome.longest_stall_s = max(self.outcome.longest_stall_s, stall_s)
            last = now
            if all(talk.silent_s(now) < UNWELL_S for talk in self._talks):
                well_at = now
            if now - well_at < MOST_UNWELL_S:
                self._recovered.set()
            else:
                self._recovered.clear()
            await asyncio.sleep(WATCH_S)

    def _begin(self, device: MovableNetwork, rate: float) -> None:
        self._number += 1
        talk = Talk(self.outcome.tally, f"pipe {self._number}", rate)
        ends = (device, MovableNetwork())
        task = asyncio.create_task(talk.run(str(self._network.address), ends=ends))
        self._talks[talk] = task

    async def _trouble(
        self, troubles: Troubles, chance: random.Random, end: float, rarer: float = 1.0
    ) -> None:
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(*PEACE_S) * rarer)
            name = chance.choice(sorted(troubles.kinds))
            self.outcome.troubles[name] += 1
            began = time.time()
            await troubles.cause(name)
            self.outcome.diary.append((began, time.time(), name))

    async def _renew(
        self, devices: list[MovableNetwork], rate: float, chance: random.Random, end: float
    ) -> None:
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, RENEWAL_S))
            self._talks = {talk: task for talk, task in self._talks.items() if not task.done()}
            while len(self._talks) < len(devices):
                self._begin(chance.choice(devices), rate)
            opened = [talk for talk in self._talks if talk.is_open]
            if opened:
                chance.choice(opened).stop()


def run(pipes: int, seconds: float, seed: int, rate: float, *, keep: bool = False) -> Outcome:
    """One run; the relay, its files and the network are its own.

    :param keep: leave the diary and the relay's log behind even if nothing was wrong.
    """
    chance = random.Random(seed)
    with contextlib.ExitStack() as undo:
        state = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="quicpipe-chaos-")))
        files = state / "quicpipe"
        files.mkdir(mode=0o700)
        if not undo.enter_context(small_disk(files)):
            print("without a full disk: only root may mount a small one")
        variables, clock = _jumping_clock(undo)
        relay = RelayProcess(state, variables=variables)
        undo.enter_context(relay)
        network = UdpShim(relay.address, seed=seed, limit_s=seconds + 300.0, own_addresses=True)
        undo.enter_context(network)
        devices = [MovableNetwork() for _ in range(pipes)]
        chaos = Chaos(network)
        troubles = Troubles(relay, network, devices, files, clock, chance, chaos.recovery)
        asyncio.run(chaos.run(devices, troubles, seconds, rate, chance))
        if keep or not chaos.outcome.is_right:
            _keep(state / "relay.log", chaos.outcome)
    return chaos.outcome


def _keep(log: Path, outcome: Outcome) -> None:
    """What it takes to find out what went wrong, and what was just to be expected."""
    KEPT.mkdir(parents=True, exist_ok=True)
    shutil.copy(log, KEPT)
    diary = sorted([*outcome.diary, *outcome.tally.refusals])
    lines = [f"{began:.1f} to {ended:.1f}: {what}" for began, ended, what in diary]
    (KEPT / "diary").write_text("\n".join([*lines, *outcome.lines(), ""]))


def _jumping_clock(undo: contextlib.ExitStack) -> tuple[dict[str, str], Path | None]:
    """What makes the relay see a wall clock that jumps, where libfaketime is installed."""
    found = sorted(Path("/").glob(FAKETIME.removeprefix("/")))
    if not found:
        print("without jumps of the clock: libfaketime is not installed")
        return {}, None
    folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="quicpipe-clock-")))
    clock = folder / "clock"
    clock.write_text("+0")
    variables = {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    return variables, clock


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pipes", type=int, default=20)
    parser.add_argument("--rate", type=float, default=10_000.0, help="bytes/s of each end")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    options = parser.parse_args()
    if not 0 < options.minutes <= MOST_MINUTES or not 0 < options.pipes <= 24:
        parser.error(f"up to {MOST_MINUTES:.0f} minutes and 24 pipes")
    print(f"{options.pipes} pipes, {options.minutes:g} minutes, seed {options.seed}", flush=True)
    outcome = run(options.pipes, options.minutes * 60.0, options.seed, options.rate, keep=True)
    print("\n".join(outcome.lines()))
    return 0 if outcome.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
