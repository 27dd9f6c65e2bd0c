"""`python -m bench`: measure everything side by side, and write table, JSON and plots."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as FilePath

from bench.forwarders import TITLES, missing
from bench.isolation import NotIsolated, enter_network, pick_cores, set_segmentation
from bench.machine import describe
from bench.measure import Budget, Plan, Result, Scenario, run
from bench.plot import bars, lines
from bench.report import Measured, ratios, regressions, to_json, to_markdown
from bench.scenarios import Part, curve, parts
from relay.forwarding.batch_calls import BatchUnavailable, load_calls

RESULTS = FilePath("build/bench")
SECONDS = 0.5
"""Of one measurement."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if ratios became worse than an earlier run's, 2 if it cannot run."""
    options = _options(arguments)
    try:
        load_calls()
        forwarder_core, load_core = pick_cores()
    except (BatchUnavailable, NotIsolated) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    try:
        then = _earlier_ratios(options.check)
    except (OSError, ValueError, KeyError) as error:
        print(f"bench: --check {options.check}: {error}", file=sys.stderr)
        return 2
    notes = _prepare(load_core)
    repeats = 3 if options.quick else 5
    budget = Budget(30.0 if options.quick else 180.0)
    plan = Plan(repeats, SECONDS, forwarder_core, load_core, notes.append, budget)
    start = time.monotonic()
    measured = _measure(plan, options.quick, notes)
    for note in notes:
        print(f"note: {note}")
    _write(options.output, measured, notes)
    print(f"\n{time.monotonic() - start:.0f} s; results are in {options.output}/")
    worse = regressions(ratios(measured), then)
    for each in worse:
        print(f"worse than before: {each}", file=sys.stderr)
    return 1 if worse else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the forwarding loops beside their rivals, on loopback.",
        epilog="example: python -m bench --quick --check docs/benchmarks.json",
    )
    parser.add_argument("--quick", action="store_true", help="about one minute instead of six")
    parser.add_argument(
        "--output", type=FilePath, default=RESULTS, help="folder for the results (%(default)s)"
    )
    parser.add_argument(
        "--check", type=FilePath, help="fail if ratios are worse than in these earlier results"
    )
    return parser.parse_args(arguments)


def _earlier_ratios(path: FilePath | None) -> dict[str, float]:
    if path is None:
        return {}
    found = json.loads(path.read_text())["ratios"]
    return {str(name): float(value) for name, value in found.items()}


def _prepare(load_core: int) -> list[str]:
    notes = []
    try:
        enter_network()
    except (NotIsolated, OSError) as error:
        notes.append(f"no network of our own ({error}): other traffic on loopback may disturb")
    if not set_segmentation(False):
        notes.append(
            "GSO of loopback cannot be switched off: the load sends packets one by one, and may "
            "be slower than the forwarders; capacities are lower bounds where the load is at 100 %"
        )
    os.sched_setaffinity(0, {load_core})
    notes += [f"without {TITLES[name]}: {why}" for name, why in missing().items()]
    return notes


def _measure(plan: Plan, quick: bool, notes: list[str]) -> list[Measured]:
    absent = missing()
    measured = []

    def take(part: Part, plan: Plan) -> list[Result]:
        results = []
        for scenario in part.scenarios:
            kept = tuple(name for name in scenario.forwarders if name not in absent)
            results += run(replace(scenario, forwarders=kept), plan)
        if results:
            measured.append(Measured(part, tuple(results)))
            print(to_markdown([measured[-1]]).partition("### Ratios")[0], flush=True)
        return results

    capacity = 0.0
    for part in parts(quick):
        for each in take(part, replace(plan, repeats=plan.repeats * part.rounds)):
            if _is_yardstick(each) and not capacity:
                capacity = each.per_second
    if capacity:
        take(curve(capacity, quick), replace(plan, repeats=1 if quick else 3))
    for line in map(str, ratios(measured)):
        print(line)
    disturbed = sum(result.redone for each in measured for result in each.results)
    if disturbed:
        notes.append(f"{disturbed} measurements were disturbed by other programs, and redone")
    if any(result.disturbed for each in measured for result in each.results):
        notes.append("† marks those that stayed disturbed, and are worth little")
    return measured


def _is_yardstick(result: Result) -> bool:
    scenario = result.scenario
    return result.forwarder in ("c", "batch") and scenario == replace(
        Scenario(scenario.forwarders), ids=scenario.ids
    )


def _write(folder: FilePath, measured: Sequence[Measured], notes: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe()
    (folder / "benchmarks.json").write_text(to_json(measured, machine, notes))
    head = "\n".join(f"- {name}: {value}" for name, value in machine.items() if value)
    said = "\n".join(f"- {note}" for note in notes)
    (folder / "benchmarks.md").write_text(f"{head}\n{said}\n\n{to_markdown(measured)}")
    for each in measured:
        name = each.part.title.lower().replace(" ", "-").replace(",", "")
        rates = {result.scenario.rate for result in each.results}
        if rates == {None}:
            plot = bars(f"{each.part.title}: packets/s", each.results)
        elif len(rates) > 1:
            plot = lines(each.part.title, each.results)
        else:
            continue
        (folder / f"{name}.svg").write_text(plot)


if __name__ == "__main__":
    sys.exit(main())
