"""What the kernel path costs: `python -m bench.kernel`, as root, in namespaces of its own.

Nanoseconds per packet, cache-hot, by BPF_PROG_TEST_RUN, beside what an empty program takes in the
same harness. And packets per second over `lo`: generic mode, one core, 100 bytes, no segmentation,
against the same load sent directly with no relay at all.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpf import layout, netlink
from bpf.pins import Pins
from bpf.syscall import run_on_frame
from relay.core.path import Path as PeerPath
from relay.core.table import ConnectionIdsAdded, OwnerMoved
from relay.kernel.config import KernelConfig
from relay.kernel.forwarder import Rate
from relay.kernel.path import KernelPath
from relay.wire.address import Address
from tests.bpf.frames import OWN_MAC, Frame
from tests.bpf.lab import KernelUnderTest, private_bpffs
from tests.bpf.scene import PORT, RECEIVER, RELAYS, REST, SENDER, SENDERS, Leases, Scene
from tests.netns.lab import Host, Lab, load_pass_program

XDP_PASS, XDP_TX = 2, 3
HIT_REPEATS, OTHER_REPEATS = 250, 2000
"""Each hit takes one from the TTL of the one frame."""
RUNS = 400
OWNERS, IDS_EACH = 10_000, 10
LOAD = Path(__file__).with_name("kernel_load.c")
NO_LIMIT = Rate(packets_per_s=1e9, bytes_per_s=1e12, burst_s=10.0)
"""A bucket that is charged and never empty."""
NEIGHBOUR_MAC = bytes.fromhex("020000000077")


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds per packet over many runs."""

    name: str
    median: float
    least: int


def cost(name: str, program: int, frame: bytes, action: int, repeat: int, ingress: int = 0) -> Cost:
    """Time one frame; each run must end as it should."""
    times = []
    for _ in range(RUNS):
        run = run_on_frame(program, frame, repeat, ingress)
        if run.action != action:
            raise RuntimeError(f"{name}: the program returned {run.action}, not {action}")
        times.append(run.duration_ns)
    return Cost(name, statistics.median(times), min(times))


def point_back(scene: Scene, family: int) -> None:
    """Let the receiver be the relay's own address, so that each run finds the same frame."""
    path = scene.entry(RECEIVER[family]).path
    relay, sender = RELAYS[family], SENDERS[family]
    path.remote[:], path.local[:] = layout.pack_ip(relay.host), layout.pack_ip(sender.host)
    path.remote_port[:] = layout.pack_port(relay.port)
    path.local_port[:] = layout.pack_port(sender.port)


def costs(kernel: KernelUnderTest) -> Iterator[Cost]:
    """All but the routes of the kernel, which need a network."""
    empty = load_pass_program()
    yield cost("an empty program", empty, bytes(100), XDP_PASS, OTHER_REPEATS)
    os.close(empty)
    for family in (4, 6):
        for name, rate in (("", Rate()), (", token buckets", NO_LIMIT)):
            for owner in (SENDER[family], RECEIVER[family]):
                kernel.maps.owners[owner].generation = 0  # so that it is new, with the rate
            scene = Scene(kernel, rate)
            point_back(scene, family)
            for owner in (SENDER[family], RECEIVER[family]):
                scene.learn_hop(owner, OWN_MAC)
            frame = scene.frame(family, from_mac=OWN_MAC, ttl=255).build()
            title = f"IPv{family}: hit, learned hop{name}"
            yield cost(title, kernel.program, frame, XDP_TX, HIT_REPEATS)
        others: dict[str, Frame] = {
            "not ours": scene.frame(family, destination=(RELAYS[family].host, 53)),
            "long header": scene.frame(family, b"\xc0" + REST),
            "unknown CID": scene.frame(family, b"\x40" + bytes(12) + REST),
        }
        for name, other in others.items():
            built = other.build()
            yield cost(f"IPv{family}: {name}", kernel.program, built, XDP_PASS, OTHER_REPEATS)


