"""The settings of the admin listener."""

from pathlib import Path

import pytest

from relay.admin.settings import MIN_TOKEN, AdminSettings, AdminTokenError, load_token
from relay.config import Config, parse_config
from relay.settings.check import run_check_config
from relay.wire.address import Address

TOKEN = "x" * MIN_TOKEN


def parse(*arguments: str, **variables: str) -> Config:
    return parse_config(["--listen", "127.0.0.1:0", *arguments], variables)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, **variables: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(*arguments, **variables)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_there_is_none_unless_the_operator_wants_one() -> None:
    assert not parse().admin.is_on


def test_it_may_be_said_in_each_way(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[admin]\nlisten = ["[::1]:9443", "127.0.0.1:9443"]\nmetrics = false\n')
    admin = parse("--config", str(file)).admin
    assert admin.listen == (Address("::1", 9443), Address("127.0.0.1", 9443))
    assert str(admin.listen[0]) == "[::1]:9443"
    assert not admin.metrics
    assert not admin.reads_want_token
    admin = parse(QUICPIPE_RELAY_ADMIN_LISTEN="127.0.0.1:0", QUICPIPE_RELAY_ADMIN_HOSTS="a.b").admin
    assert admin.listen == (Address("127.0.0.1", 0),)
    assert admin.hosts == ("a.b",)
    assert parse("--admin-listen", "127.0.0.1:1", "--no-admin-page").admin.page is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--admin-listen", "9443"], "expected such as 127.0.0.1:9443"),
        (["--admin-listen", "localhost:9443"], "is no IP address and port"),
        (["--admin-listen", "::1:9443"], "is no IP address and port"),
        (["--admin-listen", "127.0.0.1:65536"], "is no IP address and port"),
        (["--admin-listen", "192.0.2.1:9443"], "beyond this machine, and so it wants a token"),
        (["--admin-listen", "127.0.0.1:1", "--admin-protect-reads"], "wants a token"),
        (["--admin-hosts", "a b"], "is not the name of a host"),
        (["--admin-token", TOKEN], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_clear_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, *arguments)


def test_a_short_token_is_refused_and_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, QUICPIPE_RELAY_ADMIN_TOKEN="x" * (MIN_TOKEN - 1))
    assert "xxx" not in line
    assert parse(QUICPIPE_RELAY_ADMIN_TOKEN=TOKEN).admin.token == TOKEN


def test_two_tokens_are_one_too_many(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refused(capsys, "--admin-token-file", "x", QUICPIPE_RELAY_ADMIN_TOKEN=TOKEN)
    assert "one too many" in line


def test_beyond_loopback_reading_wants_the_token() -> None:
    arguments = ("--admin-listen", "192.0.2.1:9443")
    assert parse(*arguments, QUICPIPE_RELAY_ADMIN_TOKEN=TOKEN).admin.reads_want_token
    arguments = ("--admin-listen", "127.0.0.1:9443")
    assert not parse(*arguments, QUICPIPE_RELAY_ADMIN_TOKEN=TOKEN).admin.reads_want_token


def test_the_token_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"  {TOKEN} \nnote\n")
    assert load_token(AdminSettings(token_file=file)) == TOKEN
    assert load_token(AdminSettings(token=TOKEN)) == TOKEN
    assert load_token(AdminSettings()) is None


@pytest.mark.parametrize("content", [b"", b"short\n", b"sp ace" * 9, b"\xff" * 40, b"x" * 1025])
def test_a_file_without_a_token_is_said_and_not_quoted(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(AdminTokenError) as error:
        load_token(AdminSettings(token_file=file))
    assert str(file) in str(error.value)
    assert "short" not in str(error.value)
    with pytest.raises(SystemExit):
        run_check_config(["--listen", "127.0.0.1:0", "--admin-token-file", str(file)])
    assert "the first line is no token" in capsys.readouterr().err


def test_no_setting_shows_the_token() -> None:
    assert TOKEN not in repr(parse(QUICPIPE_RELAY_ADMIN_TOKEN=TOKEN))
