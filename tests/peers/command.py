"""Runs the command `quicpipe` as a process, away from the user's own files."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TIMEOUT_S = 60.0
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        return line


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user whose files are all in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUICPIPE")}
    kept.pop("QHOST", None)
    own = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "PYTHONPATH": str(REPOSITORY),
    }
    return kept | own | more


def run(
    *arguments: str | Path,
    home: Path,
    stdin: bytes = b"",
    variables: Mapping[str, str] | None = None,
) -> Result:
    """Run it to its end, with no terminal to ask on."""
    done = subprocess.run(
        [sys.executable, "-m", "peers", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        cwd=home,
        env=environment(home, **(variables or {})),
        start_new_session=True,
        check=False,
    )
    err = done.stderr.decode()
    assert "Traceback" not in err, err
    return Result(done.returncode, done.stdout, err)


class Command:
    """A command that runs: its streams are ours unless they were given something else."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    @property
    def stdin(self) -> IO[bytes]:
        """To write what it reads."""
        if self.process.stdin is None:
            raise RuntimeError("its standard input is not ours")
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """To read what it writes."""
        if self.process.stdout is None:
            raise RuntimeError("its standard output is not ours")
        return self.process.stdout

    def finish(self, stdin: bytes | None = None) -> Result:
        """Give it the rest of its input, and wait for its end."""
        if self.process.stdin is None:
            stdin = None
        out, err = self.process.communicate(stdin, TIMEOUT_S)
        text = err.decode()
        assert "Traceback" not in text, text
        return Result(self.process.returncode, out or b"", text)


def finish_both(
    dialer: Command, accepter: Command, to_dialer: bytes = b"", to_accepter: bytes = b""
) -> tuple[Result, Result]:
    """Give both the rest of their input, and wait for the end of both."""
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(dialer.finish, to_dialer)
        received = pool.submit(accepter.finish, to_accepter)
        return sent.result(), received.result()


@contextlib.contextmanager
def started(
    *arguments: str | Path,
    home: Path,
    stdin: int | IO[bytes] = subprocess.PIPE,
    stdout: int | IO[bytes] = subprocess.PIPE,
    variables: Mapping[str, str] | None = None,
    module: str = "peers",
) -> Iterator[Command]:
    """Run it beside the test; it does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=home,
        env=environment(home, **(variables or {})),
        start_new_session=True,
    )
    try:
        yield Command(process)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
