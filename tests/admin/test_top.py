"""`quicpipe-relay top` as a process: in a terminal, in a pipe, and without a relay."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.admin.client import AdminClient
from tests.admin.fake_relay import TOKEN
from tests.admin.in_thread import InThread
from tests.lab.processes import PROJECT, environment

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def listener() -> Iterator[InThread]:
    made = InThread(reads_want_token=True)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", "top", *arguments],
        env=environment(**variables),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_in_a_pipe_it_prints_one_look(listener: InThread, token_file: Path) -> None:
    url = f"http://127.0.0.1:{listener.port}"
    done = run("--url", url, "--token-file", str(token_file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "quicpipe-relay: running" in done.stdout
    assert "198.51.100.8:5000" in done.stdout
    assert "\x1b" not in done.stdout


def test_it_finds_the_relay_by_its_settings(listener: InThread, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    (tmp_path / "t").write_text(TOKEN)
    file.write_text(f'[admin]\nlisten = ["127.0.0.1:{listener.port}"]\ntoken-file = "t"\n')
    for done in (run("--config", str(file)), run(QUICPIPE_RELAY_CONFIG=str(file))):
        assert done.returncode == 0, done.stderr
        assert "running" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--url", "http://127.0.0.1:1"], 1, "no relay answers at http://127.0.0.1:1: "),
        (["--url", "nonsense"], 2, "is no address; expected http://127.0.0.1:9443"),
        (["--url", "http://127.0.0.1:99999"], 2, "is no address"),
        (["--token-file", "/nonexistent"], 2, "cannot read /nonexistent"),
        (["--order", "x"], 2, "invalid choice"),
        (["--interval", "0"], 2, "from 0.2 to 3600"),
        (["--config", "/nonexistent"], 2, "there is no such file"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_the_token_it_says_what_is_wanted(listener: InThread) -> None:
    done = run("--url", f"http://127.0.0.1:{listener.port}")
    assert done.returncode == 1
    assert "refuses (401): send the token" in done.stderr


def test_in_a_terminal_it_goes_on_until_q(listener: InThread, token_file: Path) -> None:
    terminal, inside = pty.openpty()
    url = f"http://127.0.0.1:{listener.port}"
    options = ["--url", url, "--interval", "0.2", "--token-file", str(token_file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "top", *options],
        env=environment(TERM="xterm", LINES="30", COLUMNS="110"),
        cwd=PROJECT,
        stdin=inside,
        stdout=inside,
        stderr=subprocess.PIPE,
    )
    os.close(inside)
    try:
        seen = read_until(terminal, "198.51.100.8:5000")
        assert "running" in seen
        os.write(terminal, b"o")
        os.write(terminal, b"q")
        read_until(terminal, "\x1b[?1049l")
        _, said = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, said) == (0, b"")
    finally:
        process.kill()
        process.communicate()
        os.close(terminal)


def test_an_address_may_have_a_path() -> None:
    client = AdminClient("https://relay.example/admin/", None)
    assert client.url == "https://relay.example/admin/"
    client.close()


def read_until(terminal: int, words: str) -> str:
    """What the terminal was sent; cursor movements count as nothing but where they are sought."""
    deadline = time.monotonic() + PATIENCE_S
    seen = ""
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            seen += os.read(terminal, 65_536).decode(errors="replace")
        if words in seen or words in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", seen):
            return seen
    raise AssertionError(f"the terminal was not sent {words!r}: {seen!r}")