def fib_costs(kernel: KernelUnderTest, host: Host) -> Iterator[Cost]:
    """With routes of the kernel: the relay's address stands for a neighbour's."""
    host.sysctl("net.ipv4.ip_forward", 1)
    host.sysctl("net.ipv6.conf.all.forwarding", 1)
    with host.entered():
        link = netlink.interface("eth0")
        for family in (4, 6):
            scene = Scene(kernel)
            kernel.configure(PORT, fib=3)
            kernel.link(link.index, NEIGHBOUR_MAC)
            point_back(scene, family)
            relay = RELAYS[family].host
            host.ip("route", "add", relay, "dev", "eth0")
            neighbour = ("lladdr", NEIGHBOUR_MAC.hex(":"), "dev", "eth0", "nud", "permanent")
            host.ip("neighbour", "add", relay, *neighbour)
            sent = scene.frame(family, from_mac=link.mac, to_mac=NEIGHBOUR_MAC, ttl=255)
            frame = sent.build()
            name = f"IPv{family}: hit, route of the kernel"
            yield cost(name, kernel.program, frame, XDP_TX, HIT_REPEATS, link.index)


@dataclass
class Loopback:
    """A relay on `lo` whose 100,000 connection IDs lead to one socket, by 10,000 owners."""

    host: Host
    path: KernelPath
    folder: Path

    def __post_init__(self) -> None:
        sender, receiver = Address("127.0.0.1", 50001), Address("127.0.0.1", 50002)
        self.path.begin(Leases(lease_end=time.monotonic() + 3600.0))
        with self.host.entered():
            asyncio.run(self.path.attach())
        ids: list[bytes] = []
        for owner in range(OWNERS + 1):
            where = PeerPath(receiver if owner else sender, 0, "127.0.0.1")
            own = tuple(bytes([number]) + os.urandom(11) for number in range(IDS_EACH))
            self.path.apply([OwnerMoved(owner, where), ConnectionIdsAdded(owner, own)])
            ids += own if owner else ()
        (self.folder / "one").write_bytes(ids[0])
        (self.folder / "all").write_bytes(b"".join(ids))

    def rate(self, port: int, ids: str, seconds: float) -> float:
        """Packets per second that arrive."""
        hops = [owner.hop for owner in self.path.maps.owners[: OWNERS + 1]]
        for hop in hops:
            hop.ifindex, hop.mtu, hop.seen_ns = 1, 65536, time.monotonic_ns()
        ports = (str(port), "50001", "50002")
        load = ("taskset", "-c", "1", str(self.folder / "load"), *ports, str(seconds))
        arrived, taken = self.host.run(*load, str(self.folder / ids)).split()
        return int(arrived) / float(taken)


@contextmanager
def loopback(host: Host, pins: Path) -> Iterator[Loopback]:
    config = KernelConfig(("lo",), mode="generic", pins=pins)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["cc", "-O2", "-o", str(folder / "load"), str(LOAD)], check=True)
        relay = Address("127.0.0.1", PORT)
        path = KernelPath.open(config, [relay], lease_s=3600.0)
        userspace = host.udp(*relay)
        try:
            yield Loopback(host, path, folder)
        finally:
            userspace.close()
            with host.entered():
                path.abandon()


def measure_loopback(
    bench: Loopback, rounds: int, seconds: float, say: Callable[[str], None]
) -> None:
    """Directly, with one connection ID, and with 100,000 in turn."""
    kinds = {"directly": (50002, "one"), "1 CID": (PORT, "one"), "100,000 CIDs": (PORT, "all")}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (port, ids) in kinds.items():
            rates[name].append(bench.rate(port, ids, seconds))
    for name, found in rates.items():
        share = statistics.median(
            rate / direct for rate, direct in zip(found, rates["directly"], strict=True)
        )
        span = f"{min(found):,.0f} to {max(found):,.0f}"
        say(f"{name:<14}{statistics.median(found):>12,.0f} packets/s ({span}), {share:.2f} of it")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    lab = Lab()
    try:
        with private_bpffs() as folder:
            kernel = KernelUnderTest(Pins(folder / "costs"))
            router, neighbour = lab.host(), lab.host()
            lab.wire(router, "eth0", neighbour, "eth0")
            router.ip("address", "add", "10.0.0.1/24", "dev", "eth0")
            neighbour.run("ethtool", "-K", "eth0", "gro", "on")
            router.run("ethtool", "-K", "eth0", "gro", "on")
            for each in (*costs(kernel), *fib_costs(kernel, router)):
                print(f"{each.name:<42}{each.median:>6.0f} ns (least {each.least})")
            kernel.close()
            with loopback(lab.host(), folder / "loopback") as bench:
                measure_loopback(bench, options.rounds, options.seconds, print)
    finally:
        lab.close()


if __name__ == "__main__":
    main()
