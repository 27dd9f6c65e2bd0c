"""The measurements: scenarios, their repeats taken in turns, and what is kept of them."""

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from bench.forwarders import CannotStart, Ends, Forwarder, ends, running
from bench.isolation import set_segmentation
from bench.load import (
    BATCH,
    Burst,
    Counts,
    Receiver,
    Sender,
    closed_loop,
    open_loop,
    quantiles,
    settle,
)
from bench.machine import Usage, cpu_seconds, is_disturbed, wait_for_calm
from bench.turn import channel_header

WINDOW = 16 * BATCH
"""Packets on their way in a closed loop: enough to keep any forwarder busy."""
GSO_WINDOW = 4 * WINDOW
MIXED_BURST = 16
"""Packets in one call of the load, cut up again before they leave it."""
TRIES = 4
"""How often a disturbed measurement is redone."""
PATIENCE_S = 5.0
"""How long to wait for calm before a disturbed measurement is redone."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of conditions, for several forwarders."""

    forwarders: tuple[str, ...]
    ids: int = 1000
    size: int = 100
    segments: int = 1
    """Packets in one GSO message of the sender that the forwarder sees as such."""
    receiver_gro: bool = False
    both_ways: bool = False
    rate: float | None = None
    """Packets/s sent whatever arrives; None: as many as arrive."""

    @property
    def conditions(self) -> "Scenario":
        """The same for nobody in particular: equal where forwarders can be compared."""
        return replace(self, forwarders=())


@dataclass(slots=True)
class Sample:
    """One measurement."""

    per_second: float
    """Packets that arrived."""
    loss: float
    """Share of those sent that did not."""
    cpu_us: float | None
    """Processor time of the forwarder, in microseconds per packet that arrived."""
    load: float | None
    """Share of its core that the forwarder used."""
    latency: dict[str, float]
    others: float
    """Share of a core that went to others meanwhile."""


