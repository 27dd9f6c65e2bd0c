"""The settings of the kernel path."""

from pathlib import Path

import pytest

from relay.config import parse_config
from relay.kernel.config import KernelConfig


def test_nothing_set_is_nothing_wanted() -> None:
    assert parse_config(["--open"], {"HOME": "/root"}).kernel is None
    assert parse_config(["--open"], {"QUICPIPE_XDP_IFACE": " , "}).kernel is None


def test_an_interface_is_enough() -> None:
    assert parse_config(["--open"], {"QUICPIPE_XDP_IFACE": "eth0"}).kernel == KernelConfig(
        ("eth0",)
    )
    assert parse_config(["--open", "--xdp-iface", "eth0"], {}).kernel == KernelConfig(("eth0",))


def test_everything() -> None:
    environment = {
        "QUICPIPE_XDP_IFACE": "eth0, eth1.5,eth0",
        "QUICPIPE_XDP_MODE": "generic",
        "QUICPIPE_XDP_REQUIRE": "1",
        "QUICPIPE_XDP_CONNECTION_IDS": "1024",
        "QUICPIPE_XDP_MAX_PAYLOAD": "9000",
        "QUICPIPE_XDP_PACKETS_PER_S": "1000",
        "QUICPIPE_XDP_BYTES_PER_S": "1000000",
    }
    config = parse_config(["--open"], environment).kernel
    assert config == KernelConfig(("eth0", "eth1.5"), "generic", True, 1024, 9000, 1000, 1_000_000)
    assert config.folder == Path("/sys/fs/bpf/quicpipe/eth0+eth1_5")
    assert config.owners == 256


def test_a_folder_of_ones_own() -> None:
    environment = {"QUICPIPE_XDP_IFACE": "lo", "QUICPIPE_XDP_PINS": "/sys/fs/bpf/x"}
    config = parse_config(["--open"], environment).kernel
    assert config is not None
    assert config.folder == Path("/sys/fs/bpf/x")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MODE", "fast", "auto, native, generic"),
        ("REQUIRE", "perhaps", "expected 0 or 1"),
        ("CONNECTION_IDS", "1", "a number from 64 to"),
        ("CONNECTION_IDS", "many", "a number from 64 to"),
        ("CONNECTION_IDS", "9" * 30, "a number from 64 to"),
        ("MAX_PAYLOAD", "-1", "a number of bytes from 13 to"),
        ("BYTES_PER_S", "1e6", "an amount from 1000 to"),
        ("BYTES_PER_S", "999", "0 or an amount from 1000"),
        ("IFACES", "eth0", "QUICPIPE_XDP_IFACES is not known; did you mean 'QUICPIPE_XDP_IFACE'?"),
        ("IFACE", ",".join(f"eth{n}" for n in range(33)), "there are 33; expected at most 32"),
        ("IFACE", "an interface", "'an interface' is not the name of a network interface"),
    ],
)
def test_mistakes_are_one_line(
    name: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"QUICPIPE_XDP_IFACE": "lo", f"QUICPIPE_XDP_{name}": value}
    with pytest.raises(SystemExit) as end:
        parse_config(["--open"], environment)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"QUICPIPE_XDP_{name}" in line
    assert said in line


def test_required_but_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(["--open"], {"QUICPIPE_XDP_REQUIRE": "1"})
    assert "names no interface" in capsys.readouterr().err
