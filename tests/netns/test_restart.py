"""What happens to the packets while the relay restarts, crashes, or has too little room."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpf.pins import KernelMaps, Pins
from relay.core.path import Path as PeerPath
from relay.core.table import ConnectionIdsAdded, OwnerMoved
from relay.kernel.path import read_outcomes
from relay.wire.address import Address

from .conftest import MakeRelay
from .lab import Host, Lab
from .processes import PATIENCE_S, RelayProcess, command, environment, leave_registrations

RELAY = Address("127.0.0.1", 4433)
SENDER, RECEIVER = Address("127.0.0.1", 50001), Address("127.0.0.1", 50002)
CID = b"\x02" * 12
RATE = 50_000


@dataclass
class Scene:
    """Two peers that an earlier relay knew, and the relay that is to go on."""

    host: Host
    folder: Path
    pins: Path

    def relay(self, lease_s: float = 60.0) -> RelayProcess:
        return RelayProcess(self.host, self.folder, self.pins, RELAY, "lo", lease_s=lease_s)

    def send(self, seconds: float, rate: int = RATE) -> "subprocess.Popen[str]":
        ports = (str(each.port) for each in (RELAY, SENDER, RECEIVER))
        arguments = ["-m", "tests.netns.traffic", *ports, str(rate), str(seconds), CID.hex()]
        return subprocess.Popen(
            command(self.host, *arguments),
            env=environment(self.folder),
            stdout=subprocess.PIPE,
            text=True,
        )

    def result(self, traffic: "subprocess.Popen[str]") -> dict[str, Any]:
        said, _ = traffic.communicate(timeout=PATIENCE_S)
        result: dict[str, Any] = json.loads(said)
        return result

    def outcomes(self) -> dict[str, int]:
        maps = KernelMaps.open(Pins(self.pins))
        assert maps is not None
        counts = read_outcomes(maps)
        maps.close()
        return counts

    def lease_end_s(self) -> float:
        """When the first of the two leases ends."""
        maps = KernelMaps.open(Pins(self.pins))
        assert maps is not None
        ends = [end / 1e9 for end in maps.words("lease_end_ns") if end]
        maps.close()
        return min(ends)

    def learn_hops(self) -> None:
        """Both peers say something, so that the kernel knows the way to them."""
        for peer in (SENDER, RECEIVER):
            with self.host.udp(*peer) as opened:
                opened.sendto(b"\xc0", tuple(RELAY))


@pytest.fixture
def scene(lab: Lab, pins: Path, tmp_path: Path) -> Iterator[Scene]:
    host = lab.host()
    folder = pins / host.name
    leave_registrations(folder, RELAY, [(SENDER, [b"\x01" * 12]), (RECEIVER, [CID])])
    yield Scene(host, tmp_path, folder)
    host.run(*command(host, "-m", "relay", "xdp", "--pins", str(folder), "detach")[2:])


def test_a_restart_loses_nothing(scene: Scene) -> None:
    relay = scene.relay()
    relay.start()
    try:
        scene.learn_hops()
        before = scene.outcomes()
        traffic = scene.send(seconds=5.0)
        time.sleep(1.0)
        for _ in range(2):
            relay.end(signal.SIGTERM)
            relay.start()
        result = scene.result(traffic)
    finally:
        relay.stop()
    assert result["lost_at"] == []
    assert result["twice"] == 0
    assert scene.outcomes()["forwarded"] - before["forwarded"] == result["sent"]
    assert result["sent"] > RATE  # or it was no traffic to speak of
    # The relay after the next has them still, though no peer registered ever again.
    assert relay.last_counters()["registrations"] == 2


def test_a_hand_over_loses_nothing(scene: Scene) -> None:
    """The kernel forwards meanwhile; then the successor feeds it."""
    first, second = scene.relay(), scene.relay()
    first.start()
    try:
        scene.learn_hops()
        before = scene.outcomes()
        traffic = scene.send(seconds=4.0)
        time.sleep(0.5)
        second.start()
        assert first.wait() == 0
        result = scene.result(traffic)
    finally:
        first.stop()
        second.stop()
    assert result["lost_at"] == []
    assert result["twice"] == 0
    assert scene.outcomes()["forwarded"] - before["forwarded"] == result["sent"]
    assert second.last_counters()["registrations"] == 2


def test_after_a_crash_it_goes_on_until_the_leases_end(scene: Scene) -> None:
    relay = scene.relay(lease_s=6.0)
    relay.start()
    try:
        scene.learn_hops()
        traffic = scene.send(seconds=10.0)
        time.sleep(1.0)
        relay.end(signal.SIGKILL)
        end = scene.lease_end_s()
        result = scene.result(traffic)
    finally:
        relay.stop()
    tick_s, patience_s = 0.05, 2.0
    assert [at for at in result["lost_at"] if at < end - tick_s] == []
    assert min(result["lost_at"]) < end + patience_s  # and no longer
    assert scene.outcomes()["expired"] >= len(result["lost_at"]) > 0


def test_a_relay_that_comes_back_after_a_crash_takes_over(scene: Scene) -> None:
    relay = scene.relay()
    relay.start()
    try:
        scene.learn_hops()
        traffic = scene.send(seconds=4.0)
        time.sleep(0.5)
        relay.end(signal.SIGKILL)
        time.sleep(0.5)
        relay.start()
        result = scene.result(traffic)
    finally:
        relay.stop()
    assert result["lost_at"] == []
    assert relay.last_counters()["registrations"] == 2


def test_packets_that_only_the_kernel_sees_keep_the_senders_lease(scene: Scene) -> None:
    """But not the receiver's, who is silent: packets towards it are no sign of life."""
    relay = scene.relay(lease_s=6.0)
    relay.start()
    try:
        scene.learn_hops()
        result = scene.result(scene.send(seconds=9.0, rate=500))
    finally:
        relay.stop()
    counters = relay.last_counters()
    assert counters["registrations"] == 1
    arrived = result["sent"] - len(result["lost_at"])
    # Just before the registry ends a lease, the kernel's copy of it may have ended.
    assert counters["kernel_forwarded"] + counters["forwarded"] == arrived
    assert counters["forwarded"] < 0.1 * arrived
    # What came up when the receiver was gone was dropped by the loop, and counted there.
    assert counters["unknown_cid"] == len(result["lost_at"]) > 0


