"""`python -m bench.flood`: what floods do to the pipes that there are.

The relay's control process and its worker share one core, the worst place for them; the load has
the other one. The throughput of a pipe (closed loop) is measured beside honest traffic of a rate,
and beside a flood of the same rate, in turn; the ratio of each pair counts. Other programs disturb
that. So the processor time that control and worker took is measured, too: what they take for the
flood or the honest traffic alone, and what a packet of the pipe takes beside it, say how many would
pass on a core that does nothing else.

Besides: how long `/health` takes meanwhile; the longest stall of the control process's event loop,
as it says itself; and the memory of both processes before, at the worst, and after the flood.
"""

import argparse
import json
import os
import re
import secrets
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any
from urllib.request import urlopen

from bench.control import RESULTS, RunningRelay, relay
from bench.forwarders import big_socket
from bench.http3_client import Http3Client, check, registration
from bench.isolation import NotIsolated, isolate, set_segmentation
from bench.load import Burst, Receiver, Sender, closed_loop
from bench.machine import Usage, cpu_seconds, describe, is_disturbed, wait_for_calm
from bench.measure import MIXED_BURST, PATIENCE_S, WINDOW
from relay.admin.service import TICK_S
from relay.wire.connection_id import Derivation, Towards, derive

SIZE = 1_200
SECONDS = 1.0
WARM_UP_S = 0.2
ROUNDS = 5
PROBE_S = 3.0
HEALTH_INTERVAL_S = 0.03
SETTLE_S = 0.3
TRIES = 2
"""How often a disturbed round is made, at the most."""
ADMIN = "127.0.0.1:9443"
"""In a network of our own nobody else has it."""
AFTER_S = 13.0
"""Longer than an unfinished handshake lives."""

RATES = {
    "unknown": 50_000,
    "http3": 20_000,
    "initials": 5_000,
    "garbage": 5_000,
    "registrations": 500,
}
"""Datagrams a second, by flood. Of registrations, about what one core's clients can make."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of the pipe, in packets."""

    per_second: float
    """As many as got through."""
    control: float
    """Of a core, that the control process took."""
    worker: float
    others: float
    """Of one of the cores, that other programs took, at the most."""
    packets: float
    """That the worker forwarded in a second of all that was measured, warm-up and all."""

    def of_a_core(self, idle: "Shares") -> float:
        """As many as a core would forward that does nothing else.

        :param idle: what is taken while the pipe is idle.
        """
        each = max(1e-9, self.worker - idle.worker) / self.packets
        return (1.0 - self.control - idle.worker) / each


@dataclass(frozen=True, slots=True)
class Shares:
    """Of a core."""

    control: float
    worker: float


@dataclass(frozen=True, slots=True)
class Found:
    """Of one kind of flood."""

    rate: float
    """Datagrams a second that came, on average."""
    ratios: list[float]
    """Throughput beside the flood, of that beside honest traffic, round by round."""
    core_ratios: list[float]
    """The same of a core that does nothing else."""
    disturbed: int
    """Rounds in which other programs used the cores, whatever was tried."""
    honest_per_second: float
    flood_per_second: float
    idle_health_ms: list[float]
    """How long `/health` takes beside nothing: median, and the longest."""
    health_ms: list[float]
    """The same during the flood, with the pipe idle."""
    stall_ms: float
    """The longest of the control process's event loop in the last minute, as it says itself."""
    control_share: float
    """Of a core, that the control process took beside the busy pipe."""
    memory_mb: list[float]
    """Of control and worker together: before, at the worst, after."""


