"""The program in the kernel, kept attached to `lo`: `python -m bench.kernel_worker RELAY A B IDS`.

For the bench, in a network and a mount namespace of its own. The first three are addresses; IDS is
a file: the connection IDs of end A, then as many of end B. It says `ready` on standard output, and
detaches when its standard input ends.
"""

import asyncio
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath

from bench.forwarders import IDS_PER_OWNER, parse_end
from bpf.loader import KernelPathUnavailable
from relay.core.path import Path
from relay.core.registry import Record
from relay.core.table import Change, ConnectionIdsAdded, OwnerMoved
from relay.kernel.config import KernelConfig
from relay.kernel.path import KernelPath
from relay.wire.address import Address
from relay.wire.connection_id import CONNECTION_ID_LENGTH

LEASE_S = 3600.0
"""Longer than any run."""
FRESHEN_S = 5.0
"""How often the ends are said to have been heard: in life their keepalives do that."""
_LOOPBACK_MTU = 65_536


class _Leases:
    """Stands in for the registry: everything lives as long as the run."""

    def __init__(self) -> None:
        self._end = time.monotonic() + LEASE_S

    def record(self, owner: int, now: float) -> Record:
        digest = owner.to_bytes(16, "big")
        nowhere = Path(Address("127.0.0.1", 1), 0, "127.0.0.1")
        return Record(owner, digest.hex(), digest, nowhere, self._end, frozenset())

    def lease_ends(self, now: float) -> Iterator[tuple[int, float]]:
        return iter(())


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    relay, a, b = map(parse_end, arguments[:3])
    data = FilePath(arguments[3]).read_bytes()
    with tempfile.TemporaryDirectory(prefix="quicpipe-bench-") as folder:
        subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
        config = KernelConfig(("lo",), mode="generic", pins=FilePath(folder) / "bench")
        try:
            path = KernelPath.open(config, [relay], LEASE_S)
            path.begin(_Leases())
            owners = _register(path, a, b, data)
            asyncio.run(path.attach())
        except KernelPathUnavailable as error:
            print(error, flush=True)
            return 1
        try:
            _freshen(path, owners)
            print("ready", flush=True)
            while not select.select([sys.stdin], [], [], FRESHEN_S)[0]:
                _freshen(path, owners)
        finally:
            path.abandon()
            subprocess.run(["umount", "-l", folder], check=True)
    return 0


def _register(path: KernelPath, a: Address, b: Address, data: bytes) -> int:
    """Returns how many owners there are."""
    changes: list[Change] = []
    half = len(data) // 2
    owner = 0
    for end, own in ((a, data[:half]), (b, data[half:])):
        step = IDS_PER_OWNER * CONNECTION_ID_LENGTH
        for first in range(0, half, step):
            some = own[first : first + step]
            ids = tuple(
                some[at : at + CONNECTION_ID_LENGTH]
                for at in range(0, len(some), CONNECTION_ID_LENGTH)
            )
            changes += [
                OwnerMoved(owner, Path(end, 0, "127.0.0.1")),
                ConnectionIdsAdded(owner, ids),
            ]
            owner += 1
    path.apply(changes)
    return owner


def _freshen(path: KernelPath, owners: int) -> None:
    now_ns = time.monotonic_ns()
    loopback = socket.if_nametoindex("lo")
    for owner in path.maps.owners[:owners]:
        owner.hop.ifindex, owner.hop.mtu, owner.hop.seen_ns = loopback, _LOOPBACK_MTU, now_ns


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
