"""The main job on one machine: `make demo`, or `python -m example.demo`.

Three processes: the relay, a dialer and an accepter. The dialer's invite goes to the accepter
through a pipe of the system. Lines flow, then 10 MB each way, and both ends' hashes are compared.
The two peers run this same file with their role as its argument and report on their standard error,
one JSON object a line.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from typing import Any

from peers import Invite, InviteKey, PeersError, Pipe, RelayTrust, Stream, accept, dial

SIZE = 10_000_000
CHUNK = 65_536
HELLOS = 3
TIME_LIMIT_S = 60.0

Report = dict[str, Any]


class DemoFailed(Exception):
    """Something did not go as it should; the message says what."""


# The two peers.


async def dialer(relay: str) -> None:
    """Print the invite, say hello, then send and receive."""
    async with await dial(relay, auth=InviteKey(), trust=RelayTrust()) as dialing:
        print(dialing.invite.encode(), end="", flush=True)
        sys.stdout.close()
        pipe = await dialing.pipe()
        hello = pipe.open_stream()
        for number in range(1, HELLOS + 1):
            await hello.write(f"hello {number}\n".encode())
            await asyncio.sleep(0.3)
        hello.write_eof()
        await hello.read()
        await _exchange(pipe.open_stream(), seed=1)
        await pipe.close()


async def accepter() -> None:
    """Read the invite, show the lines, then send and receive."""
    invite = Invite.decode(sys.stdin.readline())
    started = time.perf_counter()
    pipe = await accept(invite)
    _report("open", seconds=time.perf_counter() - started)
    hello = await pipe.accept_stream()
    async for line in _lines(hello):
        _report("line", text=line)
    hello.write_eof()
    await _exchange(await pipe.accept_stream(), seed=2)
    await _closed(pipe)


async def _exchange(stream: Stream, seed: int) -> None:
    """Send `SIZE` bytes that `seed` determines, and receive until the other side ends."""
    started = time.perf_counter()
    sent, received = hashlib.sha256(), hashlib.sha256()
    count = 0

    async def send() -> None:
        source = random.Random(seed)
        for start in range(0, SIZE, CHUNK):
            data = source.randbytes(min(CHUNK, SIZE - start))
            sent.update(data)
            await stream.write(data)
        stream.write_eof()
        await stream.drain_acknowledged()

    sending = asyncio.create_task(send())
    while data := await stream.read(CHUNK):
        received.update(data)
        count += len(data)
        _report("progress", received=count)
    await sending
    seconds = time.perf_counter() - started
    _report("done", sent=sent.hexdigest(), received=received.hexdigest(), seconds=seconds)


async def _lines(stream: Stream) -> AsyncIterator[str]:
    buffer = b""
    while data := await stream.read():
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield line.decode()


async def _closed(pipe: Pipe) -> None:
    with contextlib.suppress(PeersError):
        await pipe.wait_closed()


def _report(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)


# The one who starts and watches them.


class Show:
    """What the demonstration prints: on a terminal, with a bar that moves."""

    def __init__(self) -> None:
        self.reports: dict[str, Report] = {}
        self._terminal = sys.stdout.isatty()
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
        print(f"\r\x1b[K{text}" if self._terminal else text, flush=True)

    def end(self) -> None:
        """Leave the bar behind."""
        if self._terminal:
            print(flush=True)

    def _draw(self) -> None:
        done = sum(self._counts.values()) / (2 * SIZE)
        now = time.monotonic()
        if self._terminal and (now - self._drawn_s > 0.05 or done == 1):
            self._drawn_s = now
            bar = "#" * round(40 * done)
            print(f"\r10 MB each way [{bar:<40}] {done:4.0%}", end="", flush=True)


async def demonstrate(show: Show) -> None:
    """Run the three processes to their end.

    :raises DemoFailed: if any of them does not do what it should.
    """
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(
            _process("-m", "relay", "--listen", "127.0.0.1:0", "--log-format", "json", stdout=PIPE)
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
            dialer_process = await stack.enter_async_context(
                _process("-m", "example.demo", "dialer", address, stdout=writer.fileno())
            )
            accepter_process = await stack.enter_async_context(
                _process("-m", "example.demo", "accepter", stdin=reader.fileno())
            )
        async with asyncio.TaskGroup() as group:
            group.create_task(_watch("dialer", dialer_process, show))
            group.create_task(_watch("accepter", accepter_process, show))
        show.end()
        relay.terminate()
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
    *arguments: str, stdin: int | None = asyncio.subprocess.DEVNULL, stdout: int | None = None
) -> AsyncIterator[Process]:
    """A Python process that does not outlive the block; in a session of its own, as it is ours
    to end it, not the terminal's."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=stdin,
        stdout=stdout,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 3)
        except TimeoutError:
            process.kill()
            await process.wait()


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
    for number in (signal.SIGINT, signal.SIGTERM):
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
        print("stopped; nothing is left running", file=sys.stderr)
        return_code = 130
    if problem:
        show.end()
        print(f"demo failed: {problem}", file=sys.stderr)
        return_code = 1
    return return_code


def main() -> int:
    """Run the demonstration, or one of its two peers."""
    match sys.argv[1:]:
        case []:
            return asyncio.run(_main_async())
        case ["dialer", relay]:
            role = dialer(relay)
        case ["accepter"]:
            role = accepter()
        case _:
            print("usage: python -m example.demo", file=sys.stderr)
            return 2
    try:
        asyncio.run(role)
    except PeersError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
