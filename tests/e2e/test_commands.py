"""The commands as a person uses them: processes joined by a pipe of the system."""

import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab.processes import PATIENCE_S, PYTHON, RelayProcess, environment


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def relay(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path, str(request.param)) as running:
        yield running


def _end(*processes: "subprocess.Popen[bytes]") -> None:
    for each in processes:
        if each.poll() is None:
            each.kill()
        each.wait(PATIENCE_S)
        for stream in (each.stdout, each.stderr):
            if stream:
                stream.close()


def _lines(source: "subprocess.Popen[bytes]", count: int) -> list[bytes]:
    """Read so many lines of its stdout, within a bounded time."""
    if source.stdout is None:
        raise ValueError("no pipe")
    deadline = time.monotonic() + PATIENCE_S
    text = b""
    while text.count(b"\n") < count:
        ready, _, _ = select.select([source.stdout], [], [], deadline - time.monotonic())
        data = os.read(source.stdout.fileno(), 65536) if ready else b""
        if not data:
            raise AssertionError(f"ended or silent after {text!r}")
        text += data
    return text.splitlines()[:count]


def test_example_dialer_to_example_accepter(relay: RelayProcess) -> None:
    env = environment(QHOST=str(relay.address))
    dialer = subprocess.Popen(
        [PYTHON, "-m", "example.dialer"],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    accepter = subprocess.Popen(
        [PYTHON, "-m", "example.accepter"],
        env=environment(QHOST="127.0.0.1:1"),  # the invite says where
        stdin=dialer.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert _lines(accepter, 3) == [b"hello"] * 3
        assert dialer.poll() is None
        assert accepter.poll() is None
    finally:
        _end(accepter, dialer)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_file_through_dial_and_accept(relay: RelayProcess, tmp_path: Path, size: int) -> None:
    """`quicpipe dial < file | quicpipe accept > copy` ends by itself, and they are equal."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(os.urandom(size))
    with (
        open(original, "rb") as source,
        open(copy, "wb") as target,
        open(tmp_path / "errors", "wb") as errors,
    ):
        dialer = subprocess.Popen(
            [PYTHON, "-m", "peers", "dial", "--relay", str(relay.address)],
            env=environment(),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        accepter = subprocess.Popen(
            [PYTHON, "-m", "peers", "accept"],
            env=environment(),
            stdin=dialer.stdout,
            stdout=target,
            stderr=errors,
        )
        try:
            codes = (accepter.wait(PATIENCE_S), dialer.wait(PATIENCE_S))
        finally:
            _end(accepter, dialer)
    assert codes == (0, 0), (tmp_path / "errors").read_text()
    assert copy.read_bytes() == original.read_bytes()


def test_both_ways_with_the_invite_in_a_file(relay: RelayProcess, tmp_path: Path) -> None:
    invite = tmp_path / "invite"
    here, there = os.urandom(500_000), os.urandom(500_000)
    (tmp_path / "here").write_bytes(here)
    (tmp_path / "there").write_bytes(there)
    with (
        open(tmp_path / "here", "rb") as here_source,
        open(tmp_path / "there", "rb") as there_source,
        open(tmp_path / "errors", "wb") as errors,
        open(tmp_path / "here copy", "wb") as here_copy,
        open(tmp_path / "there copy", "wb") as there_copy,
    ):
        command = [PYTHON, "-m", "peers"]
        dialer = subprocess.Popen(
            [*command, "dial", "--relay", str(relay.address), "--invite", str(invite)],
            env=environment(),
            stdin=here_source,
            stdout=there_copy,
            stderr=errors,
        )
        accepter: subprocess.Popen[bytes] | None = None
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not invite.exists():
                assert time.monotonic() < deadline, "there is no invite"
                time.sleep(0.02)
            accepter = subprocess.Popen(
                [*command, "accept", "--invite", str(invite)],
                env=environment(),
                stdin=there_source,
                stdout=here_copy,
                stderr=errors,
            )
            codes = (accepter.wait(PATIENCE_S), dialer.wait(PATIENCE_S))
        finally:
            _end(dialer, *([accepter] if accepter else []))
    assert codes == (0, 0), (tmp_path / "errors").read_text()
    assert (tmp_path / "here copy").read_bytes() == here
    assert (tmp_path / "there copy").read_bytes() == there


def test_dialer_that_fails_leaves_no_accepter_behind(tmp_path: Path) -> None:
    """No relay: one line from each, and both end with code 1."""
    with open(tmp_path / "errors", "wb") as errors:
        dialer = subprocess.Popen(
            [PYTHON, "-m", "peers", "dial", "--relay", "relay.invalid:1"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        accepter = subprocess.Popen(
            [PYTHON, "-m", "peers", "accept"],
            env=environment(),
            stdin=dialer.stdout,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            if dialer.stdout:
                dialer.stdout.close()
            codes = (accepter.wait(PATIENCE_S), dialer.wait(PATIENCE_S))
        finally:
            _end(accepter, dialer)
    assert codes == (1, 1)
    said = (tmp_path / "errors").read_text().splitlines()
    assert len(said) == 2, said
    assert not any("Traceback" in line for line in said)
