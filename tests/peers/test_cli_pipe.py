"""`quicpipe dial` and `quicpipe accept` as processes, through a relay that is one too."""

import contextlib
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from peers import keys
from peers.cli.session import _FAILED_HERE
from peers.identity import Identity
from peers.invite import Invite
from tests.lab.processes import RelayProcess
from tests.peers.command import Command, finish_both, run, started

CONTENT = bytes(range(256)) * 3 + os.urandom(1_500_000)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path_factory.mktemp("relay"), "127.0.0.1", "::1", workers=1) as process:
        yield process


@pytest.fixture
def at(relay: RelayProcess) -> list[str]:
    """The option that names the relay."""
    return ["--relay", str(relay.address)]


@contextlib.contextmanager
def joined(
    dial: list[str], accept: list[str], home: Path, content: bytes = b""
) -> Iterator[tuple[Command, Command]]:
    """`dial < content | accept`, as a shell makes it."""
    source = home / "content"
    source.write_bytes(content)
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb"))
        dialer = stack.enter_context(started("dial", *dial, home=home, stdin=file, stdout=writer))
        os.close(writer)
        accepter = stack.enter_context(started("accept", *accept, home=home, stdin=reader))
        os.close(reader)
        yield dialer, accepter


def read_invite(dialer: Command) -> str:
    line = dialer.stdout.readline().decode()
    Invite.decode(line)
    return line


def read_message(command: Command) -> bytes:
    if command.process.stderr is None:
        raise RuntimeError("its standard error is not ours")
    return command.process.stderr.readline()


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=len)
@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_a_file_goes_through_and_the_pipeline_ends_by_itself(
    relay: RelayProcess, tmp_path: Path, content: bytes, family: int
) -> None:
    option = ["--relay", str(relay.addresses[family])]
    with joined(option, [], tmp_path, content) as (dialer, accepter):
        sent, received = finish_both(dialer, accepter)
    assert received.out == content
    assert (sent.code, received.code) == (0, 0), sent.err + received.err
    assert "the invite is a secret" in sent.complaint
    assert received.err == ""


def test_both_ways_with_a_file_that_the_accepter_waits_for(at: list[str], tmp_path: Path) -> None:
    path = tmp_path / "invite.json"
    option = ["--invite", str(path)]
    with (
        started("accept", *option, home=tmp_path) as accepter,
        started("dial", *at, *option, home=tmp_path) as dialer,
    ):
        dialer.stdin.write(b"ping\n")
        dialer.stdin.flush()
        assert accepter.stdout.readline() == b"ping\n"
        assert not path.exists(), "a used invite is removed"
        accepter.stdin.write(b"pong\n")
        accepter.stdin.flush()
        assert dialer.stdout.readline() == b"pong\n"
        # One direction ends, the other goes on.
        dialer.stdin.close()
        dialer.process.stdin = None
        accepter.stdin.write(CONTENT)
        here, there = finish_both(dialer, accepter)
    assert here.out == CONTENT
    assert (here.code, there.code) == (0, 0)


