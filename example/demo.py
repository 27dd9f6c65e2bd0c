"""The main job on one machine: `make demo`, or `python -m example.demo`.

Three processes (example/demo_process.py): the relay, a dialer and an accepter. The dialer's invite
goes to the accepter through a pipe of the system. Lines flow, then 10 MB each way, and both ends'
hashes are compared.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from typing import Any

SIZE = 10_000_000
"""Bytes each way."""
TIME_LIMIT_S = 60.0

Report = dict[str, Any]


class DemoFailed(Exception):
    """Something did not go as it should; the message says what."""


class Show:
    """What the demonstration prints: on a terminal, with a bar that moves."""

    def __init__(self) -> None:
        self.reports: dict[str, Report] = {}
        self._terminal = sys.stdout is not None and sys.stdout.isatty()
        self._counts = {"dialer": 0, "accepter": 0}
        self._drawn_s = 0.0

    def take(self, role: str, report: Report) -> None:
        """One line of a peer's report."""
        match report["event"]:
            case "open":
                self.reports["open"] = report
                self.say(f"pipe open after {report['seconds'] * 1000:.0f} ms")
            case "line":
                self.say(f"{role} received: {report['text']}")
            case "progress":
                self._counts[role] = report["received"]
                self._draw()
            case "done":
                self.reports[role] = report

    def say(self, text: str) -> None:
        """A line of its own."""
        _write(f"\r\x1b[K{text}\n" if self._terminal else f"{text}\n")

    def end(self) -> None:
        """Leave the bar behind."""
        if self._terminal:
            with contextlib.suppress(DemoFailed):
                _write("\n")

    def _draw(self) -> None:
        done = sum(self._counts.values()) / (2 * SIZE)
        now = time.monotonic()
        if self._terminal and (now - self._drawn_s > 0.05 or done == 1):
            self._drawn_s = now
            bar = "#" * round(40 * done)
            _write(f"\r10 MB each way [{bar:<40}] {done:4.0%}")


def _write(text: str) -> None:
    if sys.stdout is None:
        raise DemoFailed("standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is buffered must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise DemoFailed(f"standard output cannot be written to: {error.strerror}") from None


async def demonstrate(show: Show) -> None:
    """Run the three processes to their end.

    :raises DemoFailed: if any of them does not do what it should.
    """
    async with contextlib.AsyncExitStack() as stack:
        lifeline, held = os.pipe()
        stack.callback(os.close, held)
        stack.callback(os.close, lifeline)
        # The relay's certificate is made for this run and thrown away with it.
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="quicpipe-demo-"))
        relay = await stack.enter_async_context(
            _process(lifeline, "relay", stdout=PIPE, STATE_DIRECTORY=state)
        )
        assert relay.stdout is not None
        ready = (await relay.stdout.readline()).decode().split()
        if not ready:
            raise DemoFailed("the relay did not start: " + await _last_line(relay))
        address = ready[-1]
        show.say(f"relay listening on {address}")
        relay_log = asyncio.create_task(_final_counters(relay))

        # The invite goes straight from the one process to the other, as in a shell's pipe.
        invite_out, invite_in = os.pipe()
        with os.fdopen(invite_out, "rb") as reader, os.fdopen(invite_in, "wb") as writer:
            dialer = await stack.enter_async_context(
                _process(lifeline, "dialer", address, stdout=writer.fileno())
            )
            accepter = await stack.enter_async_context(
                _process(lifeline, "accepter", stdin=reader.fileno())
            )
        async with asyncio.TaskGroup() as group:
            group.create_task(_watch("dialer", dialer, show))
            group.create_task(_watch("accepter", accepter, show))
        show.end()
        _signal(relay, signal.SIGTERM)
        counters = await relay_log
    _summarise(show, address, counters)


def _summarise(show: Show, address: str, counters: Report) -> None:
    ends = show.reports
    for sender, receiver in (("dialer", "accepter"), ("accepter", "dialer")):
        if ends[sender]["sent"] != ends[receiver]["received"]:
            raise DemoFailed(f"what the {receiver} received is not what the {sender} sent")
    seconds = max(ends["dialer"]["seconds"], ends["accepter"]["seconds"])
    show.say("both ways whole: the SHA-256 of what was sent and of what arrived are equal")
    show.say(f"  relay      {address}")
    show.say(f"  handshake  {ends['open']['seconds'] * 1000:.0f} ms")
    show.say(f"  speed      {2 * SIZE / seconds / 1e6:.1f} MB/s, both ways together")
    show.say(f"  forwarded  {counters['forwarded']} packets")


@contextlib.asynccontextmanager
async def _process(
    lifeline: int,
    *role: str,
    stdin: int | None = DEVNULL,
    stdout: int | None = None,
    **environment: str,
) -> AsyncIterator[Process]:
    """One of the processes, not to outlive the block; in a session of its own, as it is ours to
    end it, not the terminal's."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "example.demo_process",
        str(lifeline),
        *role,
        stdin=stdin,
        stdout=stdout,
        stderr=PIPE,
        env={**os.environ, **environment},
        pass_fds=[lifeline],
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 3)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()


def _signal(process: Process, number: int) -> None:
    # Not `Process.send_signal`: it looks whether the process has ended, behind asyncio's back.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def _watch(role: str, process: Process, show: Show) -> None:
    assert process.stderr is not None
    last = ""
    async for line in process.stderr:
        last = line.decode(errors="replace").strip()
        try:
            show.take(role, json.loads(last))
        except ValueError:
            show.say(f"{role}: {last}")
    if await process.wait():
        raise DemoFailed(f"the {role} ended with exit code {process.returncode}: {last}")


async def _final_counters(relay: Process) -> Report:
    """What the relay says at its end: how many datagrams had which outcome."""
    assert relay.stderr is not None
    counters: Report = {}
    async for line in relay.stderr:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            counters = entry if "forwarded" in entry else counters
    if not counters:
        raise DemoFailed("the relay ended without its counters")
    return counters


async def _last_line(process: Process) -> str:
    assert process.stderr is not None
    lines = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


async def _main_async() -> int:
    show = Show()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    problem, return_code = "", 0
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            await demonstrate(show)
    except* DemoFailed as failures:
        problem = str(failures.exceptions[0])
    except* TimeoutError:
        problem = f"not done within {TIME_LIMIT_S:.0f} s"
    except* asyncio.CancelledError:
        show.end()
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("stopped; nothing is left running", file=sys.stderr)
        return_code = 130
    if problem:
        show.end()
        print(f"demo failed: {problem}", file=sys.stderr)
        return_code = 1
    return return_code


def main() -> int:
    """Run the demonstration; returns the exit code."""
    if sys.argv[1:]:
        print("usage: python -m example.demo", file=sys.stderr)
        return 2
    return asyncio.run(_main_async())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
