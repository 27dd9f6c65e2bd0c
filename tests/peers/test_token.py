"""Tokens at the peers' end: where they come from, to whom they are shown, and what is said when the
relay does not take them. Real processes, with a relay that wants tokens."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.errors import FileUnusable, RegistrationFailed, RelayUntrusted, UsageError
from peers.invite import Invite
from peers.link.renewal import TOKEN_INTERVAL_S
from peers.token import MAX_TOKEN, TokenFile, fixed_token, hint, parse_token
from peers.trust import RelayTrust
from relay.core.admission import TokenLimits
from relay.tokens import Secrets, new_claims
from relay.wire.connection_id import Derivation
from tests.lab.processes import RelayProcess
from tests.peers.command import Command, Result, environment, run, started
from tests.peers.relay_world import KEY, PINNED, World, scene

SECRET = "a secret of at least thirty-two bytes"
SECRETS = Secrets.parse(SECRET, "here")


def token(ttl_s: float = 600.0, **limits: int) -> str:
    return SECRETS.sign(new_claims("alice", ttl_s, TokenLimits(**limits), time.time()))


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("relay")
    (folder / "secret").write_text(SECRET)
    options = ["--token-secret-file", str(folder / "secret"), "--log-level", "debug"]
    with RelayProcess(folder, "127.0.0.1", workers=1, options=options) as process:
        yield process


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(token() + "\n")
    path.chmod(0o600)
    return path


def at(relay: RelayProcess) -> list[str]:
    return ["--relay", str(relay.address)]


def dial(relay: RelayProcess, home: Path, *more: str, **variables: str) -> Result:
    return run("dial", *at(relay), "--expires", "1s", *more, home=home, variables=variables)


@contextlib.contextmanager
def dialing(relay: RelayProcess, home: Path, file: Path) -> Iterator[tuple[Command, bytes]]:
    with started("dial", *at(relay), "--token-file", str(file), home=home) as dialer:
        yield dialer, dialer.stdout.readline()


def test_a_pipe_through_a_relay_that_wants_tokens(
    relay: RelayProcess, tmp_path: Path, file: Path
) -> None:
    with dialing(relay, tmp_path, file) as (dialer, line):
        assert token().encode()[:20] not in line
        assert b"eyJ" not in Invite.decode(line.decode()).packet
        dialer.stdin.write(b"hello")
        dialer.stdin.close()
        answer = run(
            *("accept", *at(relay)),
            home=tmp_path,
            stdin=line,
            variables={"QUICPIPE_TOKEN_FILE": str(file)},
        )
        assert (answer.code, answer.out) == (0, b"hello"), answer.err
        dialer.process.wait(30.0)


def test_where_it_may_come_from(relay: RelayProcess, tmp_path: Path, file: Path) -> None:
    text = file.read_text()
    for options, variables in (
        (["--token-file", str(file)], {}),
        ([], {"QUICPIPE_TOKEN_FILE": str(file)}),
        ([], {"QUICPIPE_TOKEN": text}),
        (["--token-file", str(file)], {"QUICPIPE_TOKEN": "nonsense"}),
    ):
        done = dial(relay, tmp_path, *options, **variables)
        assert done.code == 1
        assert "nobody answered" in done.err.splitlines()[-1], done.err
        assert "-v" not in options
        assert text.strip() not in done.err + done.out.decode()


def test_what_the_relay_does_not_take(relay: RelayProcess, tmp_path: Path) -> None:
    foreign = Secrets.parse("x" * 32, "there").sign(
        new_claims("alice", 600.0, TokenLimits(), time.time())
    )
    for text, expected in (
        ("", "the relay wants a token, which its operator gives: --token-file FILE"),
        ("nonsense", "the relay does not take our token: the token is no JWT"),
        (token(-1.0), "the relay does not take our token: the token has expired"),
        (foreign, "the relay does not take our token: the token was signed with another secret"),
    ):
        done = dial(relay, tmp_path, QUICPIPE_TOKEN=text)
        assert (done.code, done.out) == (1, b"")
        assert expected in done.complaint
        assert not text or text not in done.err


def test_other_commands_say_so_too(relay: RelayProcess, tmp_path: Path, file: Path) -> None:
    for arguments in (["accept", "--listen", "--anyone"], ["accept", "--code"], ["dial", "bob"]):
        done = run(*arguments, *at(relay), home=tmp_path)
        assert done.code == 1
        assert "the relay wants a token" in done.err.splitlines()[-1], done.err
    found = run("dial", "bob", *at(relay), "--token-file", file, home=tmp_path)
    assert "nobody" in found.complaint


def test_what_an_accepter_is_told(relay: RelayProcess, tmp_path: Path, file: Path) -> None:
    """Its token goes to no relay that only the invite names."""
    with dialing(relay, tmp_path, file) as (dialer, line):
        refused = run("accept", "--token-file", file, home=tmp_path, stdin=line)
        assert refused.code == 1
        assert "--relay HOST" in refused.complaint
        elsewhere = {"QUICPIPE_RELAY": "127.0.0.1:1", "QUICPIPE_TOKEN_FILE": str(file)}
        refused = run("accept", home=tmp_path, stdin=line, variables=elsewhere)
        assert "--relay HOST" in refused.complaint
        named = {"QUICPIPE_RELAY": str(relay.address), "QUICPIPE_TOKEN_FILE": str(file)}
        dialer.stdin.close()
        taken = run("accept", home=tmp_path, stdin=line, variables=named)
        assert taken.code == 0, taken.err


def test_the_doctor_shows_it(relay: RelayProcess, tmp_path: Path, file: Path) -> None:
    done = run("doctor", *at(relay), "--json", "--token-file", file, home=tmp_path)
    assert done.code == 0
    assert b'"127.0.0.1:' in done.out


def test_nothing_secret_is_in_the_relays_log(relay: RelayProcess, tmp_path: Path) -> None:
    text = token()
    dial(relay, tmp_path, QUICPIPE_TOKEN=text)
    (log,) = Path(relay._log).parent.glob("*.log")
    said = log.read_text()
    for secret in (SECRET, text, text.split(".")[2]):
        assert secret not in said


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        (["--token-file", "/nonexistent"], {}, "cannot read /nonexistent"),
        ([], {"QUICPIPE_TOKEN_FILE": "/"}, "cannot read /"),
        ([], {"QUICPIPE_TOKEN": "two words"}, "what is in QUICPIPE_TOKEN is no token"),
        ([], {"QUICPIPE_TOKEN": " "}, "there is no token in QUICPIPE_TOKEN"),
        (["--token-prompt"], {}, "there is no terminal to ask for the token"),
        (["--token-file", "eyJhbGciOiJIUzI1NiJ9.e30.x"], {}, "this is a token, and a command"),
        (["--token-file", "a", "--token-prompt"], {}, "not allowed with argument"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    done = run("dial", "--relay", "127.0.0.1:9", *options, home=tmp_path, variables=variables)
    assert done.code in (1, 2)
    assert expected in done.complaint
    assert "e30" not in done.complaint


def test_it_is_asked_for_on_the_terminal(relay: RelayProcess, tmp_path: Path) -> None:
    """The terminal, not standard input, which may carry the user's data."""
    text = token()
    terminal, end = os.openpty()
    # A session's leader gets the first terminal that it opens.
    script = 'exec 2<>"$0"; exec "$@" < /dev/null > /dev/null'
    command = [sys.executable, "-m", "peers", "dial", *at(relay), "--expires", "1s"]
    process = subprocess.Popen(
        ["sh", "-c", script, os.ttyname(end), *command, "--token-prompt"],
        env=environment(tmp_path),
        cwd=tmp_path,
        start_new_session=True,
    )
    said = b""
    try:
        while b"token (not shown): " not in said:
            said += os.read(terminal, 1024)
        os.write(terminal, text.encode() + b"\n")
        os.close(end)
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while chunk := os.read(terminal, 1024):
                said += chunk
    finally:
        process.wait(30.0)
        os.close(terminal)
    assert b"nobody answered" in said
    assert text.encode() not in said


