"""Run cells of the matrix many times, several at once, and put what they show in a table."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from tests.netns.lab import CommandFailed

from .cells import Cell
from .scene import Run, Scene

RUNS_PER_SCENE = 20
"""The relay takes 120 requests a minute from one address: a new scene has new ones."""

LONG_RUNS = 10
"""Of a cell without a direct path, each of which takes most of a minute."""


@dataclass(slots=True)
class Result:
    """Of one cell."""

    cell: Cell
    runs: list[Run] = field(default_factory=list)

    @property
    def in_time(self) -> int:
        """How many runs were direct within the promised time, with no more than the probes."""
        promise = self.cell.promise
        most = promise.most_probes
        return sum(
            run.direct
            and not run.error
            and run.direct_s is not None
            and run.direct_s <= promise.within_s
            and (most is None or run.probes <= most)
            for run in self.runs
        )

    @property
    def is_kept(self) -> bool:
        """Whether the promise was."""
        promise = self.cell.promise
        if not promise.opens:
            return all(run.error and "\n" not in run.error for run in self.runs)
        if any(run.error for run in self.runs) and promise.direct == 1.0:
            return False
        if not promise.direct:
            return not any(run.direct or run.error or run.probes_in_silence for run in self.runs)
        return self.in_time >= promise.direct * len(self.runs)

    def row(self) -> list[str]:
        """For the table."""
        cell, runs = self.cell, self.runs
        direct = [run.direct_s for run in runs if run.direct_s is not None]
        first = [run.first_byte_s for run in runs if run.first_byte_s is not None]
        probes = [float(run.probes) for run in runs if run.first_byte_s is not None]
        found = f"direct {sum(run.direct for run in runs)} of {len(runs)}"
        if not cell.promise.opens:
            found = f"no pipe {sum(bool(run.error) for run in runs)} of {len(runs)}"
        elif not cell.promise.direct:
            found = f"relay {sum(not run.direct for run in runs)} of {len(runs)}"
        return [
            str(cell.dialer),
            str(cell.accepter) + (f" ({cell.together.value})" if cell.together.value else ""),
            found,
            _spread(first, "{:.2f}"),
            _spread(direct, "{:.2f}"),
            _spread(probes, "{:.0f}"),
            str(cell.promise),
            "yes" if self.is_kept else "**no**",
        ]


HEADINGS = [
    "Dialer",
    "Accepter",
    "Path",
    "First byte, s",
    "Direct after, s",
    "Probes",
    "Promise",
    "Kept",
]


def _spread(values: Sequence[float], form: str) -> str:
    """The median, and the largest."""
    if not values:
        return "–"
    return f"{form.format(statistics.median(values))} ({form.format(max(values))})"


def table(results: Sequence[Result]) -> str:
    """In Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(each.row() for each in results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def run_cells(
    cells: Sequence[Cell], runs: int, jobs: int, tell: Callable[[str], None]
) -> list[Result]:
    """Run each cell so often, `jobs` scenes at a time; `tell` hears of each that is done."""
    results = {cell: Result(cell) for cell in cells}
    begun = time.monotonic()
    stop = threading.Event()
    pool = ThreadPoolExecutor(jobs)
    try:
        pending = {}
        for cell in cells:
            left = runs if cell.promise.direct else min(runs, LONG_RUNS)
            while left > 0:
                count = min(left, RUNS_PER_SCENE)
                pending[pool.submit(run_scene, cell, count, stop)] = cell
                left -= count
        for done in as_completed(pending):
            cell = pending[done]
            found = done.result()
            results[cell].runs += found
            ways = sum(run.direct for run in found)
            tell(f"{time.monotonic() - begun:6.0f} s  {cell}: {ways} of {len(found)} direct")
            for run in found:
                if run.error:
                    tell(f"         {run.error}")
    finally:
        stop.set()  # whoever ends this early waits for one run of each scene, not for all
        pool.shutdown(cancel_futures=True)
    return list(results.values())


def run_scene(cell: Cell, count: int, stop: threading.Event) -> list[Run]:
    """So many runs of a cell in one scene, or fewer if told to stop. What breaks the scene itself
    is told in their errors."""
    runs: list[Run] = []
    try:
        with Scene(cell) as scene:
            while len(runs) < count and not stop.is_set():
                runs.append(scene.run())
    except (CommandFailed, OSError, RuntimeError) as error:
        failed = f"the laboratory: {error}"
        runs += [Run(error=failed) for _ in range(count - len(runs))]
    return runs