@pytest.mark.parametrize("mode", ["generic"])
def test_what_made_place_for_others_is_put_back(lab: Lab, make_relay: MakeRelay) -> None:
    """More connection IDs than the kernel keeps: nothing is lost, and what is used comes back."""
    host = lab.host()
    relay = make_relay(host, "127.0.0.1", ["lo"])
    capacity = relay.path.maps.sizes.cids
    a, b = host.udp("127.0.0.1"), host.udp("127.0.0.1")
    for owner, peer in ((1, a), (2, b)):
        relay.register(owner, peer)
        relay.greet(peer)
    cids = [number.to_bytes(12, "big") for number in range(3 * capacity)]
    relay.path.apply([ConnectionIdsAdded(2, tuple(cids))])
    used = cids[: capacity // 4]
    before = relay.counts().get("forwarded", 0)
    for turn in range(6):
        came_up = 0
        for cid in used:
            relay.send(a, b"\x40" + cid)
            came_up += relay.passed_up() == [b"\x40" + cid]
        with host.entered():
            relay.path.tick(time.monotonic())
        forwarded = relay.counts().get("forwarded", 0) - before
        before += forwarded
        assert forwarded + came_up == len(used)
        if turn == 0:
            assert came_up == len(used)  # the oldest were the first to go
    assert came_up == 0
    moved = host.udp("127.0.0.1")
    relay.path.apply([OwnerMoved(2, PeerPath(Address(*moved.getsockname()), 0, "127.0.0.1"))])
    relay.greet(moved)
    relay.send(a, b"\x40" + used[0])
    assert moved.recv(100) == b"\x40" + used[0]