def test_a_link_shows_it_with_every_request_and_registers_again_when_it_is_renewed() -> None:
    async def main() -> None:
        world = World()
        shown = ["first"]
        trust = RelayTrust(PINNED.fingerprint, token=lambda: shown[0])
        assert "first" not in repr(trust)
        link = await world.connect(trust)
        await link.register(KEY, Derivation.BLAKE3, 4)
        await link.request("GET", "/v1/address")
        await asyncio.sleep(2.5 * TOKEN_INTERVAL_S)
        requests = list(world.relay.requests)
        assert [each.authorization for each in requests] == ["Bearer first"] * len(requests)
        assert len(requests) == 2
        shown[0] = "second"
        await asyncio.sleep(1.5 * TOKEN_INTERVAL_S)
        (renewal,) = world.relay.requests[2:]
        assert renewal.authorization == "Bearer second"
        assert renewal.fields["num"] == 4
        await world.close(link)

    scene(main)


def test_an_untrusted_relay_gets_no_token() -> None:
    async def main() -> None:
        world = World()

        def token() -> str:
            raise AssertionError("shown")

        with pytest.raises(RelayUntrusted):
            await world.connect(RelayTrust("sha256:" + "0" * 64, token=token))
        assert world.relay.requests == []
        await world.close()

    scene(main)


def test_a_refused_token_says_what_to_do() -> None:
    async def main() -> None:
        world = World()
        problem = b'{"detail": "the token was revoked: ask for another one"}'
        world.relay.script = [(401, {}, problem)]
        link = await world.connect(RelayTrust(PINNED.fingerprint, token=lambda: "x"))
        with pytest.raises(RegistrationFailed, match="does not take our token: the token was rev"):
            await link.register(KEY, Derivation.BLAKE3, 4)
        await world.close(link)

    scene(main)


def test_a_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    path.write_text(" one \n")
    path.chmod(0o640)
    source = TokenFile(path)
    assert caplog.records == []
    assert source() == "one"
    path.write_text("two")
    assert source() == "two"
    path.write_text("")
    assert source() == "two"
    path.unlink()
    assert source() == "two"
    path.write_text("three")
    path.chmod(0o644)
    assert source() == "three"
    TokenFile(path)
    assert "every user of this machine can read" in caplog.text
    assert "three" not in caplog.text


def test_what_is_a_token(tmp_path: Path) -> None:
    assert parse_token("\ta.b.c\n", "x") == "a.b.c"
    assert fixed_token("a" * MAX_TOKEN, "x")() == "a" * MAX_TOKEN
    for text in ("", " ", "a b", "a\nb", "ä", "\x00", "a" * (MAX_TOKEN + 1)):
        with pytest.raises(UsageError, match="x"):
            parse_token(text, "x")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text"):
        TokenFile(tmp_path / "binary")
    with pytest.raises(FileUnusable):
        TokenFile(tmp_path)
    assert "wants a token" in hint("no", had_token=False)
