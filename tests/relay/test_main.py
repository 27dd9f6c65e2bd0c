"""The command as a process: what it says, how it ends, and what it leaves behind."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from relay.certificate import SELF_SIGNED_FILE, ServerCertificate
from relay.core.outcome import Outcome
from tests.lab.processes import PROJECT, RelayProcess, environment, is_running, wait_until_gone
from tests.relay.families import HAS_IPV6, needs_ipv6

PATIENCE_S = 30.0
LOOPBACK = ("--listen", "127.0.0.1:0")

Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start the command; what still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **streams: int) -> subprocess.Popen[bytes]:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", "relay", *arguments],
                env=environment(STATE_DIRECTORY=str(tmp_path)),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=pipes["stdout"],
                stderr=pipes["stderr"],
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def ready(process: subprocess.Popen[bytes]) -> list[tuple[str, int]]:
    """Wait for the line; the addresses that it names."""
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    match = re.fullmatch(r"quicpipe-relay listening on (.+)\n", line)
    assert match is not None, line
    pieces = (each.rpartition(":") for each in match[1].split(" "))
    return [(host.strip("[]"), int(port)) for host, _, port in pieces]


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> tuple[int, str]:
    """Signal it; its exit code, and what it logged."""
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - began < 2.0
    return process.returncode, said.decode()


def fails(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    out, said = process.communicate(timeout=PATIENCE_S)
    assert out == b""
    assert "Traceback" not in said.decode()
    return process.returncode, said.decode()


def test_a_terminal_that_closes_ends_the_relay_and_its_workers_in_order(tmp_path: Path) -> None:
    """The terminal is its stdin and its controlling one, as in a shell."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", *LOOPBACK, "--workers", "1"],
        env=environment(STATE_DIRECTORY=str(tmp_path)),
        cwd=PROJECT,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        ready(process)
        began = time.monotonic()
        os.close(ours)  # the system sends SIGHUP to all processes of the group
        _, said = process.communicate(timeout=PATIENCE_S)
        assert time.monotonic() - began < 2.0
        assert process.returncode == 0
        assert b"counters at the end" in said
        assert b"it is replaced" not in said
    finally:
        process.kill()
        process.communicate()


def test_sighup_is_a_reload_where_no_terminal_closes(run: Run) -> None:
    process = run(*LOOPBACK, "--workers", "1")
    ready(process)
    (worker,) = _worker_children(process.pid)
    os.kill(worker, signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    while b"reloaded; no setting changed" not in process.stderr.readline():
        assert process.poll() is None
    code, said = end(process)
    assert code == 0
    assert "it is replaced" not in said


def test_without_a_terminal_by_nohup_it_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; exec '{sys.executable}' -m relay --listen 127.0.0.1:0"],
        env=environment(STATE_DIRECTORY=str(tmp_path)),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        ready(process)
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert end(process)[0] == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_says_where_it_listens_and_ends_when_told(run: Run, number: int) -> None:
    listen = [*LOOPBACK, *(("--listen", "[::1]:0") if HAS_IPV6 else ())]
    process = run(*listen, "--workers", "2", "--log-format", "json")
    addresses = ready(process)
    assert [host for host, _ in addresses] == ["127.0.0.1", "::1"][: len(addresses)]
    assert all(port > 0 for _, port in addresses)
    code, said = end(process, number)
    assert code == 0
    entries = [json.loads(line) for line in said.splitlines()]
    messages = " ".join(entry["message"] for entry in entries)
    assert re.search(r"certificate sha256:[0-9a-f]{64}", messages)
    assert "bytes to receive" in messages
    (counters,) = (entry for entry in entries if entry["logger"] == "relay.counters")
    assert {outcome.value for outcome in Outcome} <= counters.keys()
    assert counters["registrations"] == counters["forwarded"] == counters["receive_queue_full"] == 0


@needs_ipv6
def test_wildcards_on_any_port_have_the_same(run: Run) -> None:
    process = run("--listen", "0.0.0.0:0", "--open", "--listen", "[::]:0")
    (v4, v6) = ready(process)
    assert v4[1] == v6[1]
    assert end(process)[0] == 0


def test_counters_are_logged_on_request(run: Run) -> None:
    process = run(*LOOPBACK, "--log-level", "error")
    (address,) = ready(process)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for datagram in (b"", b"\x40" + bytes(12), b"\x40" + bytes(12)):
            stranger.sendto(datagram, address)
    assert process.stderr is not None
    line, tries = "", 0
    while "malformed=1 unknown_cid=2 " not in line:
        assert (tries := tries + 1) < 50, line
        process.send_signal(signal.SIGUSR1)
        line = process.stderr.readline().decode()
        assert " info relay.counters: counters forwarded=0 http3=0 malformed=" in line
    code, said = end(process)
    assert code == 0
    assert "counters at the end forwarded=0 http3=0 malformed=1 unknown_cid=2 " in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("level", ["warning", "info"])
def test_the_fingerprint_of_a_self_signed_certificate_is_shown(run: Run, level: str) -> None:
    """Peers elsewhere need it: it is no detail that a log level hides."""
    process = run(*LOOPBACK, "--log-level", level)
    ready(process)
    said = end(process)[1]
    assert len(re.findall(r"certificate sha256:[0-9a-f]{64} \(self-signed\)\n", said)) == 1
    assert "expired" not in said


def test_the_certificate_is_kept(run: Run) -> None:
    fingerprints = set()
    for _ in range(2):
        process = run(*LOOPBACK)
        ready(process)
        fingerprints.add(re.findall(r"sha256:[0-9a-f]{64}", end(process)[1])[0])
    assert len(fingerprints) == 1


def test_the_address_is_in_use(run: Run) -> None:
    process = run(*LOOPBACK, "--workers", "2")
    ((host, port),) = ready(process)
    code, said = fails(run("--listen", f"{host}:{port}", "--workers", "2"))
    assert code == 1
    (line,) = said.splitlines()
    assert f"cannot listen on {host}:{port}: the address is in use; is another relay" in line
    assert end(process)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--listen", "localhost:1"], 2, "names are not looked up"),
        (["--listen", "192.0.2.1:0", "--open"], 1, "this machine has no such address"),
        ([*LOOPBACK, "--certificate", "/nonexistent", "--private-key", "/nonexistent"], 1, "/none"),
    ],
)
def test_mistakes_are_one_clear_line(
    run: Run, arguments: Sequence[str], code: int, expected: str
) -> None:
    returned, said = fails(run(*arguments))
    assert returned == code
    assert expected in said.splitlines()[-1]


