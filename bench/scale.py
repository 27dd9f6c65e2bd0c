"""`python -m bench.scale`: a million connection IDs; memory, and what replacing a worker costs.

This process plays the relay's control process, with its registry and its pool of workers, without
HTTP/3. Memory is the proportional set size (PSS) of all processes together: what they share counts
once. Then a worker is killed in mid-traffic. Probes through the others show whether forwarding
stops while its successor is told a million connection IDs.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path as FilePath

from bench.isolation import NotIsolated, enter_network
from bench.machine import describe
from relay.core.path import Path
from relay.core.registry import Registry, RegistryLimits
from relay.forwarding.sockets import ListenRequest, open_listeners
from relay.forwarding.supervisor import WorkerPool, WorkersFailed, default_workers
from relay.wire.address import Address
from relay.wire.connection_id import Derivation, Towards, derive
from relay.wire.registration import RegisterRequest

RESULTS = FilePath("build/bench")
HOST = "127.0.0.1"
CONNECTION_IDS = 1_000_000
IDS_PER_REGISTRATION = 10
PROBERS = 12
"""Sockets that probe: the kernel spreads them over the workers."""
PROBE_INTERVAL_S = 0.002
AFFECTED_S = 0.05
"""A probe that takes longer went through the worker that was killed."""
TURN = 100
"""Registrations in one turn of the event loop."""
PATIENCE_S = 120.0


def pss(pids: Sequence[int]) -> int:
    """Bytes of all these processes together."""
    total = 0
    for pid in pids:
        for line in FilePath(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


class Probes:
    """Packets from many sockets to one, through the relay, at a steady rate."""

    def __init__(self) -> None:
        self.key = secrets.token_bytes(32)
        self._cid = derive(self.key, 1, Derivation.BLAKE3, Towards.PEER)
        self.receiver = _socket()
        self.senders = [_socket() for _ in range(PROBERS)]
        self._delays = [0.0] * PROBERS

    def run(self, relay: tuple[str, int], control: Connection) -> None:
        """Send until `control` says something, each time: then tell it the greatest delays."""
        while True:
            due = time.perf_counter()
            self._delays = [0.0] * PROBERS
            while not control.poll():
                for index, sock in enumerate(self.senders):
                    stamp = index.to_bytes(2, "big") + time.perf_counter_ns().to_bytes(8, "big")
                    sock.sendto(b"\x40" + self._cid + stamp, relay)
                due += PROBE_INTERVAL_S
                while True:
                    self._receive()
                    left = due - time.perf_counter()
                    if left <= 0:
                        break
                    time.sleep(min(left, 0.0002))
            if control.recv() is None:
                return
            control.send(self._delays)

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                packet = self.receiver.recv(100)
                delay = time.perf_counter_ns() - int.from_bytes(packet[15:23], "big")
                index = int.from_bytes(packet[13:15], "big")
                self._delays[index] = max(self._delays[index], delay / 1e9)


async def measure(workers: int) -> dict[str, object]:
    """Fill, weigh, kill one, and watch."""
    listener = open_listeners([ListenRequest(Address(HOST, 0))], workers)[0]
    probes = Probes()
    ours, theirs = multiprocessing.Pipe()
    address = (HOST, listener.address.port)
    prober = multiprocessing.Process(target=probes.run, args=(address, theirs), daemon=True)
    prober.start()
    registry = Registry(
        RegistryLimits(
            max_registrations=CONNECTION_IDS,
            max_connection_ids=CONNECTION_IDS + PROBERS + 1,
        ),
        new_id=lambda: secrets.token_hex(16),
    )
    pool = WorkerPool([listener])
    failed: list[WorkersFailed] = []
    await pool.start(registry, receive=lambda *_: None, heard=lambda *_: None, failed=failed.append)
    try:
        _register_probes(registry, probes)
        pool.apply(registry.take_changes())
        await pool.synchronise()
        gc.collect()
        empty = pss([os.getpid(), *pool.pids])
        start = time.perf_counter()
        await _fill(registry, pool)
        await pool.synchronise()
        filled_s = time.perf_counter() - start
        gc.collect()
        full = pss([os.getpid(), *pool.pids])
        calm = _delays(ours, 1.0)
        killed_s, during = await _replace(pool, ours)
    finally:
        ours.send(None)
        prober.join(5)
        await pool.stop()
        listener.close()
    spared = [delay for delay in during if delay < AFFECTED_S]
    return {
        "workers": workers,
        "connection_ids": registry.connection_ids,
        "registrations": len(registry),
        "bytes_per_connection_id": round((full - empty) / CONNECTION_IDS, 1),
        "empty_mb": round(empty / 1e6, 1),
        "fill_s": round(filled_s, 2),
        "greatest_delay_ms_before": round(max(calm) * 1e3, 2),
        "replaced_after_s": round(killed_s, 2),
        "probing_sockets_spared": len(spared),
        "greatest_delay_ms_of_those_spared": round(max(spared, default=0.0) * 1e3, 2),
        "greatest_delay_ms_of_the_others": round(max(during) * 1e3, 1),
    }


def _register_probes(registry: Registry, probes: Probes) -> None:
    everybody = [(probes.receiver, probes.key)]
    everybody += [(sender, secrets.token_bytes(32)) for sender in probes.senders]
    for holder, (sock, key) in enumerate(everybody):
        path = Path(Address.from_sockaddr(sock.getsockname()), 0, HOST)
        registry.register(RegisterRequest(key, 1, Derivation.BLAKE3), path, -1 - holder, 0.0)


async def _fill(registry: Registry, pool: WorkerPool) -> None:
    for number in range(CONNECTION_IDS // IDS_PER_REGISTRATION):
        host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        path = Path(Address(host, 1024 + number % 60_000), 0, HOST)
        key = secrets.token_bytes(32)
        request = RegisterRequest(key, IDS_PER_REGISTRATION, Derivation.BLAKE3)
        registry.register(request, path, number, 0.0)
        if number % TURN == TURN - 1:
            pool.apply(registry.take_changes())
            await asyncio.sleep(0)
        if number % (50 * TURN) == 0:
            await pool.synchronise()
    pool.apply(registry.take_changes())


async def _replace(pool: WorkerPool, probes: Connection) -> tuple[float, list[float]]:
    before = pool.pids
    probes.send("forget what was before")
    probes.recv()
    start = time.perf_counter()
    os.kill(before[0], signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        while len(pool.pids) < len(before) or before[0] in pool.pids:  # noqa: ASYNC110  (no event)
            await asyncio.sleep(0.001)
        await pool.synchronise()
    seconds = time.perf_counter() - start
    await asyncio.sleep(0.5)
    return seconds, _delays(probes, 0.0)


def _delays(probes: Connection, seconds: float) -> list[float]:
    if seconds:
        probes.send("forget what was before")
        probes.recv()
        time.sleep(seconds)
    probes.send("tell")
    found: list[float] = probes.recv()
    return found


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    sock.setblocking(False)
    return sock


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--workers", type=int, default=max(2, default_workers()))
    parser.add_argument("--output", type=FilePath, default=RESULTS / "scale.json")
    options = parser.parse_args(arguments)
    with suppress(NotIsolated):
        enter_network()
    found = {"machine": describe(), **asyncio.run(measure(options.workers))}
    text = json.dumps(found, indent=1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
