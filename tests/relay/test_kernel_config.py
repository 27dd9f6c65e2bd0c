"""The environment variables of the kernel path."""

from pathlib import Path

import pytest

from relay.config import parse_config
from relay.kernel.config import KernelConfig, KernelConfigError, kernel_config


def test_nothing_set_is_nothing_wanted() -> None:
    assert kernel_config({"HOME": "/root"}) is None
    assert kernel_config({"QUICPIPE_XDP_IFACE": " , "}) is None


def test_an_interface_is_enough() -> None:
    assert kernel_config({"QUICPIPE_XDP_IFACE": "eth0"}) == KernelConfig(("eth0",))


def test_everything() -> None:
    config = kernel_config(
        {
            "QUICPIPE_XDP_IFACE": "eth0, eth1.5,eth0",
            "QUICPIPE_XDP_MODE": "generic",
            "QUICPIPE_XDP_REQUIRE": "1",
            "QUICPIPE_XDP_CONNECTION_IDS": "1024",
            "QUICPIPE_XDP_MAX_PAYLOAD": "9000",
            "QUICPIPE_XDP_PACKETS_PER_S": "1000",
            "QUICPIPE_XDP_BYTES_PER_S": "1000000",
        }
    )
    assert config == KernelConfig(("eth0", "eth1.5"), "generic", True, 1024, 9000, 1000, 1_000_000)
    assert config.folder == Path("/sys/fs/bpf/quicpipe/eth0+eth1_5")
    assert config.owners == 256


def test_a_folder_of_ones_own() -> None:
    config = kernel_config({"QUICPIPE_XDP_IFACE": "lo", "QUICPIPE_XDP_PINS": "/sys/fs/bpf/x"})
    assert config is not None
    assert config.folder == Path("/sys/fs/bpf/x")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MODE", "fast", "auto, native, generic"),
        ("REQUIRE", "yes", "expected 0 or 1"),
        ("CONNECTION_IDS", "1", "a number 64 to"),
        ("CONNECTION_IDS", "many", "a number 64 to"),
        ("CONNECTION_IDS", "9" * 30, "a number 64 to"),
        ("MAX_PAYLOAD", "-1", "a number 13 to"),
        ("BYTES_PER_S", "1e6", "a number 0 to"),
        ("BYTES_PER_S", "999", "0 or at least 1000"),
        ("IFACES", "eth0", "QUICPIPE_XDP_IFACES is not known"),
        ("IFACE", ",".join(f"eth{n}" for n in range(33)), "more than 32"),
    ],
)
def test_mistakes_are_one_line(name: str, value: str, said: str) -> None:
    environment = {"QUICPIPE_XDP_IFACE": "lo", f"QUICPIPE_XDP_{name}": value}
    with pytest.raises(KernelConfigError, match=said) as mistake:
        kernel_config(environment)
    assert "\n" not in str(mistake.value)


def test_required_but_nowhere() -> None:
    with pytest.raises(KernelConfigError, match="names no interface"):
        kernel_config({"QUICPIPE_XDP_REQUIRE": "1"})


def test_a_mistake_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_config([], {"QUICPIPE_XDP_IFACE": "lo", "QUICPIPE_XDP_MODE": "x"})
    assert end.value.code == 2
    assert "QUICPIPE_XDP_MODE" in capsys.readouterr().err


def test_the_relay_is_told() -> None:
    assert parse_config([], {"QUICPIPE_XDP_IFACE": "lo"}).kernel == KernelConfig(("lo",))
    assert parse_config([], {}).kernel is None
