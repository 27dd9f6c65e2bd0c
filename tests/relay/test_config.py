"""The command line: what is taken, and what is said about what is not."""

import re
from pathlib import Path

import pytest

from relay.__main__ import main
from relay.config import DEFAULT_LISTEN, Config, parse_config, state_directory
from relay.core.limits import RateLimits
from relay.core.registry import RegistryLimits
from relay.forwarding.sockets import ListenRequest
from relay.forwarding.supervisor import default_workers
from relay.http3.limits import Http3Limits
from relay.limits import Limits
from relay.logs import LogFormat
from relay.wire.address import Address

HOME = {"HOME": "/home/somebody"}


def test_defaults() -> None:
    assert parse_config(["--open"], HOME) == Config(
        listen=DEFAULT_LISTEN,
        open=True,
        state_directory=Path("/home/somebody/.local/state/quicpipe"),
        workers=default_workers(),
    )
    assert [str(each.address) for each in DEFAULT_LISTEN] == ["0.0.0.0:4433", "[::]:4433"]
    assert all(each.optional for each in DEFAULT_LISTEN)
    assert Config().lease_s == RegistryLimits().lease_s


def test_everything_can_be_chosen() -> None:
    arguments = (
        "--listen 127.0.0.1:443 --listen [::1]:0 --certificate c.pem --private-key k.pem "
        "--log-format json --log-level error --workers 3 --lease 2.5 --state-directory state"
    )
    assert parse_config(arguments.split(), {}) == Config(
        listen=(
            ListenRequest(Address("127.0.0.1", 443)),
            ListenRequest(Address("::1", 0)),
        ),
        certificate=Path("c.pem"),
        private_key=Path("k.pem"),
        state_directory=Path("state"),
        log_format=LogFormat.JSON,
        log_level="error",
        workers=3,
        lease_s=2.5,
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[2001:DB8:0::1]:1", Address("2001:db8::1", 1)),
        ("[::ffff:192.0.2.1]:1", Address("192.0.2.1", 1)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
    ],
)
def test_listen_addresses_are_canonical(text: str, address: Address) -> None:
    assert parse_config(["--listen", text, "--open"], {}).listen == (ListenRequest(address),)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--listen 127.0.0.1", "'127.0.0.1' has no port; expected IP:PORT such as"),
        ("--listen 4433", "has no port"),
        ("--listen 127.0.0.1:", "has no port"),
        ("--listen 127.0.0.1:x", "the port is not a number from 0 to 65535"),
        ("--listen 127.0.0.1:-1", "the port is not a number from 0 to 65535"),
        ("--listen 127.0.0.1:٣", "the port is not a number from 0 to 65535"),
        ("--listen 127.0.0.1:65536", "the port is not a number from 0 to 65535"),
        ("--listen 127.0.0.1:" + "9" * 5000, "the port is not a number from 0 to 65535"),
        ("--listen :4433", "'' is no IP address"),
        ("--listen localhost:4433", "names are not looked up here"),
        ("--listen 300.0.0.1:4433", "is no IP address"),
        ("--listen ::1:4433", "stand in brackets, as in [::1]:4433"),
        ("--listen [127.0.0.1]:4433", "and no others, stand in brackets"),
        ("--listen [::1]", "'[::1]' has no port"),
        ("--certificate c.pem", "belong together"),
        ("--private-key k.pem", "belong together"),
        ("--workers 0", "'0' is not a number from 1 to 64"),
        ("--workers 65", "is not a number from 1 to 64"),
        ("--workers two", "is not a number"),
        ("--lease 0", "'0' is not a number of seconds from 1 to 86400"),
        ("--lease nan", "is not a number of seconds"),
        ("--lease long", "is not a number of seconds"),
        ("--log-format xml", "'xml' is not one of text, json"),
        ("--log-level loud", "'loud' is not one of debug, info"),
        ("--log json", "unrecognized arguments"),
        ("127.0.0.1:4433", "unrecognized arguments"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_config(arguments.split(), {})
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert expected in said
    (line,) = said.splitlines()
    assert line.startswith("quicpipe-relay: error: ")


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_config(["--help"], {})
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert "--listen 127.0.0.1:0" in said
    assert "SIGUSR1" in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"quicpipe-relay (\d+\.\d+\.\d+|\(not installed\))\n", said)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", **HOME}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/state", **HOME}, "/state/quicpipe"),
        ({"STATE_DIRECTORY": "", **HOME}, "/home/somebody/.local/state/quicpipe"),
        ({"XDG_STATE_HOME": "", **HOME}, "/home/somebody/.local/state/quicpipe"),
    ],
)
def test_where_state_is_kept(environment: dict[str, str], expected: str) -> None:
    assert state_directory(environment) == Path(expected)


def test_without_a_home_there_is_no_state() -> None:
    assert state_directory({}) is None


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--listen 192.0.2.1:4433",
        "--listen 127.0.0.1:4433 --listen 192.0.2.1:4433",
        "--listen [::]:4433",
        "--no-open",
    ],
)
def test_beyond_loopback_it_does_not_start_open(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_config(arguments.split(), {})
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("quicpipe-relay: error: token-secret-file: is needed")
    assert "--new-secret" in line
    assert "--open" in line
    assert parse_config([*arguments.replace("--no-open", "").split(), "--open"], {}).open
    secret = parse_config([*arguments.split(), "--token-secret-file", "s"], {})
    assert secret.token_secret_file == Path("s")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:4433", "[::1]:4433"])
def test_on_loopback_it_may(listen: str) -> None:
    assert not parse_config(["--listen", listen], {}).open


def test_the_secret_comes_from_the_environment_and_is_not_shown() -> None:
    config = parse_config([], {"QUICPIPE_RELAY_TOKEN_SECRET": "s3cr3t" * 8})
    assert config.token_secret == "s3cr3t" * 8
    assert "s3cr3t" not in repr(config)


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ("--token-secret s", {}, "unrecognized arguments"),
        ("--open --token-secret-file s", {}, "--open: and a token secret contradict each other"),
        ("--token-secret-file s", {"QUICPIPE_RELAY_TOKEN_SECRET": "t"}, "are one too many"),
        ("--open --revoked-file r", {}, "--revoked-file: is of no use without"),
        ("--open --limits-body 4097", {}, "is not an amount from 256 to 4096"),
        ("--open --limits-bytes-per-s 999", {}, "is not 0 or a rate from 1000"),
        ("--open --limits-registrations 0", {}, "'0' is not a number from 1"),
        ("--open --limits-half-open 3", {}, "is more than half-open"),
    ],
)
def test_access_that_makes_no_sense(
    arguments: str,
    environment: dict[str, str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_config(arguments.split(), environment)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_limits_have_the_defaults_of_the_parts_that_keep_them() -> None:
    limits = Limits()
    assert limits.registry(180.0) == RegistryLimits()
    assert limits.http3() == Http3Limits()
    assert limits.source_rate() == RateLimits()
