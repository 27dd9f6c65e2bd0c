"""The program in the kernel, attached to nothing, with maps of the test's own."""

import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bpf import layout, loader
from bpf.build import DISTRIBUTION_PACKAGES
from bpf.headers import HeadersMissing, default_cache, find_headers
from bpf.pins import KernelMaps, Pins, PinSizes
from bpf.syscall import FrameRun, run_on_frame, sum_over_cpus

SIZES = PinSizes(cids=1024, owners=64, buckets=16)
LOOPBACK = 1


def skip_without_rights() -> None:
    """Skip, saying why, where no program can be loaded."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("XDP needs Linux on a 64-bit machine")
    if os.geteuid() != 0:
        pytest.skip("loading an XDP program needs root")
    if importlib.util.find_spec("bcc") is None and not (DISTRIBUTION_PACKAGES / "bcc").exists():
        pytest.skip("the distribution's bcc is not installed (python3-bpfcc)")
    try:
        find_headers(default_cache())
    except HeadersMissing as error:
        pytest.skip(str(error))


@contextmanager
def private_bpffs() -> Iterator[Path]:
    """A bpffs for this test alone."""
    with tempfile.TemporaryDirectory(prefix="quicpipe-bpf-") as folder:
        mounted = subprocess.run(
            ["mount", "-t", "bpf", "bpf", folder], capture_output=True, text=True
        )
        if mounted.returncode != 0:
            pytest.skip(f"no bpffs can be mounted here: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


class KernelUnderTest:
    """One loaded program and its maps."""

    def __init__(self, pins: Pins, sizes: PinSizes = SIZES) -> None:
        self.pins = pins
        pins.lock()
        self.maps = KernelMaps.create(pins, sizes)
        self.program = loader.build(pins, sizes)

    def configure(
        self, *ports: int, max_payload: int = 1500, fib: int = 0, hop_max_age_s: float = 30.0
    ) -> None:
        """Write the relay's configuration, and `lo` as the interface of all frames."""
        padded = (ports * layout.LISTENING_PORTS)[: layout.LISTENING_PORTS]
        config = layout.Config(max_payload=max_payload, fib=fib)
        config.hop_max_age_ns = int(hop_max_age_s * 1e9)
        for place, port in zip(config.ports, padded, strict=True):
            place[:] = layout.pack_port(port)
        self.maps.relay_config.put(bytes(4), bytes(config))

    def link(self, index: int, mac: bytes, mtu: int = 1500, native: bool = False) -> None:
        """Enlist an interface."""
        entry = layout.Link(mtu=mtu, native=native)
        entry.mac[:] = mac
        self.maps.links.put(index.to_bytes(4, sys.byteorder), bytes(entry))

    def run(self, frame: bytes, repeat: int = 1) -> FrameRun:
        """What the program does with a frame that comes in by `lo`."""
        return run_on_frame(self.program, frame, repeat)

    def counts(self) -> dict[layout.KernelOutcome, int]:
        """All counters."""
        return {outcome: self.count(outcome) for outcome in layout.KernelOutcome}

    def count(self, outcome: layout.KernelOutcome) -> int:
        """One counter."""
        values = self.maps.outcomes.get(outcome.to_bytes(4, sys.byteorder))
        assert values is not None
        return sum_over_cpus(values)

    def verdict(self, frame: bytes) -> tuple[FrameRun, layout.KernelOutcome]:
        """Run once; also the one counter that moved."""
        before = self.counts()
        result = self.run(frame)
        after = self.counts()
        (moved,) = [each for each in layout.KernelOutcome if after[each] != before[each]]
        assert after[moved] == before[moved] + 1
        return result, moved

    def close(self) -> None:
        os.close(self.program)
        self.maps.close()
        self.pins.unlock()
