"""Attaching, taking over, refusing, and removing; what it says; the commands status and detach."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bpf import layout, netlink
from bpf.loader import KernelPathUnavailable
from bpf.netlink import Mode
from bpf.pins import Pins
from relay.core.path import Path as PeerPath
from relay.core.table import ConnectionIdsAdded, OwnerMoved
from relay.kernel.config import KernelConfig
from relay.kernel.path import KernelPath
from relay.wire.address import Address
from tests.bpf.scene import Leases

from .lab import Host, Lab, load_pass_program
from .processes import PATIENCE_S, command, environment

LISTENERS = [Address("127.0.0.1", 4433)]
PEER = Address("192.0.2.1", 50001)


@pytest.fixture
def host(lab: Lab) -> Host:
    """A host with `lo` and one veth interface, `eth0`."""
    host = lab.host()
    lab.wire(host, "eth0", lab.host(), "eth0")
    return host


@pytest.fixture
def config(host: Host, pins: Path) -> KernelConfig:
    return KernelConfig(("lo",), connection_ids=256, pins=pins / host.name)


@pytest.fixture
def paths() -> Iterator[list[KernelPath]]:
    """Those that were opened; what is still open is closed at the end."""
    opened: list[KernelPath] = []
    yield opened
    for path in opened:
        path.close(0.0)


def start(host: Host, config: KernelConfig, paths: list[KernelPath]) -> KernelPath:
    """As the relay does it, with two registrations."""
    with host.entered():
        path = KernelPath.open(config, LISTENERS, lease_s=60.0)
        paths.append(path)
        path.begin(Leases(lease_end=time.monotonic() + 60.0))
        where = PeerPath(PEER, 0, "127.0.0.1")
        path.apply([OwnerMoved(1, where), ConnectionIdsAdded(1, (b"\x01" * 12,))])
        try:
            asyncio.run(path.attach())
        except KernelPathUnavailable:
            paths.remove(path)
            raise
    return path


def stop(path: KernelPath, paths: list[KernelPath]) -> None:
    """The relay ends; what it attached stays."""
    paths.remove(path)
    path.close(time.monotonic())


def attached(host: Host, name: str) -> netlink.Interface:
    with host.entered():
        return netlink.interface(name)


def xdp(host: Host, config: KernelConfig, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(host, "-m", "relay", "xdp", "--pins", str(config.pins), *arguments),
        env=environment(Path("/nonexistent")),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize(
    ("name", "wanted", "mode"),
    [
        ("lo", "auto", Mode.GENERIC),
        ("lo", "generic", Mode.GENERIC),
        ("eth0", "auto", Mode.NATIVE),
        ("eth0", "native", Mode.NATIVE),
        ("eth0", "generic", Mode.GENERIC),
    ],
)
def test_modes(
    host: Host, config: KernelConfig, paths: list[KernelPath], name: str, wanted: str, mode: Mode
) -> None:
    start(host, replace(config, interfaces=(name,), mode=wanted), paths)
    assert attached(host, name).mode is mode


def test_what_cannot_be_says_why(host: Host, config: KernelConfig, paths: list[KernelPath]) -> None:
    for wrong, said in (
        (replace(config, interfaces=("nope0",)), "there is no interface nope0"),
        (replace(config, mode="native"), "lo: native mode: .*not support"),
    ):
        with pytest.raises(KernelPathUnavailable, match=said) as failure:
            start(host, wrong, paths)
        assert "\n" not in str(failure.value)
        assert not attached(host, "lo").program_id
        assert config.pins is not None
        assert not config.pins.exists()


def test_pins_that_are_in_no_bpffs(config: KernelConfig, tmp_path: Path) -> None:
    with pytest.raises(KernelPathUnavailable, match="only be in a bpffs"):
        KernelPath.open(replace(config, pins=tmp_path / "pins"), LISTENERS, lease_s=60.0)


def test_one_interface_of_two_that_fails_takes_the_other_with_it(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    with pytest.raises(KernelPathUnavailable):
        start(host, replace(config, interfaces=("eth0", "lo"), mode="native"), paths)
    assert not attached(host, "eth0").program_id


def test_a_program_of_somebody_else_stays(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    program = load_pass_program()
    with host.entered():
        netlink.attach(netlink.interface("lo").index, program, Mode.GENERIC)
    os.close(program)
    before = attached(host, "lo").program_id
    with pytest.raises(KernelPathUnavailable, match=r"somebody else \(pass, id \d+\)"):
        start(host, config, paths)
    assert attached(host, "lo").program_id == before


def test_another_relay_stays(
    host: Host, config: KernelConfig, paths: list[KernelPath], pins: Path
) -> None:
    start(host, config, paths)
    before = attached(host, "lo").program_id
    with pytest.raises(KernelPathUnavailable, match="the program of another relay"):
        start(host, replace(config, pins=pins / "second"), paths)
    with pytest.raises(KernelPathUnavailable, match="another relay uses"):
        start(host, config, paths)
    assert attached(host, "lo").program_id == before


def test_too_many_ports(config: KernelConfig) -> None:
    listeners = [Address("127.0.0.1", port) for port in range(1, 6)]
    with pytest.raises(KernelPathUnavailable, match="at most 4"):
        KernelPath.open(config, listeners, lease_s=60.0)


def test_the_next_relay_replaces_the_program_and_knows_the_registrations(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    stop(start(host, config, paths), paths)
    first = attached(host, "lo").program_id
    assert first
    path = start(host, config, paths)
    assert attached(host, "lo").program_id not in (0, first)
    (record,) = path.records
    assert record.path == PeerPath(PEER, 0, "127.0.0.1")
    assert record.connection_ids == {b"\x01" * 12}


def test_registrations_go_over_to_maps_of_another_size(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    stop(start(host, config, paths), paths)
    path = start(host, replace(config, connection_ids=1024), paths)
    assert path.maps.sizes.cids == 1024
    assert [record.path.remote for record in path.records] == [PEER]
    assert path.maps.owner_by_cid.get(b"\x01" * 12) is not None


def test_maps_of_another_layout_are_not_read(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    stop(start(host, config, paths), paths)
    pins = Pins(config.folder)
    pins.maps.rename(config.folder / "maps_00000000")
    path = start(host, config, paths)
    assert path.records == []
    assert not (config.folder / "maps_00000000").exists()


def test_maps_that_are_not_whole_are_made_anew(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    stop(start(host, config, paths), paths)
    (Pins(config.folder).maps / "links").unlink()
    assert start(host, config, paths).records == []


def test_an_interface_that_takes_no_part_any_more_is_let_go(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    stop(start(host, replace(config, interfaces=("lo", "eth0")), paths), paths)
    path = start(host, config, paths)
    assert attached(host, "lo").program_id
    assert not attached(host, "eth0").program_id
    assert len(list(path.maps.links.items())) == 1


def test_changes_of_an_interface_are_followed(
    host: Host, config: KernelConfig, paths: list[KernelPath]
) -> None:
    path = start(host, replace(config, interfaces=("eth0",)), paths)
    host.ip("link", "set", "dev", "eth0", "mtu", "1400", "address", "02:00:00:00:00:99")
    host.sysctl("net.ipv4.conf.eth0.forwarding", 1)
    with host.entered():
        path.tick(0.0)
    key = attached(host, "eth0").index.to_bytes(4, sys.byteorder)
    link = layout.Link.from_buffer_copy(path.maps.links.get(key) or b"")
    assert (link.mtu, bytes(link.mac)) == (1400, bytes.fromhex("020000000099"))
    settings = layout.Config.from_buffer_copy(path.maps.relay_config.get(bytes(4)) or b"")
    assert settings.fib == 1


@pytest.mark.parametrize("how", ["detached", "gone"])
def test_an_interface_that_is_lost_is_noticed(
    host: Host,
    config: KernelConfig,
    paths: list[KernelPath],
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = start(host, replace(config, interfaces=("eth0",)), paths)
    if how == "gone":
        host.ip("link", "delete", "eth0")
    else:
        host.ip("link", "set", "dev", "eth0", "xdp", "off")
    with host.entered():
        path.tick(0.0)
        path.tick(100.0)
    assert caplog.text.count(how) == 1
    assert list(path.maps.links.items()) == []


def test_status_and_detach(host: Host, config: KernelConfig, paths: list[KernelPath]) -> None:
    path = start(host, config, paths)
    said = xdp(host, config, "status", "--seconds", "0").stdout
    for part in (
        "a relay runs",
        "lo: generic mode, MTU 65536",
        "connection IDs: 1 of 256; registrations: 1 of 64",
        "192.0.2.1:50001",
    ):
        assert part in said, said
    stop(path, paths)
    assert "no relay runs" in xdp(host, config, "status", "--seconds", "0").stdout
    assert xdp(host, config, "detach").stdout.splitlines() == [
        "lo: detached",
        f"{config.folder}: removed",
    ]
    assert not attached(host, "lo").program_id
    assert not config.folder.exists()
    gone = xdp(host, config, "status")
    assert gone.returncode == 1
    assert gone.stderr == f"quicpipe-relay xdp: {config.folder}: there is no such folder\n"


def test_detach_by_interface(host: Host, config: KernelConfig, paths: list[KernelPath]) -> None:
    stop(start(host, replace(config, interfaces=("lo", "eth0")), paths), paths)
    assert "eth0: detached" in xdp(host, config, "detach", "--interface", "eth0").stdout
    assert attached(host, "lo").program_id
    assert config.folder.exists()
    wrong = xdp(host, config, "detach", "--interface", "nope0")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "there is no interface nope0" in wrong.stderr
    assert xdp(host, config, "detach").returncode == 0


@pytest.mark.parametrize("require", ["0", "1"])
def test_the_relay_without_the_kernel(
    host: Host, config: KernelConfig, tmp_path: Path, require: str
) -> None:
    """Goes on in userspace, or refuses to run; either way with one line that says why."""
    more = {
        "QUICPIPE_XDP_IFACE": "nope0",
        "QUICPIPE_XDP_PINS": str(config.pins),
        "QUICPIPE_XDP_REQUIRE": require,
    }
    relay = subprocess.Popen(
        command(host, "-m", "relay", "--listen", "127.0.0.1:0", "--workers", "1"),
        env=environment(tmp_path, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert relay.stdout is not None
        ready = relay.stdout.readline()
    finally:
        relay.terminate()
        _, said = relay.communicate(timeout=PATIENCE_S)
    assert said.count("there is no interface nope0") == 1
    assert "Traceback" not in said
    assert ready.startswith("quicpipe-relay listening") == (require == "0")
    assert relay.returncode == (0 if require == "0" else 1)
