"""`quicpipe doctor`, the real command, behind each kind of gateway."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.lab import Host
from tests.netns.processes import command, environment

from .nats import Nat, Udp
from .port_mapping import MINIUPNPD, MiniUpnpd, PortMapping
from .relay import Relay
from .world import HOP_S, RELAY_PORTS, World

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def relay(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """The real one, on two ports."""
    running = Relay(world, tmp_path_factory.mktemp("relay"))
    yield running
    running.close()


def doctor(device: Host, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run it to its end, on a device."""
    done = subprocess.run(
        command(device, "-m", "peers", "doctor", *options),
        env=environment(folder, HOME=str(folder)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def found(device: Host, folder: Path, world: World, relay: Relay) -> dict[str, Any]:
    """What it finds, as a program reads it."""
    where = f"{world.relay.ipv4}:{RELAY_PORTS[0]}"
    options = ("--relay", where, "--relay-fingerprint", relay.fingerprint, "--json")
    done = doctor(device, folder, *options)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["problem"] is None
    assert document["udp_passes"] is True
    return document


@pytest.mark.parametrize(
    ("nat", "hairpin", "mapping"),
    [
        (Nat.NONE, False, "independent"),
        (Nat.INDEPENDENT, True, "independent"),
        (Nat.RANDOM, False, "dependent"),
    ],
)
def test_each_nat_is_seen_for_what_it_is(
    world: World, relay: Relay, tmp_path: Path, nat: Nat, hairpin: bool, mapping: str
) -> None:
    gateway = world.gateway(nat, hairpin=hairpin)
    document = found(world.device(gateway), tmp_path, world, relay)
    ipv4 = document["ipv4"]
    assert ipv4["mapping"] == mapping
    assert ipv4["behind_nat"] is (nat is not Nat.NONE)
    assert ipv4["hairpinning"] is (None if nat is Nat.NONE else hairpin)
    if nat is not Nat.NONE:
        assert ipv4["outside"].startswith(f"{gateway.ipv4}:")
    assert ipv4["path_mtu"] == 1500
    assert ipv4["round_trip_ms"] >= 4 * HOP_S * 1000
    assert document["ipv6"]["reach"] == "no_address"
    assert document["gateway"]["pcp"] is document["gateway"]["upnp_igd"] is False


def test_a_narrow_way_shows(world: World, relay: Relay, tmp_path: Path) -> None:
    gateway = world.gateway(Nat.PORT_FILTER)
    device = world.device(gateway)
    device.ip("link", "set", "eth0", "mtu", "1400")
    assert found(device, tmp_path, world, relay)["ipv4"]["path_mtu"] == 1400


def test_a_router_that_maps_ports_is_named(world: World, relay: Relay, tmp_path: Path) -> None:
    if MINIUPNPD is None:
        pytest.skip("not installed here: miniupnpd")
    gateway = world.gateway(Nat.RANDOM)
    device = world.device(gateway)
    folder = tmp_path / "daemon"
    folder.mkdir()
    daemon = MiniUpnpd(gateway, folder, PortMapping.ALL)
    try:
        document = found(device, tmp_path, world, relay)["gateway"]
        without = doctor(device, tmp_path)
        leftover = gateway.host.run("nft", "list", "chain", "inet", "upnp", "mapped")
    finally:
        daemon.close()
    assert document["address"] == f"{gateway.inside}.1"
    assert document["pcp"] is document["nat_pmp"] is document["upnp_igd"] is True
    assert document["outside"] == gateway.ipv4
    assert without.returncode == 0
    assert "maps ports: PCP, NAT-PMP, UPnP-IGD" in without.stdout
    assert "without a relay" in without.stderr
    assert "dnat" not in leftover  # nothing was mapped


def test_a_network_that_lets_no_udp_out_is_said_in_one_line(
    world: World, relay: Relay, tmp_path: Path
) -> None:
    device = world.device(world.gateway(Nat.PORT_FILTER, udp=Udp.BLOCKED))
    where = f"{world.relay.ipv4}:{RELAY_PORTS[0]}"
    done = doctor(device, tmp_path, "--relay", where)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"quicpipe: nothing comes back from the relay {where}")
    assert "blocks UDP" in line
    assert re.search(r"^IPv4 +nothing comes back", done.stdout, re.MULTILINE)


def test_a_host_without_a_relay_is_told_apart(world: World, relay: Relay, tmp_path: Path) -> None:
    device = world.device(world.gateway(Nat.NONE))
    done = doctor(device, tmp_path, "--relay", f"{world.relay.ipv4}:9")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "nobody listens on UDP port 9" in line


def test_a_device_without_a_network_is_told_so(world: World, tmp_path: Path) -> None:
    done = doctor(world.lab.host(), tmp_path, "--relay", f"{world.relay.ipv4}:4433")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no way to the relay" in line
