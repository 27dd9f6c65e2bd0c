"""The command line: help, mistakes, keys and identities. No relay is needed for any of it."""

import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from peers import keys
from peers.cli.options import Options, duration
from peers.cli.session import chosen_fingerprint
from peers.errors import UsageError
from peers.identity import Identity
from peers.invite import AuthKind, Invite
from peers.relay_name import RelayName
from tests.peers.command import TIMEOUT_S, Result, environment, run, started

HEX = "ab" * 32
PACKET = (b"\xc3\x00\x00\x00\x01\x0c" + bytes(range(12)) + b"\x0c" + bytes(range(12))).ljust(1200)
INVITE = Invite(
    packet=PACKET,
    relay=RelayName("127.0.0.1", 9),
    fingerprint="sha256:" + HEX,
    expires=int(time.time()) + 3600,
    auth=AuthKind.INVITE_KEY,
    key=bytes(range(32)),
)
PAIRED = replace(INVITE, auth=AuthKind.PAIRING_KEY, key=None)
CERTIFIED = replace(INVITE, auth=AuthKind.CERTIFICATE, key=None)
KEY_TEXT = keys.encode(bytes(range(32)))


@pytest.mark.parametrize("command", ["dial", "accept", "identity", "keygen", None])
def test_help_has_an_example(command: str | None, tmp_path: Path) -> None:
    result = run(*([command] if command else []), "--help", home=tmp_path)
    assert result.code == 0
    assert "example" in result.out.decode()
    assert f"quicpipe {command or 'dial'}" in result.out.decode()
    assert not result.err


