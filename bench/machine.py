"""What the machine is, and whether anything but us used our two cores during a measurement."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

_CALM_S = 0.3
_TICK = os.sysconf("SC_CLK_TCK")
_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_MAX_OTHERS = 0.04
"""Share of a core that others may use; the system counts in ticks, so less than this means
nothing in a measurement of about a second."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds since some time."""

    cores: dict[int, float]
    """Busy, whatever with; steal too."""
    processes: dict[int, float]
    """Of each of ours, by the core it is bound to."""

    @classmethod
    def now(cls, pids: dict[int, int | None]) -> "Usage":
        """Of the cores that are the keys; the values are the processes bound to them."""
        times = _core_times()
        return cls(
            {core: times[core] for core in pids},
            {core: cpu_seconds(pid) if pid is not None else 0.0 for core, pid in pids.items()},
        )

    def others_since(self, before: "Usage", seconds: float) -> float:
        """The greatest share of one of the cores that went to neither of our processes."""
        return max(
            (
                (self.cores[core] - before.cores[core])
                - (self.processes[core] - before.processes[core])
            )
            / seconds
            for core in self.cores
        )


def is_disturbed(others: float) -> bool:
    """Whether a measurement in which others had this share of a core is worth nothing."""
    return others > _MAX_OTHERS


def wait_for_calm(cores: Sequence[int], patience_s: float) -> None:
    """Wait until others leave these cores alone, or patience ends. We are to be idle meanwhile."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before = _core_times()
        time.sleep(_CALM_S)
        after = _core_times()
        if max(after[core] - before[core] for core in cores) <= _MAX_OTHERS * _CALM_S:
            return


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads."""
    # The name may hold spaces and brackets; what follows the last bracket does not.
    fields = FilePath(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def describe() -> dict[str, str]:
    """What the reader of the figures must know."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": "cc -O2",
        "system": _system(),
        "argv": " ".join(sys.argv[1:]),
    }


def _core_times() -> dict[int, float]:
    times = {}
    for line in FilePath("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name != "cpu":
            by_field = dict(zip(_FIELDS, map(int, values), strict=False))
            busy = sum(by_field.values()) - by_field["idle"] - by_field["iowait"]
            times[int(name[3:])] = busy / _TICK
    return times


def _processor() -> str:
    for line in FilePath("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