class Pipe:
    """One peer sends to another through the relay."""

    def __init__(self, running: RunningRelay, cores: tuple[int, int]) -> None:
        """:param cores: the relay's, and the load's."""
        self._running = running
        self.relay = running.address
        self.cores = cores
        self.beside: int | None = None
        """Another process that makes load now."""
        self.worst_memory = 0.0
        self._undo = ExitStack()
        a, b, c = (self._undo.enter_context(big_socket()) for _ in range(3))
        key = secrets.token_bytes(32)
        self._register(a, secrets.token_bytes(32), 1)
        self._register(b, key, 1000)
        self._asker, self._asker_key = c, secrets.token_bytes(32)
        ids = [derive(key, number, Derivation.BLAKE3, Towards.PEER) for number in range(1, 1001)]
        bursts = set_segmentation(False)
        burst = Burst(SIZE, MIXED_BURST if bursts else 1, mixed=bursts)
        self._flow = (Sender(a, running.address, burst, ids), Receiver(b))

    def throughput(self) -> Throughput:
        """As much as gets through."""
        before, start = self._cpu_seconds(), time.perf_counter()
        counts = closed_loop([self._flow], WINDOW, SECONDS, warm_up=WARM_UP_S)
        seconds = time.perf_counter() - start
        after = self._cpu_seconds()
        self.memory()
        control, worker, load, relay_core, load_core = (
            (now - then) / seconds for now, then in zip(after, before, strict=True)
        )
        total = counts.received + counts.before
        others = max(relay_core - control - worker, load_core - load)
        per_second = counts.received / counts.seconds
        return Throughput(per_second, control, worker, others, total / seconds)

    def _register(self, sock: socket.socket, key: bytes, number: int) -> Http3Client:
        client = Http3Client(sock, self.relay)
        body = registration(key, number)
        check(client.wait(client.request("POST", "/v1/register", body)))
        return client

    def asker(self) -> Http3Client:
        """A registered peer's connection, for `probe`."""
        client = self._register(self._asker, self._asker_key, 1)
        self._settle(client, time.perf_counter() + SETTLE_S)
        return client

    def _settle(self, client: Http3Client, until: float) -> None:
        # What is read late would make it believe in a long way to the relay.
        while (left := until - time.perf_counter()) > 0:
            select.select([self._asker], [], [], left)
            client.step()

    def probe(self, asker: Http3Client, seconds: float) -> tuple[Shares, list[float]]:
        """Ask for `/health`; nothing else is sent.

        Returns what the relay's processes took meanwhile, and milliseconds.
        """
        found = []
        self._settle(asker, time.perf_counter() + SETTLE_S)
        before, start = self._cpu_seconds(), time.perf_counter()
        while (now := time.perf_counter()) < start + seconds:
            check(asker.wait(asker.request("GET", "/health")))
            found.append((time.perf_counter() - now) * 1e3)
            self._settle(asker, now + HEALTH_INTERVAL_S)
        taken = time.perf_counter() - start
        control, worker = (
            (now - then) / taken
            for now, then in zip(self._cpu_seconds()[:2], before[:2], strict=True)
        )
        self.memory()
        return Shares(control, worker), found

    def _cpu_seconds(self) -> tuple[float, ...]:
        """Of control, worker, and all that makes the load; of both cores, whatever with."""
        load = [os.getpid()] if self.beside is None else [os.getpid(), self.beside]
        cores = Usage.now(dict.fromkeys(self.cores)).cores
        return (
            cpu_seconds(self._running.control),
            cpu_seconds(self._running.worker),
            sum(map(cpu_seconds, load)),
            *(cores[core] for core in self.cores),
        )

    def memory(self) -> float:
        """MB that control and worker have now."""
        pids = self._running.control, self._running.worker
        pages = sum(int(FilePath(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        found = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        self.worst_memory = max(self.worst_memory, found)
        return found

    def close(self) -> None:
        """Close the sockets."""
        self._undo.close()


@contextmanager
def beside(kind: str, pipe: Pipe, rate: float) -> Iterator[list[float]]:
    """Have that going on; the list has its rate afterwards."""
    host, port = pipe.relay
    command = [sys.executable, "-m", "bench.flood_side", kind, host, str(port), str(rate)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    found: list[float] = []
    try:
        if process.stdout.readline() != "begun\n":
            raise RuntimeError(f"'{kind}' did not begin")
        time.sleep(0.1)
        pipe.beside = process.pid
        yield found
        process.stdin.close()
        sent, seconds = process.stdout.readline().split()
        found.append(int(sent) / float(seconds))
    finally:
        pipe.beside = None
        process.kill()
        process.wait(10)
        process.stdout.close()


def _round(kind: str, rate: float, pipe: Pipe) -> tuple[Throughput, Throughput, float]:
    """Beside honest traffic and beside the flood, and the flood's rate; the calmest of some."""
    best: tuple[Throughput, Throughput, float] | None = None
    for attempt in range(TRIES):
        if attempt:
            wait_for_calm(pipe.cores, PATIENCE_S)
        with beside(kind, pipe, rate) as found:
            flooded = pipe.throughput()
        with beside("honest", pipe, found[0]):
            honest = pipe.throughput()
        if best is None or max(flooded.others, honest.others) < max(
            each.others for each in best[:2]
        ):
            best = honest, flooded, found[0]
        if not is_disturbed(max(each.others for each in best[:2])):
            break
    if best is None:
        raise RuntimeError("nothing was measured")
    return best


def measure(kind: str, rate: float, pipe: Pipe, rounds: int) -> Found:
    """See the module's text."""
    before = pipe.memory()
    idle_health_ms = pipe.probe(pipe.asker(), PROBE_S)[1]
    done = [_round(kind, rate, pipe) for _ in range(rounds)]
    honest, flooded, rates = zip(*done, strict=True)
    asker = pipe.asker()
    with beside("honest", pipe, statistics.median(rates)):
        honest_idle = pipe.probe(asker, PROBE_S)[0]
    with beside(kind, pipe, rate):
        flood_idle, health_ms = pipe.probe(asker, PROBE_S)
    stall_ms = _longest_stall_ms()
    time.sleep(AFTER_S)
    pairs = list(zip(flooded, honest, strict=True))
    return Found(
        rate=statistics.median(rates),
        ratios=[round(flood.per_second / plain.per_second, 3) for flood, plain in pairs],
        core_ratios=[
            round(flood.of_a_core(flood_idle) / plain.of_a_core(honest_idle), 3)
            for flood, plain in pairs
        ],
        disturbed=sum(is_disturbed(max(a.others, b.others)) for a, b in pairs),
        honest_per_second=statistics.median(each.per_second for each in honest),
        flood_per_second=statistics.median(each.per_second for each in flooded),
        idle_health_ms=_middle_and_longest(idle_health_ms),
        health_ms=_middle_and_longest(health_ms),
        stall_ms=stall_ms,
        control_share=statistics.median(each.control for each in flooded),
        memory_mb=[before, pipe.worst_memory, pipe.memory()],
    )


def _longest_stall_ms() -> float:
    time.sleep(TICK_S)  # so that it has seen what was last
    with urlopen(f"http://{ADMIN}/metrics", timeout=10) as answer:
        found = re.search(r"^\S+longest_stall_seconds (\S+)$", answer.read().decode(), re.M)
    if found is None:
        raise RuntimeError("the relay does not say how long it stalled")
    return float(found[1]) * 1e3


def _middle_and_longest(values: Sequence[float]) -> list[float]:
    return [statistics.median(values), max(values)]


_HEADER = """\
| Flood | datagrams/s | pipe, of that beside honest traffic | of a core that does nothing else | \
packets/s beside honest traffic, the flood | control, of a core | /health ms beside nothing: \
median, longest | beside the flood | longest stall, ms | MB: before, worst, \
after | disturbed rounds |
|---|---|---|---|---|---|---|---|---|---|---|"""


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The results, by kind of flood, for people."""
    return "\n".join([_HEADER, *(_row(kind, each) for kind, each in found.items())])


def _row(kind: str, found: Mapping[str, Any]) -> str:
    def ratio(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    cells = [
        kind,
        f"{found['rate']:,.0f}",
        ratio(found["ratios"]),
        ratio(found["core_ratios"]),
        f"{found['honest_per_second']:,.0f}, {found['flood_per_second']:,.0f}",
        f"{found['control_share']:.2f}",
        "{:.1f}, {:.1f}".format(*found["idle_health_ms"]),
        "{:.1f}, {:.1f}".format(*found["health_ms"]),
        f"{found['stall_ms']:.0f}",
        ", ".join(f"{each:.0f}" for each in found["memory_mb"]),
        f"{found['disturbed']} of {len(found['ratios'])}",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__)
    parser.add_argument("--kind", choices=RATES, action="append", help="default: all")
    parser.add_argument("--rate", type=float, help="datagrams a second, instead of its own")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=FilePath, default=RESULTS / "flood.json")
    options = parser.parse_args(arguments)
    try:
        relay_core, load_core = isolate()
    except NotIsolated as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    floods: dict[str, dict[str, Any]] = {}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for kind in options.kind or RATES:
        with relay(relay_core, "--admin-listen", ADMIN) as running:
            pipe = Pipe(running, (relay_core, load_core))
            each = measure(kind, options.rate or RATES[kind], pipe, options.rounds)
            pipe.close()
        floods[kind] = {name: getattr(each, name) for name in Found.__slots__}
        options.output.write_text(json.dumps({"machine": describe(), "floods": floods}, indent=1))
        print(f"measured: {kind}", file=sys.stderr, flush=True)
    print(table(floods))
    return 0


if __name__ == "__main__":
    sys.exit(main())