def test_version(tmp_path: Path) -> None:
    result = run("--version", home=tmp_path)
    assert result.code == 0
    assert result.out.startswith(b"quicpipe ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["call"], "invalid choice"),
        (["dial"], "--relay HOST[:PORT], or set QUICPIPE_RELAY"),
        (["dial", "--relay"], "expected one argument"),
        (["dial", "--relay", ""], "--relay"),
        (["dial", "--relay", "https://relay.example"], "not HOST"),
        (["dial", "--relay", "relay.example:quic"], "not a port"),
        (["dial", "--relay", "::1:4433:"], "--relay"),
        (["dial", "--relay", "x", "--relay-fingerprint", "12"], "not a fingerprint"),
        (["dial", "--relay", "x", "--peer", "bob"], "'bob' stands for nobody here"),
        (["dial", "--relay", "x", "--peer", "b o b"], "not a label"),
        (["dial", "--relay", "x", "--peer", HEX], "no identity"),
        (["dial", "--relay", "x", "--pairing-key"], "--pairing-key-file FILE"),
        (["dial", "--relay", "x", "--pairing-key-file", KEY_TEXT], "command line can be seen"),
        (["dial", "--relay", "x", "--pairing-key-file", ""], "--pairing-key-file"),
        (["dial", "--relay", "x", "--pairing-key", "--peer", HEX], "not allowed with"),
        (["dial", "--relay", "x", "--original", "--peer", HEX], "--original"),
        (["dial", "--relay", "x", "--identity", "x.pem"], "no effect without --peer"),
        (["accept", "--identity", "x.pem"], "no effect without --peer"),
        (["dial", "--relay", "x", "--expires", "soon"], "90s, 10m, 1h"),
        (["dial", "--relay", "x", "--expires", "0"], "or a plain number of seconds"),
        (["dial", "--relay", "x", "--expires", "-5m"], "--expires"),
        (["dial", "--rel", "x"], "--rel"),
        (["dial", "relay.example"], "which relay?"),
        (["dial", "--relay", "x", "7", "crossword"], "'7 crossword' is not a code"),
        (["dial", "--relay", "x", "7", "crossword", "puppy"], "puppet"),
        (["dial", "--relay", "x", '"7-crossword-puppe"x'], "is not a code"),
        (["dial", "--relay", "x", "a", "b"], "unknown argument: b"),
        (["dial", "--relay", "x", "relay.example:4433"], "no code such as 7-crossword-puppet"),
        (["dial", "--relay", "x", ""], "no code such as 7-crossword-puppet"),
        (["dial", "--relay", "x", "sha256:12"], "found 2 characters"),
        (["dial", "--bogus"], "(see 'quicpipe dial --help')"),
        (["accept", "7-crossword-puppet"], "'quicpipe dial CODE'"),
        (["accept", "bob"], "unknown argument: bob"),
        ([], "which command?"),
        (["--bogus"], "unknown argument: --bogus"),
        (["accept", INVITE.encode()], "does not belong on the command line"),
        (["accept", "--invite", ""], "--invite"),
        (["accept", "--expires", "1h"], "--expires"),
        (["identity", "--bogus"], "--bogus"),
        (["keygen", "--output"], "--output"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    result = run(*arguments, home=tmp_path)
    assert result.code == 2
    assert result.complaint.startswith("quicpipe")
    assert said in result.complaint
    assert not result.out
    assert KEY_TEXT not in result.err
    assert INVITE.encode() not in result.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "there is no invite"),
        (b"\n\n", "there is no invite"),
        (b"hello\n", "not JSON"),
        (b"7-crossword-puppet\n", "a spoken code: say 'quicpipe dial'"),
        (b"\x00\xff" * 5000, "not text"),
        (b"\x00" * 100_000, "too long"),
        (b"[1]\n", "not an object"),
        (b"{}\n", "no 'packet'"),
        (INVITE.encode().encode()[:700], "truncated"),
        (INVITE.encode().replace("4", "5", 1).encode(), "damaged"),
        (INVITE.encode().replace('"v": 1', '"v": 2').encode(), "version 2"),
        (replace(INVITE, expires=1_700_000_000).encode().encode(), "expired at 2023-11-14 22:13"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("by_file", [False, True], ids=["stdin", "file"])
def test_what_is_no_invite_is_one_line_and_exit_code_1(
    content: bytes, said: str, by_file: bool, tmp_path: Path
) -> None:
    if by_file:
        (tmp_path / "invite").write_bytes(content)
        result = run("accept", "--invite", "invite", home=tmp_path)
        said = said if content.strip() else "empty"
    else:
        result = run("accept", home=tmp_path, stdin=content)
    assert result.code == 1
    assert said in result.complaint
    assert result.complaint.isprintable()


@pytest.mark.parametrize(
    ("invite", "arguments", "said"),
    [
        (PAIRED, [], "a pairing key is needed: give --pairing-key-file FILE"),
        (PAIRED, ["--peer", HEX], "the invite is for a pairing key"),
        (CERTIFIED, [], "give --peer FINGERPRINT"),
        (CERTIFIED, ["--peer", HEX], "there is no identity"),
        (CERTIFIED, ["--pairing-key"], "the invite is for certificates"),
        (INVITE, ["--peer", HEX], "the invite is for a one-time key, but an option or the"),
        (INVITE, ["--peer", HEX], "asks for certificates here"),
        (INVITE, ["--pairing-key-file", "pair.key"], "the invite is for a one-time key"),
        (INVITE, ["--original"], "leave --original away"),
        (Invite(PACKET), [], "give --original"),
        (Invite(PACKET), ["--original"], "QUICPIPE_RELAY or QHOST"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_an_invite_that_asks_for_something_else_says_which_option_is_missing(
    invite: Invite, arguments: list[str], said: str, tmp_path: Path
) -> None:
    result = run("accept", *arguments, home=tmp_path, stdin=invite.encode().encode())
    assert result.code == 2
    assert said in result.complaint


def test_an_invite_may_not_ask_for_less_than_the_environment_says(tmp_path: Path) -> None:
    result = run(
        "accept",
        home=tmp_path,
        stdin=INVITE.encode().encode(),
        variables={"QUICPIPE_PAIRING_KEY": KEY_TEXT},
    )
    assert result.code == 2
    assert "an option or the environment asks for a pairing key here" in result.complaint


def test_the_environments_key_does_not_stand_in_the_way_of_the_originals_kind(
    tmp_path: Path,
) -> None:
    variables = {"QUICPIPE_PAIRING_KEY": KEY_TEXT}
    stdin = Invite(PACKET).encode().encode()
    result = run("accept", "--original", home=tmp_path, stdin=stdin, variables=variables)
    assert result.code == 2
    assert "QUICPIPE_RELAY or QHOST" in result.complaint


def test_an_invite_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peers.cli import invite as cli_invite
    from peers.errors import FileUnusable

    monkeypatch.setattr(cli_invite, "WAIT_FOR_FILE_S", 0.2)
    with pytest.raises(FileUnusable, match="there is no file"):
        cli_invite.obtain(tmp_path / "missing")
    result = run("accept", "--invite", tmp_path, home=tmp_path)
    assert result.code == 1
    assert "Is a directory" in result.complaint


def test_an_invite_pasted_into_a_terminal_leaves_one_direction(tmp_path: Path) -> None:
    expired = replace(INVITE, expires=1_700_000_000)  # then nothing more is done
    terminal, end = os.openpty()
    try:
        with (
            os.fdopen(end, "rb") as keyboard,
            started("accept", home=tmp_path, stdin=keyboard) as accepter,
        ):
            os.write(terminal, expired.encode().encode())
            result = accepter.finish()
    finally:
        os.close(terminal)
    pasting, receiving, _ = result.err.splitlines()
    assert "paste the invite here" in pasting
    assert "receiving only: for two-way use hand the invite over with --invite FILE" in receiving


class TestPairingKeys:
    def test_keygen_prints_a_key(self, tmp_path: Path) -> None:
        result = run("keygen", home=tmp_path)
        assert result.code == 0
        assert len(keys.decode(result.out.decode())) == 32
        assert not result.err
        assert run("keygen", home=tmp_path).out != result.out

    def test_keygen_writes_a_file_once(self, tmp_path: Path) -> None:
        path = tmp_path / "pair.key"
        result = run("keygen", "--output", path, home=tmp_path)
        assert result.code == 0
        assert not result.out
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = keys.load(path)
        result = run("keygen", "--output", path, home=tmp_path)
        assert result.code == 1
        assert "exists already" in result.complaint
        assert keys.load(path) == key

    @pytest.mark.parametrize("by_environment", [False, True], ids=["option", "environment"])
    @pytest.mark.parametrize(
        ("content", "mode", "said"),
        [
            ("", 0o600, "empty"),
            ("hunter2\n", 0o600, "not a pairing key"),
            (KEY_TEXT[:-1], 0o600, "mistyped or cut"),
            (KEY_TEXT, 0o644, "can be read by others"),
        ],
    )
    def test_a_key_file_that_cannot_be_used(
        self, content: str, mode: int, said: str, by_environment: bool, tmp_path: Path
    ) -> None:
        path = tmp_path / "pair.key"
        path.write_text(content)
        path.chmod(mode)
        arguments = [] if by_environment else ["--pairing-key-file", str(path)]
        variables = {"QUICPIPE_PAIRING_KEY_FILE": str(path)} if by_environment else {}
        result = run("dial", "--relay", "x", *arguments, home=tmp_path, variables=variables)
        assert result.code == 1
        assert said in result.complaint
        assert KEY_TEXT[15:-2] not in result.err

    def test_a_mistyped_key_in_the_environment_is_not_shown(self, tmp_path: Path) -> None:
        result = run(
            "dial",
            "--relay",
            "x",
            home=tmp_path,
            variables={"QUICPIPE_PAIRING_KEY": KEY_TEXT[:-1]},
        )
        assert result.code == 1
        assert "mistyped or cut" in result.complaint
        assert KEY_TEXT[15:40] not in result.err


class TestIdentity:
    def test_it_is_made_once_and_shown_again(self, tmp_path: Path) -> None:
        first = run("identity", home=tmp_path)
        path = tmp_path / "config" / "quicpipe" / "identity.pem"
        assert first.code == 0
        assert first.out.decode() == Identity.load(path).fingerprint + "\n"
        assert f"made a new identity in {path}" in first.complaint
        second = run("identity", home=tmp_path)
        assert (second.code, second.out, second.err) == (0, first.out, "")

    def test_it_is_kept_where_one_wants_it(self, tmp_path: Path) -> None:
        result = run("identity", "--identity", "mine.pem", home=tmp_path)
        assert result.code == 0
        assert Identity.load(tmp_path / "mine.pem").fingerprint in result.out.decode()

    def test_a_file_that_is_none_is_not_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a certificate")
        path.chmod(0o600)
        result = run("identity", "--identity", path, home=tmp_path)
        assert result.code == 1
        assert "no private key" in result.complaint
        assert path.read_text() == "not a certificate"


def test_a_relay_that_is_wrong_in_the_environment_is_wrong_usage(tmp_path: Path) -> None:
    variables = {"QUICPIPE_RELAY": "https://relay.example"}
    result = run("dial", home=tmp_path, variables=variables)
    assert result.code == 2
    assert "QUICPIPE_RELAY" in result.complaint


def test_a_fingerprint_in_the_environment_is_of_the_relay_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = RelayName.parse("here.example"), RelayName.parse("there.example")
    ours, given = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
    monkeypatch.delenv("QUICPIPE_RELAY", raising=False)
    monkeypatch.setenv("QUICPIPE_RELAY_FINGERPRINT", ours.upper().replace("SHA", "sha"))
    assert chosen_fingerprint(Options(relay=here)) is None
    monkeypatch.setenv("QUICPIPE_RELAY", "here.example")
    assert chosen_fingerprint(Options()) == ours
    assert chosen_fingerprint(Options(relay=here)) == ours
    assert chosen_fingerprint(Options(relay=there)) is None
    assert chosen_fingerprint(Options(relay=here, relay_fingerprint=given)) == given
    monkeypatch.setenv("QUICPIPE_RELAY_FINGERPRINT", "rubbish")
    with pytest.raises(UsageError, match="QUICPIPE_RELAY_FINGERPRINT"):
        chosen_fingerprint(Options())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1), ("90s", 90), ("10m", 600), ("1h", 3600), ("2d", 172800), (" 1h ", 3600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("arguments", ["keygen --output", "identity --identity"])
def test_a_folder_that_is_missing_is_not_made(arguments: str, tmp_path: Path) -> None:
    result = run(*arguments.split(), "mistyped/file", home=tmp_path)
    assert result.code == 1
    assert "there is no folder mistyped; make it first, or correct the name" in result.complaint
    assert not list(tmp_path.iterdir())
    assert not result.out


@pytest.mark.parametrize(
    "arguments",
    ["accept", "dial --relay 127.0.0.1:9", "dial --relay 127.0.0.1:9 --invite i", "identity"],
)
def test_a_closed_standard_output_is_refused_before_anything_is_done(
    arguments: str, tmp_path: Path
) -> None:
    stdin = INVITE.encode().encode()
    result = run_with_closed_output(arguments, tmp_path, stdin)
    assert result.code == 1
    assert "standard output is closed" in result.complaint
    assert not list(tmp_path.iterdir()), "an identity that nobody was told of is not made"


def test_a_key_is_not_written_to_a_closed_standard_output(tmp_path: Path) -> None:
    result = run_with_closed_output("keygen", tmp_path)
    assert result.code == 1
    assert "standard output is closed" in result.complaint
    result = run_with_closed_output("keygen --output pair.key", tmp_path)
    assert result.code == 0
    assert len(keys.load(tmp_path / "pair.key")) == 32


def run_with_closed_output(arguments: str, home: Path, stdin: bytes = b"") -> Result:
    done = subprocess.run(
        ["sh", "-c", f"exec '{sys.executable}' -m peers {arguments} >&-"],
        input=stdin,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
        cwd=home,
        env=environment(home),
        start_new_session=True,
        check=False,
    )
    return Result(done.returncode, b"", done.stderr.decode())


def test_options_that_a_command_does_not_have_keep_their_default() -> None:
    from peers.cli.parser import build_parser

    options = build_parser().parse_args(["keygen"], namespace=Options())
    assert options.expires_s is None
    assert options.relay is None
    options = build_parser().parse_args(["dial"], namespace=Options())
    assert options.expires_s is None
    assert options.peers is None
    assert not options.original


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_is_shown_whatever_letters_the_terminal_knows(encoding: str, tmp_path: Path) -> None:
    result = run("dial", "--help", home=tmp_path, variables={"PYTHONIOENCODING": encoding})
    assert result.code == 0
    assert b"sha256:?" in result.out