def test_a_certificate_that_is_unusable_is_reported_before_a_port_is_asked_for(run: Run) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        missing = ("--certificate", "/nonexistent", "--private-key", "/nonexistent")
        code, said = fails(run("--listen", listen, *missing))
    assert code == 1
    (line,) = said.splitlines()
    assert "/nonexistent: there is no such file" in line


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_private_key_that_all_can_read_is_warned_of(
    run: Run, tmp_path: Path, mode: int, warns: bool
) -> None:
    ServerCertificate.self_signed(tmp_path)
    both = tmp_path / SELF_SIGNED_FILE
    both.chmod(mode)
    process = run(*LOOPBACK, "--certificate", str(both), "--private-key", str(both))
    ready(process)
    said = end(process)[1]
    assert said.count("every user of this machine can read the private key") == warns


def test_no_place_for_a_certificate(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relay", *LOOPBACK],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert b"set HOME or STATE_DIRECTORY" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_a_stdout_that_nobody_reads_is_no_error(run: Run) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    process = run(*LOOPBACK, stdout=writable)
    os.close(writable)
    assert process.stderr is not None
    while b"certificate" not in process.stderr.readline():
        assert process.poll() is None
    code, said = end(process)
    assert code == 0
    assert "Traceback" not in said
    assert "Exception" not in said


def test_a_stderr_that_nobody_reads_is_no_error(run: Run) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    process = run(*LOOPBACK, stderr=writable)
    os.close(writable)
    ready(process)
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


def test_closed_standard_streams_are_no_error(tmp_path: Path) -> None:
    """With stdin, stdout and stderr closed, sockets would take their numbers."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {sys.executable} -m relay --listen 127.0.0.1:0 <&- >&- 2>&-"],
        env=environment(STATE_DIRECTORY=str(tmp_path)),
        cwd=PROJECT,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (children := _worker_children(process.pid)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for number in range(3):
            assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.devnull
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        wait_until_gone(children, 2.0)
    finally:
        process.kill()
        process.wait()


def _worker_children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # any thread may have started it
    children = " ".join(each.read_text() for each in tasks).split()
    return [int(child) for child in children]


def test_workers_end_with_the_control_process_and_its_port_is_free(tmp_path: Path) -> None:
    with RelayProcess(tmp_path, workers=2) as relay:
        workers = relay.worker_pids()
        assert len(workers) == 2
        address = relay.address
        relay.kill()
        wait_until_gone(workers, limit_s=1.0)
        relay.start()
        assert relay.address == address
        assert relay.stop() == 0


def test_a_worker_that_is_stopped_does_not_hold_the_relay_up(tmp_path: Path) -> None:
    with RelayProcess(tmp_path, workers=2) as relay:
        workers = relay.worker_pids()
        os.kill(workers[0], signal.SIGSTOP)
        began = time.monotonic()
        assert relay.stop() == 0
        assert time.monotonic() - began < 2.0
        assert not any(map(is_running, workers))


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with RelayProcess(tmp_path, workers=2) as relay:
        killed = relay.kill_worker()
        deadline = time.monotonic() + PATIENCE_S
        while killed in relay.worker_pids() or len(relay.worker_pids()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert relay.stop() == 0
    assert any("it is replaced" in str(entry["message"]) for entry in relay.log())


def test_a_worker_is_no_use_alone() -> None:
    for arguments in ([], ["1.0"], ["1.0", "x", "y"], ["1.0", "998", "999"]):
        done = subprocess.run(
            [sys.executable, "-m", "relay.forwarding.worker", *arguments],
            cwd=PROJECT,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 2
        assert (
            done.stderr
            == b"relay.forwarding.worker: quicpipe-relay starts it; it is no use alone\n"
        )
