"""`python -m bench.control`: what the control process does beside the forwarding.

- `GET /health` while idle and while the worker forwards as much as it can, with control and worker
  on one core: the worst place for it.
- Cold registrations: a full handshake each, one request, and an end; their rate, and the processor
  time of the control process for each.
- A million connection IDs: memory of all processes, and what a worker's replacement costs.
"""

import argparse
import json
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath

from bench.forwarders import big_socket
from bench.http3_client import Http3Client, RequestFailed, check, registration
from bench.isolation import NotIsolated, isolate, set_segmentation
from bench.load import BATCH, Burst, Receiver, Sender
from bench.machine import cpu_seconds, describe
from bench.measure import MIXED_BURST, WINDOW
from relay.wire.connection_id import Derivation, Towards, derive

RESULTS = FilePath("build/bench")
HEALTH_REQUESTS = 300
HEALTH_INTERVAL_S = 0.01
REGISTRATIONS = 300
CONNECTION_IDS = 10
AT_ONCE = 4
"""Clients that register at the same time."""

_ROOT = FilePath(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class RunningRelay:
    """The whole relay, with one worker."""

    address: tuple[str, int]
    control: int
    """Process number."""
    worker: int


@contextmanager
def relay(core: int, *options: str) -> Iterator[RunningRelay]:
    """Start one on loopback, bound to a core; stop it at the end.

    :param options: more of its arguments.
    :raises RequestFailed: it does not come up.
    """
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay", "--listen", "127.0.0.1:0", "--workers", "1", *options],
            cwd=_ROOT,
            env=os.environ | {"HOME": home, "STATE_DIRECTORY": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            os.sched_setaffinity(process.pid, {core})
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"listening on (127\.0\.0\.1):(\d+)", line)
            if found is None:
                raise RequestFailed("the relay did not start")
            children = FilePath(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            worker = int(children.split()[0])
            os.sched_setaffinity(worker, {core})
            yield RunningRelay((found[1], int(found[2])), process.pid, worker)
        finally:
            process.terminate()
            process.wait(10)
            if process.stdout:
                process.stdout.close()


def measure_health(running: RunningRelay) -> dict[str, dict[str, float]]:
    """Milliseconds from request to answer, idle and under load."""
    with ExitStack() as undo:
        a, b, c = (undo.enter_context(big_socket()) for _ in range(3))
        key = secrets.token_bytes(32)
        for sock, own_key in ((a, secrets.token_bytes(32)), (b, key), (c, secrets.token_bytes(32))):
            client = Http3Client(sock, running.address)
            body = registration(own_key, 1000 if sock is b else 1)
            check(client.wait(client.request("POST", "/v1/register", body)))
        ids = [derive(key, number, Derivation.BLAKE3, Towards.PEER) for number in range(1, 1001)]
        bursts = set_segmentation(False)
        burst = Burst(100, MIXED_BURST if bursts else 1, mixed=bursts)
        load = _Load(Sender(a, running.address, burst, ids), Receiver(b))
        health = client  # a registered peer's: of strangers a worker takes less
        check(health.wait(health.request("GET", "/health")))
        idle = _ask(health, None)
        load.start()
        loaded = _ask(health, load)
        per_second = load.received / (time.perf_counter() - load.since)
        set_segmentation(True)
    return {
        "idle": _quantiles(idle),
        "under load": _quantiles(loaded) | {"forwarded_per_second": per_second},
    }


class _Load:
    def __init__(self, sender: Sender, receiver: Receiver) -> None:
        self._sender, self._receiver = sender, receiver
        self._on_way = 0
        self._last = 0.0
        self.received = 0
        self.since = 0.0

    def start(self) -> None:
        self.received, self.since = 0, time.perf_counter()

    def step(self) -> None:
        for _ in range(4):
            arrived = self._receiver.receive()
            now = time.perf_counter()
            if arrived:
                self._last = now
            elif now - self._last > 0.05:
                self._on_way = 0
            self.received += arrived
            self._on_way = max(0, self._on_way - arrived)
            if self._on_way < WINDOW:
                self._on_way += self._sender.send(max(1, BATCH // self._sender.segments))


def _ask(health: Http3Client, load: _Load | None) -> list[float]:
    delays = []
    for _ in range(HEALTH_REQUESTS):
        due = time.perf_counter() + HEALTH_INTERVAL_S
        start = time.perf_counter()
        request = health.request("GET", "/health")
        check(health.wait(request, load.step if load else None))
        delays.append((time.perf_counter() - start) * 1e3)
        while time.perf_counter() < due:
            if load:
                load.step()
            else:
                time.sleep(0.001)
            health.step()
    return delays


def measure_registrations(running: RunningRelay) -> dict[str, float]:
    """Cold registrations: how many a second, and what each costs the relay's processes."""
    before = cpu_seconds(running.control)
    start = time.perf_counter()
    done = 0
    active: list[tuple[Http3Client, int, socket.socket]] = []
    started = 0
    while done < REGISTRATIONS:
        while len(active) < AT_ONCE and started < REGISTRATIONS:
            active.append(_begin(running, started))
            started += 1
        for entry in tuple(active):
            client, request, sock = entry
            client.step()
            answer = client.answer(request)
            if answer is not None:
                check(answer)
                client.close()
                sock.close()
                active.remove(entry)
                done += 1
        if time.perf_counter() - start > 60:
            raise RequestFailed("the registrations take too long")
    seconds = time.perf_counter() - start
    cpu = (cpu_seconds(running.control) - before) / REGISTRATIONS
    return {
        "per_second": REGISTRATIONS / seconds,
        "control_cpu_ms": cpu * 1e3,
        "per_second_of_a_core": 1 / cpu if cpu else 0.0,
    }


def _begin(running: RunningRelay, number: int) -> tuple[Http3Client, int, socket.socket]:
    # Each from an address of its own: the relay limits how often one may ask.
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((f"127.1.{number // 200}.{number % 200 + 1}", 0))
    client = Http3Client(sock, running.address)
    body = registration(secrets.token_bytes(32), CONNECTION_IDS)
    return client, client.request("POST", "/v1/register", body), sock


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(values)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    parser.add_argument("--output", type=FilePath, default=RESULTS / "control.json")
    options = parser.parse_args(arguments)
    try:
        forwarder_core, _ = isolate()
    except NotIsolated as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    found: dict[str, object] = {"machine": describe()}
    with relay(forwarder_core) as running:
        found["health"] = measure_health(running)
    # By another one: for some seconds after heavy forwarding newcomers are slowed.
    with relay(forwarder_core) as running:
        found["registrations"] = measure_registrations(running)
    text = json.dumps(found, indent=1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
