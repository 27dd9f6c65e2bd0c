"""What the command says of paths, and which ones it may be told to take."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.network import SystemNetwork
from tests.lab.processes import RelayProcess
from tests.peers.command import finish_both, run, started

CONTENT = b"through whichever path" * 1000


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path_factory.mktemp("relay"), "127.0.0.1", workers=1) as process:
        yield process


def messages(relay: RelayProcess, home: Path, *options: str) -> tuple[str, str]:
    """What dialer and accepter say on standard error, while the content goes over."""
    invite = home / "invite.json"
    at = ["--relay", str(relay.address), "--invite", str(invite)]
    with (
        started("dial", "-v", *at, *options, home=home) as dialer,
        started("accept", "-v", "--invite", str(invite), *options, home=home) as accepter,
    ):
        sent, received = finish_both(dialer, accepter, CONTENT)
    assert sent.code == received.code == 0, sent.err + received.err
    assert received.out == CONTENT
    return sent.err, received.err


def test_on_the_relay_only_no_path_but_its_own_is_named(
    relay: RelayProcess, tmp_path: Path
) -> None:
    for said in messages(relay, tmp_path, "--relay-only"):
        assert "quicpipe: path: by the relay (" in said
        assert "direct to" not in said
        assert "probes: 0 sent, 0 received" in said


@pytest.mark.skipif(
    not SystemNetwork().interfaces(), reason="this machine has no address but its loopback ones"
)
def test_directly_only_says_which_way_and_why(relay: RelayProcess, tmp_path: Path) -> None:
    """Over an address of this machine that is not a loopback one."""
    for said in messages(relay, tmp_path, "--direct-only"):
        assert "quicpipe: path: direct to " in said
        assert "proved both ways" in said
        changes = [line for line in said.splitlines() if line.startswith("quicpipe: path: direct")]
        assert all(line.endswith(")") for line in changes), "said twice, in two ways"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--relay-only", "--direct-only"], "not allowed with argument"),
        (["--original", "--direct-only"], "the original knows no direct path"),
    ],
)
@pytest.mark.parametrize("command", ["dial", "accept"])
def test_options_that_exclude_each_other(
    tmp_path: Path, command: str, options: list[str], complaint: str
) -> None:
    result = run(command, "--relay", "relay.example", *options, home=tmp_path)
    assert result.code == 2
    assert complaint in result.complaint
