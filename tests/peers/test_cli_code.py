"""`quicpipe accept --code` and `quicpipe dial CODE` as processes, and QR codes."""

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest
import segno

from peers import Identity, KnownPeers
from peers.cli import qr
from peers.cli.options import Options
from peers.cli.parser import build_parser
from peers.errors import UsageError
from peers.rendezvous.code import Code, word_list
from tests.lab.processes import RelayProcess
from tests.peers.command import TIMEOUT_S, Command, finish_both, run, started

HEX = "ab" * 32
CONTENT = os.urandom(300_000)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path_factory.mktemp("relay"), "127.0.0.1", workers=1) as process:
        yield process


@pytest.fixture
def at(relay: RelayProcess) -> list[str]:
    return ["--relay", str(relay.address)]


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    """Those of dialer and accepter."""
    here, there = tmp_path / "dialer", tmp_path / "accepter"
    here.mkdir()
    there.mkdir()
    return here, there


def read_until(command: Command, word: str) -> str:
    """The next line on standard error with this word in it."""
    if command.process.stderr is None:
        raise RuntimeError("its standard error is not ours")
    while line := command.process.stderr.readline().decode():
        if word in line:
            return line
    raise AssertionError(f"standard error ended without '{word}'")


@pytest.mark.parametrize(
    "words",
    [
        ["7-crossword-puppet"],
        ["7", "Crossword", "PUPPET"],
        ["7 cros pup"],
        ['"7-crossword-puppet"'],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("options", [[], ["--relay", "x"]])
def test_a_code_is_read_however_it_is_written(words: list[str], options: list[str]) -> None:
    for line in (["dial", *options, *words], ["dial", *words, *options]):
        assert build_parser().parse_args(line, Options()).peer == "7-crossword-puppet"


def read_code(accepter: Command) -> str:
    return read_until(accepter, "the code is").rpartition(" ")[2].strip()


def identity_of(home: Path) -> Identity:
    return Identity.load(home / "config" / "quicpipe" / "identity.pem")


def pins_of(home: Path) -> dict[str, str]:
    return dict(KnownPeers.load(home / "config" / "quicpipe" / "known_peers"))


def test_a_file_goes_through(at: list[str], homes: tuple[Path, Path]) -> None:
    with started("accept", "--code", *at, home=homes[1]) as accepter:
        code = read_code(accepter)
        hint = read_until(accepter, "on the other machine")
        assert f"quicpipe dial {code} --relay 127.0.0.1:" in hint
        assert "once and within 10 minutes" in hint
        with started("dial", code, *at, home=homes[0]) as dialer:
            sent, received = finish_both(dialer, accepter, CONTENT, b"pong")
    assert (sent.code, received.code) == (0, 0), sent.err + received.err
    assert received.out == CONTENT, "and nothing else: the code is on standard error"
    assert sent.out == b"pong"


def test_a_code_as_people_type_it_and_a_relay_of_the_environment(
    relay: RelayProcess, homes: tuple[Path, Path]
) -> None:
    variables = {
        "QUICPIPE_RELAY": str(relay.address),
        "QUICPIPE_RELAY_FINGERPRINT": relay.fingerprint(),
    }
    with started("accept", "--code", home=homes[1], variables=variables) as accepter:
        number, first, second = read_code(accepter).split("-")
        typed = f" {number} {first[:4].upper()}  {second[:4]} "
        with started("dial", typed, home=homes[0], variables=variables) as dialer:
            sent, received = finish_both(dialer, accepter, b"x", b"")
    assert (sent.code, received.code, received.out) == (0, 0, b"x"), sent.err + received.err


def test_a_wrong_code_is_told_at_both_ends(at: list[str], homes: tuple[Path, Path]) -> None:
    with started("accept", "--code", *at, home=homes[1]) as accepter:
        number, first, second = read_code(accepter).split("-")
        wrong = f"{number}-{first}-{next(word for word in word_list() if word != second)}"
        refused = run("dial", wrong, *at, home=homes[0])
        assert refused.code == 1
        assert "wrong code" in refused.err
        told = accepter.finish(b"")
        assert told.code == 1
        assert "wrong code: the words at the two ends differ" in told.err.splitlines()[-1]
        late = run("dial", f"{number}-{first}-{second}", *at, home=homes[0])
    assert late.code == 1
    assert f"begins with {number}" in late.complaint
    assert refused.out == told.out == late.out == b""


def test_whoever_gives_up_takes_the_code_along(at: list[str], homes: tuple[Path, Path]) -> None:
    with started("accept", "--code", *at, home=homes[1]) as accepter:
        code = read_code(accepter)
        accepter.process.send_signal(signal.SIGINT)
        assert accepter.finish().code == 130
    refused = run("dial", code, *at, home=homes[0])
    assert refused.code == 1
    assert "knows no code that begins with" in refused.err


def test_who_was_met_by_a_code_can_be_kept(at: list[str], homes: tuple[Path, Path]) -> None:
    here, there = homes
    with started("accept", "--code", "--save", "Bob", *at, home=there) as accepter:
        code = read_code(accepter)
        with started("dial", code, "--save", "alice", *at, home=here) as dialer:
            sent, received = finish_both(dialer, accepter, b"x")
    assert (sent.code, received.code) == (0, 0), sent.err + received.err
    assert pins_of(here) == {"alice": identity_of(there).fingerprint}
    assert pins_of(there) == {"bob": identity_of(here).fingerprint}
    assert "alice stands for" in sent.err
    with started("accept", "--listen", "--peer", "bob", *at, home=there) as accepter:
        read_until(accepter, "listening")
        with started("dial", "alice", *at, home=here) as dialer:
            sent, received = finish_both(dialer, accepter, b"without a code")
    assert received.out == b"without a code", sent.err + received.err


def test_a_label_that_stands_for_somebody_else_is_not_replaced(
    at: list[str], homes: tuple[Path, Path]
) -> None:
    here, there = homes
    assert run("pin", "alice", HEX, home=here).code == 0
    with started("accept", "--code", *at, home=there) as accepter:
        code = read_code(accepter)
        refused = run("dial", code, "--save", "alice", *at, home=here)
        told = accepter.finish(b"")
    assert refused.code == 2
    assert f"alice stands for sha256:{HEX} already" in refused.err
    assert told.code == 1
    assert "somebody else by that label" in told.err
    assert pins_of(here) == {"alice": "sha256:" + HEX}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dial", "7-crosswort-puppet"], "did you mean crossword"),
        (["dial", "7-crossword"], "expected a number and two words"),
        (["dial", "7"], "expected a number and two words"),
        (["dial", "7-cros-pupp"], "--relay HOST[:PORT], or set QUICPIPE_RELAY"),
        (["accept", "--code"], "--relay HOST[:PORT], or set QUICPIPE_RELAY"),
        (["dial", "7-cros-pupp", "--peer", HEX], "a code authenticates both ends"),
        (["dial", "7-cros-pupp", "--pairing-key"], "a code authenticates both ends"),
        (["dial", "7-cros-pupp", "--invite", "x"], "--invite and --expires have no effect"),
        (["dial", "7-cros-pupp", "--original"], "--original"),
        (["dial", "7-cros-pupp", "--qr"], "--qr shows the invite"),
        (["dial", "7-cros-pupp", "--save", "9x"], "not a label"),
        (["dial", "laptop", "--save", "x"], "--save keeps whom a code has led to"),
        (["accept", "--save", "x"], "--save keeps whom a code has led to"),
        (["accept", "--qr"], "--qr shows the code of --code"),
        (["accept", "--code", "--listen"], "does not go with --listen"),
        (["accept", "--code", "--invite", "x"], "does not go with --listen or --invite"),
        (["accept", "--code", "--peer", HEX], "a code authenticates both ends"),
        (["accept", "--code", "--original"], "--original"),
        (["accept", "--code", "--anyone"], "--anyone has no effect without --listen"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = run(*arguments, home=tmp_path)
    assert result.code == 2
    assert said in result.err.splitlines()[-1]
    assert not result.out


def test_an_identity_that_cannot_be_kept_is_said_and_does_not_stop_a_code(
    at: list[str], homes: tuple[Path, Path]
) -> None:
    here, there = homes
    (here / "config").write_text("a file where the folder should be")
    with (
        started("accept", "--code", *at, home=there) as accepter,
        started("dial", read_code(accepter), *at, home=here) as dialer,
    ):
        sent, received = finish_both(dialer, accepter, b"x")
    assert received.out == b"x"
    assert "no identity is kept here" in sent.err
    refused = run("dial", "7-cros-pupp", "--save", "bob", *at, home=here)
    assert refused.code == 1
    assert "no code that begins with" not in refused.err, "it did not come so far"


def test_pins_that_cannot_be_written_do_not_use_the_code_up(
    at: list[str], homes: tuple[Path, Path]
) -> None:
    here, there = homes
    folder = here / "config" / "quicpipe"
    (folder / ".known_peers.lock").mkdir(parents=True)
    with started("accept", "--code", *at, home=there) as accepter:
        code = read_code(accepter)
        refused = run("dial", code, "--save", "bob", *at, home=here)
        assert refused.code == 1
        assert "cannot write" in refused.complaint
        with started("dial", code, *at, home=here) as dialer:
            _, received = finish_both(dialer, accepter, b"x")
    assert received.out == b"x"


class TestQr:
    """What is drawn, with dark and light modules as characters."""

    def test_an_invite_is_drawn_to_standard_error(self, at: list[str], tmp_path: Path) -> None:
        with started("dial", "--qr", *at, home=tmp_path) as dialer:
            invite = dialer.stdout.readline()
            dialer.process.send_signal(signal.SIGINT)
            result = dialer.finish()
        assert invite.startswith(b"{")
        drawn = [line for line in result.err.splitlines() if set(line) <= set("█▀▄ ")]
        assert len({len(line) for line in drawn}) == 1
        assert len(drawn) > 60
        assert not result.out

    def test_a_code_is_drawn_small(self, at: list[str], tmp_path: Path) -> None:
        with started("accept", "--code", "--qr", *at, home=tmp_path) as accepter:
            code = read_code(accepter)
            drawn = read_until(accepter, "█")
            drawn += "".join(read_until(accepter, "") for _ in range(14))
        wanted = segno.make_qr(code.upper(), error="l").matrix
        assert len(wanted) == 21
        assert modules(drawn) == [list(map(bool, row)) for row in wanted]

    def test_what_is_drawn_says_what_it_should(self, capfd: pytest.CaptureFixture[str]) -> None:
        qr.show_qr("7-CROSSWORD-PUPPET")
        drawn = capfd.readouterr().err
        wanted = segno.make_qr("7-CROSSWORD-PUPPET", error="l").matrix
        assert modules(drawn) == [list(map(bool, row)) for row in wanted]
        assert Code.parse("7-CROSSWORD-PUPPET") == Code(7, ("crossword", "puppet"))

    def test_too_much_for_any_qr_code(self, capfd: pytest.CaptureFixture[str]) -> None:
        qr.show_qr("x" * 2953)
        with pytest.raises(UsageError, match=r"2954 characters are too many .* at most: leave"):
            qr.show_qr("x" * 2954)

    def test_a_terminal_that_does_not_know_its_size(self) -> None:
        assert "\x1b[97;40m" in on_terminal(0, 0)

    @pytest.mark.parametrize(("columns", "is_shown"), [(29, True), (28, False)])
    def test_a_terminal_needs_room(self, columns: int, is_shown: bool) -> None:
        shown = on_terminal(columns, 15)
        if is_shown:
            assert "\x1b[97;40m" in shown
            assert len(re.findall("\x1b\\[0m", shown)) == 15
        else:
            assert "needs 29 columns and 15 lines, this terminal has 28 and 15" in shown
            assert "█" not in shown

    def test_a_terminal_without_blocks(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(qr, "_can_show_blocks", lambda: False)
        qr.show_qr("7-CROSSWORD-PUPPET")
        drawn = capfd.readouterr().err
        assert drawn.isascii()
        assert "\x1b[7m" in drawn


def modules(drawn: str) -> list[list[bool]]:
    """Which modules are dark, without the quiet zone; blocks are light."""
    rows: list[list[bool]] = []
    for line in drawn.splitlines():
        rows.append([each in " ▄" for each in line])
        rows.append([each in " ▀" for each in line])
    rows = rows[: len(rows[0])]  # the last half of the last line is no module
    assert not any(any(row) for row in rows[:4] + rows[-4:])
    assert not any(any(row[:4] + row[-4:]) for row in rows)
    return [row[4:-4] for row in rows[4:-4]]


def on_terminal(columns: int, lines: int) -> str:
    """What `show_qr` writes to a terminal of that size."""
    terminal, end = os.openpty()
    ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    code = "from peers.cli.qr import show_qr; show_qr('7-CROSSWORD-PUPPET')"
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        with os.fdopen(end, "wb") as keyboard:
            drawing = subprocess.Popen([sys.executable, "-c", code], stderr=keyboard)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal shows
            while data := screen.read(65536):
                shown += data
        assert drawing.wait(TIMEOUT_S) == 0
    return shown.decode()
