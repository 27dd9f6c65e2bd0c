"""The figures as a table and as JSON, and what is demanded of their ratios."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.forwarders import TITLES
from bench.measure import Result, Sample
from bench.scenarios import LATENCY_RATE, Part

OURS = "batch"


@dataclass(frozen=True, slots=True)
class Measured:
    """One part with its results."""

    part: Part
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One of our figures divided by another of the same run, and what it must be."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def kept(self) -> bool:
        """Whether it is what it must be."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def __str__(self) -> str:
        demand = f"at least {self.at_least}" if self.at_least else f"at most {self.at_most}"
        return f"{self.name}: {self.value:.2f} ({demand}{'' if self.kept else ': MISSED'})"


def ratios(measured: Iterable[Measured]) -> list[Ratio]:
    """Those that can be made of what was measured."""
    found = _Figures(result for each in measured for result in each.results)
    made: list[Ratio] = []
    for size in (100, 1200):
        for name, rival, ids, least in (
            (f"batch loop / C loop, {size} bytes, 1,000 IDs", "c", 1000, 0.85),
            (f"batch loop / coturn, {size} bytes", "coturn", 1000, 1.15),
            (f"batch loop / C loop, {size} bytes, 100,000 IDs", "c", 100_000, 0.7),
        ):
            ours, theirs = found.single(OURS, ids, size), found.single(rival, ids, size)
            if ours and theirs:
                made.append(Ratio(name, ours.ratio(theirs), at_least=least))
    single = found.single(OURS, 1000, 1200)
    for gro, least in ((False, 1.7), (True, 2.8)):
        receiver = "a receiver with GRO" if gro else "a receiver without GRO"
        name = f"GSO senders / single packets, 1,200 bytes, {receiver}"
        bursts = found.gso(OURS, 1200, gro)
        if single and bursts:
            made.append(Ratio(name, bursts / single.per_second, at_least=least))
    for quantile, most in (("p50", 1.3), ("p99", 2.0)):
        mine, yardstick = found.latency(OURS, quantile), found.latency("c", quantile)
        if mine and yardstick:
            name = f"{quantile} of the batch loop / of the C loop, 10,000 packets/s"
            made.append(Ratio(name, mine / yardstick, at_most=most))
    return made


def regressions(
    now: Sequence[Ratio], then: Mapping[str, float], tolerance: float = 0.12
) -> list[str]:
    """Which ratios have become worse than an earlier run's by more than the tolerance."""
    worse = []
    for each in now:
        before = then.get(each.name)
        if before is None:
            continue
        falls = each.at_most is None and each.value < before * (1 - tolerance)
        rises = each.at_most is not None and each.value > before * (1 + tolerance) * 1.15
        if falls or rises:
            worse.append(f"{each.name}: {each.value:.2f}, was {before:.2f}")
    return worse


def to_json(measured: Sequence[Measured], machine: Mapping[str, str], notes: Sequence[str]) -> str:
    """Everything, for other programs and later comparisons."""
    return json.dumps(
        {
            "machine": dict(machine),
            "notes": list(notes),
            "ratios": {each.name: round(each.value, 4) for each in ratios(measured)},
            "parts": [
                {
                    "title": each.part.title,
                    "conditions": each.part.conditions,
                    "results": [result.to_json() for result in each.results],
                }
                for each in measured
            ],
        },
        indent=1,
    )


def to_markdown(measured: Sequence[Measured]) -> str:
    """Tables, one for each part."""
    blocks = []
    for each in measured:
        if not each.results:
            continue
        timed = each.results[0].scenario.rate is not None
        table = _latency_table(each.results) if timed else _capacity_table(each.results)
        blocks.append(f"### {each.part.title}\n\n{each.part.conditions}\n\n{table}")
    lines = [f"- {each}" for each in ratios(measured)]
    blocks.append("### Ratios\n\n" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"


class _Figures:
    def __init__(self, results: Iterable[Result]) -> None:
        self._results = list(results)

    def single(self, forwarder: str, ids: int, size: int) -> Result | None:
        for each in self._results:
            scenario = each.scenario
            single = scenario.segments == 1 and not scenario.both_ways and scenario.rate is None
            if single and (each.forwarder, scenario.ids, scenario.size) == (forwarder, ids, size):
                return each
        return None

    def gso(self, forwarder: str, size: int, gro: bool) -> float | None:
        for each in self._results:
            scenario = each.scenario
            conditions = (scenario.size, scenario.receiver_gro)
            if scenario.segments > 1 and each.forwarder == forwarder and conditions == (size, gro):
                return each.per_second
        return None

    def latency(self, forwarder: str, quantile: str) -> float | None:
        for each in self._results:
            if each.forwarder == forwarder and each.scenario.rate == LATENCY_RATE:
                return each.latency(quantile)
        return None


def _capacity_table(results: Sequence[Result]) -> str:
    rows = [
        "| Bytes | IDs | Receiver | Forwarder | packets/s, median (range) | of C | CPU us/packet |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        scenario = each.scenario
        values = [sample.per_second for sample in each.samples]
        yardstick = next(
            (
                other
                for other in results
                if other.scenario.conditions == scenario.conditions
                and other.forwarder in ("c", "c-gro")
            ),
            None,
        )
        cpu = [sample.cpu_us for sample in each.samples if sample.cpu_us is not None]
        rows.append(
            f"| {scenario.size} | {scenario.ids:,} | {'GRO' if scenario.receiver_gro else ''} "
            f"| {TITLES[each.forwarder]} "
            f"| {each.per_second:,.0f} ({min(values):,.0f} to {max(values):,.0f}){_mark(each)} "
            f"| {f'{each.ratio(yardstick):.2f}' if yardstick else ''} "
            f"| {f'{sorted(cpu)[len(cpu) // 2]:.2f}' if cpu else ''} |"
        )
    return "\n".join(rows)


def _latency_table(results: Sequence[Result]) -> str:
    rows = [
        "| packets/s sent | Forwarder | p50 us | p99 us | p99.9 us | lost | core used |",
        "|---|---|---|---|---|---|---|",
    ]

    def quantile(name: str) -> "list[str]":
        return [f"{result.latency(name):,.0f}" for result in results]

    columns = zip(results, quantile("p50"), quantile("p99"), quantile("p999"), strict=True)
    for each, p50, p99, p999 in columns:
        used = [sample.load for sample in each.samples if sample.load is not None]
        rows.append(
            f"| {each.scenario.rate or 0:,.0f} | {TITLES[each.forwarder]} "
            f"| {p50}{_mark(each)} | {p99} | {p999} "
            f"| {_percent(each.median(_loss))} "
            f"| {f'{sorted(used)[len(used) // 2]:.0%}' if used else ''} |"
        )
    return "\n".join(rows)


def _loss(sample: Sample) -> float:
    return sample.loss


def _percent(share: float) -> str:
    return "0" if not share else f"{share:.2%}"


def _mark(result: Result) -> str:
    if result.disturbed:
        return " †"
    return f" (redone {result.redone})" if result.redone else ""
