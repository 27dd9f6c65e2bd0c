"""The relay as a process in a namespace, its kernel path on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from relay.core.path import Path as PeerPath
from relay.core.table import ConnectionIdsAdded, OwnerMoved
from relay.kernel.config import KernelConfig
from relay.kernel.path import KernelPath
from relay.wire.address import Address
from tests.bpf.scene import Leases

from .lab import Host

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
CONNECTION_IDS = 256


def command(host: Host, *arguments: str) -> list[str]:
    """To run one of the project's modules in a namespace."""
    return ["nsenter", f"--net={host.path}", sys.executable, *arguments]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """With nothing of the developer's own settings."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("QUICPIPE")}
    return {**base, "PYTHONPATH": str(PROJECT), "XDG_STATE_HOME": str(folder), **more}


class RelayProcess:
    """`python -m relay` with QUICPIPE_XDP_*."""

    def __init__(
        self,
        host: Host,
        folder: Path,
        pins: Path,
        listen: Address,
        interfaces: str,
        mode: str = "auto",
        lease_s: float = 60.0,
        options: Sequence[str] = ("--open",),
    ) -> None:
        """`options`: more of its arguments; whom it admits is among them."""
        self._environment = environment(
            folder,
            QUICPIPE_XDP_IFACE=interfaces,
            QUICPIPE_XDP_MODE=mode,
            QUICPIPE_XDP_PINS=str(pins),
            QUICPIPE_XDP_REQUIRE="1",
            QUICPIPE_XDP_CONNECTION_IDS=str(CONNECTION_IDS),
        )
        where = ["--listen", str(listen), "--lease", str(lease_s), "--workers", "1"]
        self._command = command(host, "-m", "relay", "--log-format", "json", *where, *options)
        self._log = folder / "relay.log"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("quicpipe-relay listening"), self.log()

    def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def wait(self) -> int:
        """Wait until it has ended by itself; returns its exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def stop(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.end(signal.SIGTERM)

    def log(self) -> str:
        """What it said on stderr."""
        return self._log.read_text()

    def last_counters(self) -> dict[str, int]:
        """Of its last report."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        reports = [line for line in lines if "unknown_cid" in line]
        return {name: value for name, value in reports[-1].items() if isinstance(value, int)}

    def fingerprint(self) -> str:
        """Of its certificate."""
        found = re.findall(r"sha256:[0-9a-f]{64}", self.log())
        return str(found[-1])


def leave_registrations(
    pins: Path, relay: Address, registrations: Sequence[tuple[Address, Sequence[bytes]]]
) -> None:
    """As an earlier run of the relay would have left them in pinned maps."""
    config = KernelConfig(("lo",), connection_ids=CONNECTION_IDS, pins=pins)
    path = KernelPath.open(config, [relay], lease_s=60.0)
    path.begin(Leases(lease_end=time.monotonic() + 60.0))
    for owner, (remote, cids) in enumerate(registrations, start=1):
        where = PeerPath(remote, 0, relay.host)
        path.apply([OwnerMoved(owner, where), ConnectionIdsAdded(owner, tuple(cids))])
    path.close(time.monotonic())
