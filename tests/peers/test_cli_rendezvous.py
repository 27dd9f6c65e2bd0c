"""`accept --listen`, `dial PEER` and the pins as processes, through a relay that is one too."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from peers import keys
from tests.lab.processes import RelayProcess
from tests.peers.command import Command, finish_both, run, started

CONTENT = os.urandom(700_000)
NOBODY = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path_factory.mktemp("relay"), "127.0.0.1", workers=1) as process:
        yield process


@pytest.fixture
def at(relay: RelayProcess) -> list[str]:
    """The option that names the relay."""
    return ["--relay", str(relay.address)]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The dialer's home."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The accepter's home."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


def fingerprint(home: Path) -> str:
    return run("identity", home=home).out.decode().strip()


def said(command: Command, *words: str) -> str:
    """The next line on standard error that has these words."""
    stream = command.process.stderr
    if stream is None:
        raise RuntimeError("its standard error is not ours")
    while line := stream.readline().decode():
        assert "Traceback" not in line
        if all(word in line for word in words):
            return line
    raise AssertionError(f"it ended without saying {words}")


def test_a_file_goes_to_whoever_listens(at: list[str], here: Path, there: Path) -> None:
    me, you = fingerprint(here), fingerprint(there)
    with started("accept", "--listen", "--peer", me, *at, home=there) as accepter:
        line = said(accepter, "listening at the relay")
        assert you in line
        with started("dial", you, *at, home=here) as dialer:
            sent, received = finish_both(dialer, accepter, CONTENT, b"thanks")
    assert (sent.code, received.code) == (0, 0), sent.err + received.err
    assert received.out == CONTENT
    assert sent.out == b"thanks"
    assert sent.err == received.err == ""
    gone = run("dial", you, *at, home=here)
    assert gone.code == 1
    assert "nobody listens as sha256:" in gone.complaint


def test_identities_are_made_where_there_are_none(at: list[str], here: Path, there: Path) -> None:
    """The first time: one command on each machine."""
    with started("accept", "--listen", "--anyone", *at, home=there) as accepter:
        said(accepter, "made a new identity")
        said(accepter, "listening")
        you = fingerprint(there)
        with started("dial", you, home=here, variables={"QUICPIPE_RELAY": at[1]}) as dialer:
            sent, received = finish_both(dialer, accepter, b"hello")
    assert (sent.code, received.code, received.out) == (0, 0, b"hello")
    assert "made a new identity" in sent.complaint


def test_a_name_is_dialled_only_when_it_is_pinned(at: list[str], here: Path, there: Path) -> None:
    you = fingerprint(there)
    listening = ("accept", "--listen", "--anyone", "--name", "Laptop", *at)
    with started(*listening, home=there) as accepter:
        assert "as laptop" in said(accepter, "listening")
        refused = run("dial", "laptop", *at, home=here)
        assert refused.code == 2
        assert f"a name proves nothing. The relay says that {you} listens" in refused.complaint

        unknown = run("dial", "desktop", *at, home=here)
        assert (unknown.code, unknown.out) == (1, b"")
        assert "nobody listens as desktop" in unknown.complaint

        assert run("pin", "laptop", NOBODY, home=here).code == 0
        other = run("dial", "laptop", *at, home=here)  # the pin is asked for, not the relay
        assert other.code == 1
        assert f"laptop: nobody listens as {NOBODY}" in other.err

        again = run("pin", "laptop", you, home=here)
        assert again.code == 2
        assert "stands for sha256:abab" in again.complaint
        assert run("unpin", "laptop", home=here).code == 0
        assert run("pin", "LAPTOP", you, home=here).code == 0
        assert run("pins", home=here).out.decode() == f"laptop {you}\n"
        with started("dial", "laptop", *at, home=here) as dialer:
            sent, received = finish_both(dialer, accepter, b"hello")
    assert (sent.code, received.code, received.out) == (0, 0, b"hello")


def test_a_name_and_a_pairing_key(at: list[str], here: Path, there: Path) -> None:
    variables = {"QUICPIPE_PAIRING_KEY": keys.encode(keys.generate())}
    listening = ("accept", "--listen", "--name", "laptop", *at)
    with started(*listening, home=there, variables=variables) as accepter:
        said(accepter, "listening")
        with started("dial", "laptop", *at, home=here, variables=variables) as dialer:
            sent, received = finish_both(dialer, accepter, b"hello", b"there")
    assert (sent.out, received.out) == (b"there", b"hello")


def test_labels_in_the_allow_list(at: list[str], here: Path, there: Path) -> None:
    me, you = fingerprint(here), fingerprint(there)
    assert run("pin", "friend", me, home=there).code == 0
    with started("accept", "--listen", "--peer", "Friend", *at, home=there) as accepter:
        said(accepter, "listening")
        with started("dial", you, *at, home=here) as dialer:
            sent, received = finish_both(dialer, accepter, b"hello")
    assert (sent.code, received.out) == (0, b"hello")


def test_a_stranger_is_told_and_the_next_one_is_served(
    at: list[str], here: Path, there: Path, tmp_path: Path
) -> None:
    me, you = fingerprint(here), fingerprint(there)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    with started("accept", "--listen", "--peer", me, *at, home=there) as accepter:
        said(accepter, "listening")
        refused = run("dial", you, *at, home=stranger)
        assert refused.code == 1
        assert "is not pinned here" in refused.err
        assert fingerprint(stranger) in said(accepter, "a dialer was not let in")
        with started("dial", you, *at, home=here) as dialer:
            sent, received = finish_both(dialer, accepter, b"hello")
    assert (sent.code, received.code, received.out) == (0, 0, b"hello")


def test_one_after_another_with_keep_open(at: list[str], here: Path, there: Path) -> None:
    you = fingerprint(there)
    listening = ("accept", "--listen", "--anyone", "--keep-open", *at)
    with started(*listening, home=there) as accepter:
        said(accepter, "listening")
        accepter.stdin.write(b"this is sent to nobody")
        accepter.stdin.flush()
        for number in range(3):
            done = run("dial", you, *at, home=here, stdin=b"%d" % number)
            assert (done.code, done.out) == (0, b""), done.err
        accepter.process.send_signal(signal.SIGINT)
        received = accepter.finish()
    assert received.code == 130
    assert received.out == b"012"
    assert received.err.count("serving the holder of") == 3


def test_two_that_dial_at_once_with_keep_open_are_not_mixed(
    at: list[str], here: Path, there: Path
) -> None:
    you = fingerprint(there)
    listening = ("accept", "--listen", "--anyone", "--keep-open", *at)
    with started(*listening, home=there) as accepter:
        said(accepter, "listening")
        with started("dial", you, *at, home=here) as first:
            said(accepter, "serving")
            first.stdin.write(b"a" * 1000)
            first.stdin.flush()
            with started("dial", you, *at, home=here) as second:
                second.stdin.write(b"b" * 1000)
                second.stdin.close()
                second.process.stdin = None
                first.stdin.write(b"a" * 1000)
                assert first.finish(b"").code == 0
                assert second.finish().code == 0
        accepter.process.send_signal(signal.SIGTERM)
        received = accepter.finish()
    assert received.code == 143
    assert received.out == b"a" * 2000 + b"b" * 1000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_listener(
    at: list[str], here: Path, there: Path, number: int, code: int
) -> None:
    you = fingerprint(there)
    with started("accept", "--listen", "--anyone", *at, home=there) as accepter:
        said(accepter, "listening")
        accepter.process.send_signal(number)
        assert accepter.finish().code == code
    gone = run("dial", you, *at, home=here)
    assert "nobody listens" in gone.err  # the relay was told at once


def test_a_second_listener_with_the_same_identity(at: list[str], there: Path) -> None:
    listening = ("accept", "--listen", "--anyone", *at)
    with started(*listening, home=there) as first:
        said(first, "listening")
        with started(*listening, home=there) as second:
            said(second, "listening")
            ended = first.finish()
            assert ended.code == 1
            assert "same identity" in ended.complaint
            assert "--identity FILE" in ended.complaint
            assert second.process.poll() is None


def test_a_name_that_is_taken(at: list[str], here: Path, there: Path) -> None:
    listening = ("accept", "--listen", "--anyone", "--name", "taken", *at)
    with started(*listening, home=there) as first:
        said(first, "listening")
        fingerprint(here)
        second = run(*listening, home=here)
    assert second.code == 1
    assert "somebody else listens as 'taken'" in second.complaint


MISTAKES: list[tuple[Sequence[str], str]] = [
    (["accept", "--listen", "--relay", "x"], "whom to let in?"),
    (["accept", "--listen", "--anyone"], "which relay?"),
    (["accept", "--name", "a"], "--name has no effect without --listen"),
    (["accept", "--anyone"], "--anyone has no effect without --listen"),
    (["accept", "--keep-open"], "--keep-open has no effect without --listen"),
    (["accept", "--listen", "--anyone", "--invite", "i"], "does not go with --invite"),
    (["accept", "--listen", "--anyone", "--peer", NOBODY], "--anyone lets everybody in"),
    (["accept", "--listen", "--anyone", "--pairing-key"], "--anyone lets everybody in"),
    (["accept", "--listen", "--anyone", "--original"], "no rendezvous"),
    (["accept", "--listen", "--name", "7", "--anyone"], "not a name"),
    (["accept", "--listen", "--peer", "nobody", "--relay", "x"], "'nobody' stands for nobody"),
    (["dial", NOBODY, "--invite", "i"], "--invite and --expires have no effect"),
    (["dial", NOBODY, "--expires", "1h"], "--invite and --expires have no effect"),
    (["dial", NOBODY, "--original"], "no rendezvous"),
    (["dial", NOBODY], "which relay?"),
    (["dial", "sha256:12", "--relay", "x"], "not a fingerprint"),
    (["dial", "a/b", "--relay", "x"], "no label or name"),
    (["dial", '{"packet": "x"}', "--relay", "x"], "does not belong on the command line"),
    (["pin", "laptop"], "FINGERPRINT"),
    (["pin", "7", NOBODY], "not a label"),
    (["pin", "laptop", "12"], "not a fingerprint"),
    (["unpin", "laptop"], "no pin 'laptop'"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: Sequence[str], words: str, here: Path
) -> None:
    result = run(*arguments, home=here)
    assert result.code == 2
    assert words in result.complaint


def test_pins_that_others_can_write(here: Path) -> None:
    assert run("pin", "laptop", NOBODY, home=here).code == 0
    (here / "config/quicpipe/known_peers").chmod(0o666)
    for command in (["pins"], ["dial", "laptop", "--relay", "x"]):
        result = run(*command, home=here)
        assert result.code == 1
        assert "can be written by others" in result.complaint