def test_the_invite_file_is_private_and_replaces_an_expired_one_only(
    at: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "invite.json"
    path.write_text("precious\n")
    result = run("dial", *at, "--invite", path, home=tmp_path)
    assert result.code == 1
    assert "is not an invite: it is not overwritten" in result.err
    assert path.read_text() == "precious\n"
    path.write_text("")
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = path.read_text()
        with started("dial", *at, "--invite", path, home=tmp_path) as dialer:
            while path.read_text() == before:
                assert dialer.process.poll() is None
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            invite = Invite.decode(path.read_bytes())
            if number == signal.SIGKILL:
                result = run("dial", *at, "--invite", path, home=tmp_path)
                assert result.code == 1
                assert "still valid, until" in result.err.splitlines()[-1]
                assert Invite.decode(path.read_bytes()) == invite, "the first one's is kept"
            dialer.process.send_signal(number)
            dialer.process.wait(20)
        if number == signal.SIGKILL:
            path.write_text(replace(invite, expires=int(time.time()) - 1).encode())
    assert not path.exists(), "an invite that nobody can answer any more is removed"


def test_the_invite_can_go_into_a_named_pipe(at: list[str], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with (
        started("dial", *at, "--invite", fifo, home=tmp_path) as dialer,
        started("accept", "--invite", fifo, home=tmp_path) as accepter,
    ):
        here, there = finish_both(dialer, accepter, b"to the accepter", b"to the dialer")
    assert (here.out, there.out) == (b"to the dialer", b"to the accepter")
    assert (here.code, there.code) == (0, 0)
    assert fifo.is_fifo()


def test_whoever_only_takes_the_invite_leaves_the_dialer_waiting(
    at: list[str], tmp_path: Path
) -> None:
    # As `quicpipe dial < file | head -1 > invite` does.
    with started("dial", *at, home=tmp_path) as dialer:
        line = read_invite(dialer)
        dialer.stdout.close()
        dialer.process.stdout = None
        assert b"secret" in read_message(dialer)
        assert b"nobody reads standard output any more; waiting" in read_message(dialer)
        with started("accept", home=tmp_path) as accepter:
            accepter.stdin.write(line.encode())
            accepter.stdin.close()
            accepter.process.stdin = None
            sent, received = finish_both(dialer, accepter, CONTENT)
    assert received.out == CONTENT
    assert (sent.code, received.code) == (0, 0)


def test_on_a_terminal_lines_go_out_as_they_are_typed(at: list[str], tmp_path: Path) -> None:
    option = ["--invite", str(tmp_path / "invite.json")]
    terminal, end = os.openpty()
    try:
        with (
            os.fdopen(end, "rb", closefd=True) as keyboard,
            started("dial", *at, *option, home=tmp_path, stdin=keyboard) as dialer,
            started("accept", *option, home=tmp_path) as accepter,
        ):
            os.write(terminal, b"typed\n")
            assert accepter.stdout.readline() == b"typed\n"
            os.write(terminal, b"\x04")  # Ctrl-D at the beginning of a line: the end
            sent, received = finish_both(dialer, accepter, b"", b"answer")
    finally:
        os.close(terminal)
    assert (sent.code, received.code) == (0, 0)
    assert sent.out == b"answer"


def test_who_receives_a_file_at_a_terminal_need_not_type_the_end(
    at: list[str], tmp_path: Path
) -> None:
    option = ["--invite", str(tmp_path / "invite.json")]
    terminal, end = os.openpty()
    try:
        with (
            os.fdopen(end, "rb", closefd=True) as keyboard,
            started("dial", *at, *option, home=tmp_path) as dialer,
            started("accept", *option, home=tmp_path, stdin=keyboard) as accepter,
        ):
            sent, received = finish_both(dialer, accepter, CONTENT)
    finally:
        os.close(terminal)
    assert (sent.code, received.code) == (0, 0), sent.err + received.err
    assert received.out == CONTENT


def test_a_peer_that_is_a_program_of_its_own_is_understood(at: list[str], tmp_path: Path) -> None:
    # The example opens one bidirectional stream.
    variables = {"QHOST": at[1]}
    with started(module="example.dialer", home=tmp_path, variables=variables) as dialer:
        line = dialer.stdout.readline()
        with started("accept", home=tmp_path) as accepter:
            accepter.stdin.write(line)
            accepter.stdin.close()
            accepter.process.stdin = None
            assert accepter.stdout.readline() == b"hello\n"
            dialer.process.send_signal(signal.SIGINT)
            assert accepter.process.wait(20) == 1
            assert "application failed" in accepter.finish().complaint


class TestAuthentication:
    def test_a_pairing_key(self, at: list[str], tmp_path: Path) -> None:
        path = tmp_path / "pair.key"
        run("keygen", "--output", path, home=tmp_path)
        option = ["--pairing-key-file", str(path)]
        with joined([*at, *option], option, tmp_path, b"paired") as (dialer, accepter):
            sent, received = finish_both(dialer, accepter)
        assert (sent.code, received.code, received.out) == (0, 0, b"paired")
        assert sent.err == "", "this invite is no secret"

    def test_a_pairing_key_from_the_environment(self, at: list[str], tmp_path: Path) -> None:
        key = keys.generate()
        variables = {"QUICPIPE_PAIRING_KEY": keys.encode(key), "QUICPIPE_RELAY": at[1]}
        with started("dial", home=tmp_path, variables=variables) as dialer:
            line = read_invite(dialer)
            assert json.loads(line)["auth"] == "pairing-key"
            assert "key" not in json.loads(line)
            with started("accept", home=tmp_path, variables=variables) as accepter:
                sent, received = finish_both(dialer, accepter, b"paired", line.encode())
        assert (sent.code, received.code, received.out) == (0, 0, b"paired")

    def test_different_pairing_keys(self, at: list[str], tmp_path: Path) -> None:
        options = []
        for name in ("a.key", "b.key"):
            run("keygen", "--output", name, home=tmp_path)
            options.append(["--pairing-key-file", str(tmp_path / name)])
        with joined([*at, *options[0]], options[1], tmp_path, b"secret") as (dialer, accepter):
            sent, received = finish_both(dialer, accepter)
        assert (sent.code, received.code, received.out) == (1, 1, b"")
        assert "key" in sent.complaint
        assert "key" in received.complaint

    def test_certificates(self, at: list[str], tmp_path: Path) -> None:
        home = tmp_path / "accepter"
        home.mkdir()
        ours = run("identity", home=tmp_path).out.decode().strip()
        theirs = run("identity", home=home).out.decode().strip()
        identity = home / "config" / "quicpipe" / "identity.pem"
        accept = ["--peer", ours.upper(), "--identity", str(identity)]
        with joined([*at, "--peer", theirs, "-v"], accept, tmp_path, b"hello") as (
            dialer,
            accepter,
        ):
            sent, received = finish_both(dialer, accepter)
        assert (sent.code, received.code, received.out) == (0, 0, b"hello")
        assert theirs in sent.err

    @pytest.mark.parametrize("stranger", ["dialer", "accepter"])
    def test_a_certificate_that_is_not_pinned(
        self, at: list[str], tmp_path: Path, stranger: str
    ) -> None:
        prints = {}
        for name in ("dialer", "accepter", "other"):
            identity = Identity.generate()
            identity.save(tmp_path / f"{name}.pem")
            prints[name] = identity.fingerprint
        pinned = prints | {stranger: prints["other"]}
        dial = ["--identity", "dialer.pem", "--peer", pinned["accepter"]]
        accept = ["--identity", "accepter.pem", "--peer", pinned["dialer"]]
        with joined([*at, *dial], accept, tmp_path, b"secret") as (dialer, accepter):
            sent, received = finish_both(dialer, accepter)
        assert (sent.code, received.code, received.out) == (1, 1, b"")
        refusing, refused = (received, sent) if stranger == "dialer" else (sent, received)
        assert f"{prints[stranger]} is not pinned" in refusing.complaint
        assert "refused us" in refused.complaint

    def test_an_invite_whose_key_was_altered(self, at: list[str], tmp_path: Path) -> None:
        with started("dial", *at, home=tmp_path) as dialer:
            invite = replace(Invite.decode(read_invite(dialer)), key=os.urandom(32))
            received = run("accept", home=tmp_path, stdin=invite.encode().encode())
            sent = dialer.finish()
        assert (sent.code, received.code) == (1, 1)
        assert "key" in received.complaint
        assert "key" in sent.err.splitlines()[-1]

    def test_the_originals_kind(self, at: list[str], tmp_path: Path) -> None:
        with started("dial", *at, "--original", home=tmp_path) as dialer:
            line = dialer.stdout.readline()
            assert list(json.loads(line)) == ["packet"]
            variables = {"QHOST": at[1]}
            with started("accept", "--original", home=tmp_path, variables=variables) as accepter:
                sent, received = finish_both(dialer, accepter, CONTENT, line)
        assert received.out == CONTENT
        assert (sent.code, received.code) == (0, 0)
        assert "nobody is authenticated" in sent.complaint


class TestWhatGoesWrong:
    def test_nobody_answers_before_the_invite_expires(self, at: list[str], tmp_path: Path) -> None:
        result = run("dial", *at, "--expires", "1s", home=tmp_path)
        assert result.code == 1
        assert "expired" in result.err.splitlines()[-1]

    def test_nobody_there(self, at: list[str], tmp_path: Path) -> None:
        """A used invite, and a relay that is silent: both take 10 s, so both at once."""
        with started("dial", *at, home=tmp_path) as dialer:
            line = read_invite(dialer).encode()
            with started("accept", home=tmp_path) as accepter:
                sent, received = finish_both(dialer, accepter, b"", line)
            assert (sent.code, received.code) == (0, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            relay = f"127.0.0.1:{silent.getsockname()[1]}"
            with (
                started("dial", "--relay", relay, home=tmp_path) as dialer,
                started("accept", home=tmp_path) as accepter,
            ):
                sent, received = finish_both(dialer, accepter, b"", line)
        assert (sent.code, received.code) == (1, 1)
        assert relay in sent.complaint
        assert "no answer from the dialer; invite used or expired?" in received.complaint

    def test_another_relay_than_the_one_expected(self, at: list[str], tmp_path: Path) -> None:
        pin = ["--relay-fingerprint", "ab" * 32]
        result = run("dial", *at, *pin, home=tmp_path)
        assert result.code == 1
        assert "expected sha256:abab" in result.complaint

    def test_an_invite_to_another_relay(self, at: list[str], tmp_path: Path) -> None:
        with started("dial", *at, home=tmp_path) as dialer:
            invite = Invite.decode(read_invite(dialer))
            other = replace(invite, fingerprint="sha256:" + "cd" * 32)
            result = run("accept", home=tmp_path, stdin=other.encode().encode())
        assert result.code == 1
        assert "expected sha256:cdcd" in result.complaint

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    def test_a_signal_ends_both(
        self, at: list[str], tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        option = ["--invite", str(tmp_path / "invite.json")]
        with (
            started("dial", *at, *option, home=tmp_path) as dialer,
            started("accept", *option, home=tmp_path) as accepter,
        ):
            dialer.stdin.write(b"hello\n")
            dialer.stdin.flush()
            assert accepter.stdout.readline() == b"hello\n"
            dialer.process.send_signal(number)
            # The other one's standard input is silent, and open.
            assert accepter.process.wait(20) == 1
            assert dialer.process.wait(20) == code
            assert "interrupted" in accepter.finish().err
            assert "Traceback" not in dialer.finish().err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_a_dialer_that_waits(
        self, at: list[str], tmp_path: Path, number: signal.Signals
    ) -> None:
        with started("dial", *at, home=tmp_path) as dialer:
            read_invite(dialer)
            dialer.process.send_signal(number)
            assert dialer.process.wait(20) == 128 + number
            assert "Traceback" not in dialer.finish().err

    def test_standard_output_that_is_closed(self, at: list[str], tmp_path: Path) -> None:
        with joined(at, [], tmp_path, CONTENT * 4) as (dialer, accepter):
            assert accepter.stdout.read(10) == CONTENT[:10]
            accepter.stdout.close()
            accepter.process.stdout = None
            sent, received = finish_both(dialer, accepter)
        assert (sent.code, received.code) == (1, 1)
        assert "standard output was closed" in received.complaint
        # The accepter stops the stream, then closes the pipe: both may come at once.
        assert sent.err.splitlines()[-1] in {
            "quicpipe: the other side takes no more of what we send",
            f"quicpipe: the other peer closed the pipe, with code 1: {_FAILED_HERE}",
        }

    def test_a_full_disk_at_the_other_end(self, at: list[str], tmp_path: Path) -> None:
        with started("dial", *at, home=tmp_path) as dialer, open("/dev/full", "wb") as full:
            line = read_invite(dialer)
            with started("accept", home=tmp_path, stdout=full) as accepter:
                sent, received = finish_both(dialer, accepter, CONTENT, line.encode())
        assert (sent.code, received.code) == (1, 1)
        assert "No space left on device" in received.complaint
        # The system's words are for the user there.
        assert "No space left on device" not in sent.err
        assert sent.err.splitlines()[-1].endswith(f"with code 1: {_FAILED_HERE}")