@dataclass(slots=True)
class Result:
    """All samples of one forwarder under one scenario."""

    scenario: Scenario
    forwarder: str
    samples: list[Sample] = field(default_factory=list)
    redone: int = 0
    """Measurements that were disturbed and made again."""

    def median(self, of: Callable[[Sample], float]) -> float:
        """Of one figure."""
        return statistics.median(map(of, self.samples))

    @property
    def per_second(self) -> float:
        """Median."""
        return self.median(lambda sample: sample.per_second)

    def latency(self, quantile: str) -> float:
        """Median, in microseconds."""
        return self.median(lambda sample: sample.latency[quantile])

    def ratio(self, other: "Result") -> float:
        """Of the two capacities: the median of the ratios in each round.

        Samples of a round were taken one after the other. Between rounds the machine may have
        become slower or faster, for all of them.
        """
        rounds = zip(self.samples, other.samples, strict=True)
        return statistics.median(ours.per_second / theirs.per_second for ours, theirs in rounds)

    @property
    def disturbed(self) -> bool:
        """Whether a sample was kept although others had used the cores: there was no better."""
        return any(is_disturbed(sample.others) for sample in self.samples)

    def to_json(self) -> dict[str, object]:
        """As it is kept."""
        return asdict(self) | {"median_per_second": self.per_second, "disturbed": self.disturbed}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much time to spend, and where."""

    repeats: int
    seconds: float
    forwarder_core: int
    load_core: int
    say: Callable[[str], None]
    budget: "Budget"


@dataclass(slots=True)
class Budget:
    """Seconds that a whole run may spend on measurements that were disturbed."""

    left_s: float


def run(scenario: Scenario, plan: Plan) -> list[Result]:
    """Measure all its forwarders; their samples are taken in turns, so that drift hits all."""
    segmentation = set_segmentation(scenario.segments > 1)
    results = []
    with contextlib.ExitStack() as undo:
        started = []
        for name in scenario.forwarders:
            between = undo.enter_context(ends(scenario.ids))
            try:
                forwarder = undo.enter_context(running(name, between, plan.forwarder_core))
            except CannotStart as error:
                plan.say(f"{name}: {error}")
                continue
            started.append((forwarder, between, Result(scenario, name)))
        for _ in range(plan.repeats):
            for forwarder, between, result in started:
                flows = _Flows(scenario, forwarder, between, bursts=segmentation)
                _sample(flows, plan, result)
        results = [result for _, _, result in started]
    return results


def _sample(flows: "_Flows", plan: Plan, result: Result) -> None:
    best = flows.measure(plan)
    for _ in range(TRIES - 1):
        if not is_disturbed(best.others) or plan.budget.left_s <= 0:
            break
        start = time.monotonic()
        result.redone += 1
        wait_for_calm([plan.forwarder_core, plan.load_core], PATIENCE_S)
        sample = flows.measure(plan)
        if sample.others < best.others:
            best = sample
        plan.budget.left_s -= time.monotonic() - start
    result.samples.append(best)


class _Flows:
    """The traffic of one scenario through one forwarder."""

    def __init__(
        self, scenario: Scenario, forwarder: Forwarder, between: Ends, *, bursts: bool
    ) -> None:
        """`bursts`: what the load sends in one call is cut up before the forwarder sees it."""
        self._scenario = scenario
        self._forwarder = forwarder
        self._ends = between
        self._bursts = bursts and scenario.segments == 1 and scenario.rate is None

    def measure(self, plan: Plan) -> Sample:
        """One sample."""
        for sock in (self._ends.a, self._ends.b):
            settle(sock, 0.01)
        flows = list(self._make())
        pids = {plan.forwarder_core: self._forwarder.pid, plan.load_core: os.getpid()}
        before, start = Usage.now(pids), time.perf_counter()
        counts, cpu, seconds = self._run(flows, plan)
        elapsed = time.perf_counter() - start
        others = Usage.now(pids).others_since(before, elapsed)
        arrived = counts.before + counts.received
        return Sample(
            per_second=counts.received / counts.seconds,
            loss=max(0.0, counts.lost / counts.sent) if counts.sent else 0.0,
            cpu_us=None if cpu is None or not arrived else cpu / arrived * 1e6,
            load=None if cpu is None else cpu / seconds,
            latency=quantiles([receiver for _, receiver in flows]),
            others=others,
        )

    def _run(
        self, flows: Sequence[tuple[Sender, Receiver]], plan: Plan
    ) -> tuple[Counts, float | None, float]:
        pid = self._forwarder.pid
        start = time.perf_counter()
        used = cpu_seconds(pid) if pid is not None else 0.0
        rate = self._scenario.rate
        if rate is None:
            window = GSO_WINDOW if self._scenario.segments > 1 else WINDOW
            counts = closed_loop(flows, window, plan.seconds)
        else:
            counts = open_loop(flows, rate, plan.seconds)
        elapsed = time.perf_counter() - start
        if pid is None:
            return counts, None, elapsed
        return counts, cpu_seconds(pid) - used, elapsed

    def _make(self) -> Iterator[tuple[Sender, Receiver]]:
        scenario, forwarder, between = self._scenario, self._forwarder, self._ends
        header = channel_header(scenario.size) if forwarder.is_turn else b""
        segments = MIXED_BURST if self._bursts else scenario.segments
        timed = scenario.rate is not None

        def burst(prefix: bytes) -> Burst:
            return Burst(scenario.size, segments, mixed=self._bursts, prefix=prefix)

        def receiver(sock: socket.socket, prefix: bytes) -> Receiver:
            return Receiver(sock, gro=scenario.receiver_gro, timed=timed, prefix=len(prefix))

        yield (
            Sender(between.a, forwarder.to_b, burst(header), between.ids_b),
            receiver(between.b, b""),
        )
        if scenario.both_ways:
            yield (
                Sender(between.b, forwarder.to_a, burst(b""), between.ids_a),
                receiver(between.a, header),
            )
