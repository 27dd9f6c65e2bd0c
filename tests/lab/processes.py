"""Real processes under a test's control: the relay, and commands joined by pipes.

Whatever is started here is ended here, and every wait has an end.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from relay.wire.address import Address

PROJECT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
PATIENCE_S = 30.0
"""Real seconds for anything that should take much less than one, on a machine that is busy."""

_READY = re.compile(r"quicpipe-relay listening on (.+)\n")
_ADDRESS = re.compile(r"(?:\[([0-9a-f:]+)\]|([0-9.]+)):([0-9]+)")


def environment(**more: str) -> dict[str, str]:
    """This process's environment, and the project importable from anywhere."""
    return {**os.environ, "PYTHONPATH": str(PROJECT), **more}


def relay_command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `quicpipe-relay …` to its end; of this process's environment it has the path alone."""
    return subprocess.run(
        [PYTHON, "-m", "relay", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class RelayProcess:
    """`python -m relay`. A context manager; the relay runs inside it."""

    def __init__(
        self,
        state: Path,
        *hosts: str,
        workers: int = 2,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """It keeps its certificate in `state`, and logs there; `hosts` are literal addresses.

        :param variables: more of its environment.
        """
        self._variables = dict(variables or {})
        self._state = state
        self._workers = workers
        self._options = tuple(options)
        self._listen = [Address(host, 0) for host in hosts or ("127.0.0.1",)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """Where it listens first; the same after a restart."""
        return self._listen[0]

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, in the order of the hosts."""
        return list(self._listen)

    def start(self) -> None:
        """Start it, and wait until it says that it is ready. A second start has the same ports.

        :raises RuntimeError: it is not ready in time; the text has its last words.
        """
        command = [PYTHON, "-m", "relay", "--log-format", "json", *self._options]
        command += ["--workers", str(self._workers)]
        if not any(each.startswith("--token-secret") for each in self._options):
            command += ["--open"]
        for each in self._listen:
            command += ["--listen", str(each)]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment(XDG_STATE_HOME=str(self._state), **self._variables),
                cwd=self._state,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self._listen = self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int | None:
        """End it by SIGTERM; returns its exit code, or None if it did not run.

        :raises TimeoutExpired: it did not end in time. It is killed then.
        """
        process = self._process
        if process is None:
            return None
        process.terminate()
        try:
            return process.wait(10.0)
        finally:
            self.kill()

    def kill(self) -> None:
        """End its control by SIGKILL, and wait for that; its workers end by themselves."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(PATIENCE_S)
        if process.stdout:
            process.stdout.close()

    @property
    def pid(self) -> int:
        """Of its control process.

        :raises RuntimeError: it does not run.
        """
        if self._process is None:
            raise RuntimeError("the relay does not run")
        return self._process.pid

    def check_runs(self) -> None:
        """:raises RuntimeError: it does not run, or has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the relay has ended: {self._log.read_text()[-2000:]}")

    def worker_pids(self) -> list[int]:
        """The processes that forward now."""
        if self._process is None:
            return []
        return [
            child
            for child in children_of(self._process.pid)
            if "relay.forwarding.worker" in _command(child)
        ]

    def kill_worker(self) -> int:
        """End one worker by SIGKILL; returns its process ID."""
        pid = self.worker_pids()[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_workers(self) -> list[int]:
        """End them all."""
        pids = self.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def log(self) -> list[dict[str, object]]:
        """All that it has logged, in all its starts."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def counters(self) -> dict[str, object]:
        """The last counters that it logged: at its end, or after SIGUSR1."""
        found = [line for line in self.log() if line["logger"] == "relay.counters"]
        if not found:
            raise RuntimeError("the relay has logged no counters")
        return found[-1]

    def fingerprint(self) -> str:
        """Of its certificate, as it has logged it.

        :raises RuntimeError: it has not.
        """
        for line in reversed(self.log()):
            words = str(line["message"]).split()
            if words[:1] == ["certificate"]:
                return words[1]
        raise RuntimeError("the relay has logged no certificate")

    @property
    def _log(self) -> Path:
        return self._state / "relay.log"

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> list[Address]:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        line = process.stdout.readline() if ready else ""
        match = _READY.fullmatch(line)
        if match is None:
            raise RuntimeError(f"the relay said {line!r}; its log: {self._log.read_text()[-2000:]}")
        found = _ADDRESS.findall(match[1])
        return [Address(v6 or v4, int(port)) for v6, v4, port in found]


def is_running(pid: int) -> bool:
    """Whether a process lives, zombies not counted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pids: Sequence[int], limit_s: float = PATIENCE_S) -> None:
    """Wait for processes that are not our children.

    :raises TimeoutError: some live on.
    """
    deadline = time.monotonic() + limit_s
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise TimeoutError(f"of {pids} some still run after {limit_s:g} s")
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """The processes that this one has started, and that have not ended."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
