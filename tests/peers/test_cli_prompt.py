"""Secrets that are asked for on the terminal, and other things that are waited for in vain."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.command import TIMEOUT_S, environment, run, started

TOKEN = ["accept", "--code", "--token-prompt"]
KEY = ["dial", "--pairing-key"]


class OnTerminal:
    """The command with a terminal of its own, and nothing else."""

    def __init__(self, arguments: list[str], home: Path) -> None:
        self.ours, theirs = os.openpty()

        def take_terminal() -> None:
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "peers", *arguments, "--relay", "127.0.0.1:9"],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=environment(home),
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(theirs)

    def read_until(self, words: bytes) -> None:
        """Wait until it has shown them, and reads: a terminal drops what was typed too early."""
        seen, deadline = b"", time.monotonic() + TIMEOUT_S
        while words not in seen or termios.tcgetattr(self.ours)[3] & termios.ECHO:
            assert time.monotonic() < deadline, seen
            if select.select([self.ours], [], [], 0.05)[0]:
                seen += os.read(self.ours, 4096)

    def end(self) -> int:
        """Wait for its end; returns its exit code."""
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture(params=[TOKEN, KEY], ids=["token", "pairing key"])
def asking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnTerminal]:
    command = OnTerminal(request.param, tmp_path)
    try:
        command.read_until(b"(not shown): ")
        yield command
    finally:
        command.close()


def test_ctrl_c_ends_the_question_at_once(asking: OnTerminal) -> None:
    os.write(asking.ours, b"secr\x03")
    assert asking.end() == 128 + signal.SIGINT
    assert termios.tcgetattr(asking.ours)[3] & termios.ECHO, "the terminal is left without an echo"


def test_sigterm_ends_the_question_at_once(asking: OnTerminal) -> None:
    asking.process.terminate()
    assert asking.end() == 128 + signal.SIGTERM
    assert termios.tcgetattr(asking.ours)[3] & termios.ECHO, "the terminal is left without an echo"


def test_the_end_of_input_is_wrong_usage(asking: OnTerminal) -> None:
    os.write(asking.ours, b"\x04")
    assert asking.end() == 2


def test_what_is_no_secret_is_refused(asking: OnTerminal) -> None:
    os.write(asking.ours, b"two words\n")
    assert asking.end() in (1, 2)


def test_a_relay_of_no_such_name(tmp_path: Path) -> None:
    result = run("dial", "--relay", "no-such-host.invalid", home=tmp_path)
    assert result.code == 1
    assert "no-such-host.invalid" in result.complaint


def test_ctrl_c_while_the_invite_is_awaited(tmp_path: Path) -> None:
    with started("accept", "--invite", "missing.json", home=tmp_path) as accepter:
        assert accepter.process.stderr is not None
        assert b"waiting for missing.json" in accepter.process.stderr.readline()
        accepter.process.send_signal(signal.SIGINT)
        assert accepter.process.wait(20) == 130
        assert accepter.finish().err == ""
