"""Run the matrix and print it: `python -m tests.nat` (as root: it makes network namespaces)."""

import argparse
import os
import platform
import signal
import sys
from pathlib import Path

from .cells import CELLS
from .matrix import Result, run_cells, table

REPORT = Path(__file__).resolve().parents[2] / "docs" / "nat-matrix.md"
_BEGIN, _END = "<!-- the table: made by `make nat-matrix` -->\n", "<!-- end of the table -->\n"


def main() -> int:
    """Exit status 1: a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.nat", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each cell (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=6, help="scenes at once (%(default)s)")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--explain", action="store_true", help="say what each run's pipe said")
    parser.add_argument("--write", action="store_true", help=f"put the table in {REPORT.name}")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("this makes network namespaces: run it as root")
    cells = [each for each in CELLS if options.only in str(each)]
    if not cells:
        parser.error(f"no cell's name contains '{options.only}'")
    # Ended from outside, it removes what it has built, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = run_cells(
        cells, options.runs, options.jobs, lambda text: print(text, file=sys.stderr)
    )
    if options.explain:
        for result in results:
            for run in result.runs:
                print(f"{result.cell}: {run.direct_s}", *run.lines, sep="\n    ")
    print(table(results), end="")
    if options.write:
        write(results, options.runs)
    return 0 if all(each.is_kept for each in results) else 1


def write(results: list[Result], runs: int) -> None:
    """Replace the table in the document."""
    text = REPORT.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    where = f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}"
    where += f", Python {platform.python_version()}"
    note = f"{runs} runs for each cell ({where}). Times: the median (and the longest).\n\n"
    REPORT.write_text(f"{before}{_BEGIN}\n{note}{table(results)}\n{_END}{after}")


if __name__ == "__main__":
    sys.exit(main())
