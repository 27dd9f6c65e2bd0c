"""A real peer in a home: a process that makes pipes with the public API, one after the other.

    python -m tests.nat.peer

Requests come as lines of JSON on stdin, each with a number, and each is answered by one line with
that number when it is done; several may be under way. `home.py` is the other side. Times are those
of the machine's monotonic clock, which all processes share.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from typing import Any

from peers import (
    Dialing,
    Invite,
    InviteKey,
    PathPolicy,
    PeersError,
    Pipe,
    RelayTrust,
    Stream,
    SystemNetwork,
    accept,
    dial,
)
from peers.paths.path import Direct
from relay.wire.address import Address

from ..lab.transfer import Meter, receive, send

_HELLO = b"hello"
_POLL_S = 0.01


class LabNetwork(SystemNetwork):
    """The system's network, with a resolver of our own."""

    def __init__(self, hosts: list[str]) -> None:
        """`hosts` are the addresses of every name."""
        self._hosts = hosts

    async def resolve(self, host: str, port: int) -> list[Address]:
        """As a system does: only the families that this machine has."""
        return [Address(each, port) for each in self._hosts]


class Driver:
    """One pipe at a time, and a stream on it."""

    def __init__(self) -> None:
        self._dialing: Dialing | None = None
        self._pipe: Pipe | None = None
        self._stream: Stream | None = None
        self._reading: asyncio.Task[None] | None = None
        self._meter = Meter()
        self._digests: list[str] = []
        self._opened = 0.0

    async def do_dial(self, relay: str, hosts: list[str], fingerprint: str, policy: str) -> Any:
        """Make an invite."""
        self._dialing = await dial(
            relay,
            auth=InviteKey(),
            trust=RelayTrust(fingerprint),
            network=LabNetwork(hosts),
            path_policy=PathPolicy(policy),
        )
        return {"invite": self._dialing.invite.encode()}

    async def do_open(self) -> Any:
        """Wait for the pipe that was dialled, send the first bytes, and hear theirs."""
        assert self._dialing is not None
        self._pipe = await self._dialing.pipe()
        self._opened = time.monotonic()
        self._stream = self._pipe.open_stream()
        await self._stream.write(_HELLO)
        await self._hear_hello()
        return {"opened": self._opened, "first_byte": time.monotonic()}

    async def do_accept(self, invite: str, hosts: list[str], policy: str) -> Any:
        """Answer an invite, hear the first bytes, and answer them."""
        asked = time.monotonic()
        network = LabNetwork(hosts)
        self._pipe = await accept(
            Invite.decode(invite), network=network, path_policy=PathPolicy(policy)
        )
        self._opened = time.monotonic()
        self._stream = await self._pipe.accept_stream()
        await self._hear_hello()
        heard = time.monotonic()
        await self._stream.write(_HELLO)
        self._reading = asyncio.get_running_loop().create_task(self._read_all(self._pipe))
        return {"asked": asked, "opened": self._opened, "first_byte": heard}

    async def do_until_path(self, direct: bool, patience_s: float) -> Any:
        """Wait until the path is direct (or not any more), or patience ends, or the pipe does."""
        assert self._pipe is not None
        deadline = time.monotonic() + patience_s
        while isinstance(self._pipe.paths().current, Direct) is not direct:
            if time.monotonic() >= deadline or not self._pipe.is_open:
                break
            await asyncio.sleep(_POLL_S)
        return await self.do_report()

    async def do_report(self) -> Any:
        """What the pipe says of its paths."""
        assert self._pipe is not None
        report = self._pipe.paths()
        return {
            "now": time.monotonic(),
            "direct": isinstance(report.current, Direct),
            "path": str(report.current),
            "opened": self._opened,
            "probes_sent": report.probes_sent,
            "probes_received": report.probes_received,
            "changes": [[each.at, str(each.path), each.reason] for each in report.changes],
            "lines": report.lines(),
        }

    async def do_send(self, size: int, rate: float | None = None) -> Any:
        """Send so much on a stream of its own, and wait until all is acknowledged."""
        assert self._pipe is not None
        stream = self._pipe.open_stream(unidirectional=True)
        return {"digest": await send(stream, size, rate=rate)}

    async def do_forget(self) -> Any:
        """Count what is received from now on."""
        self._meter, self._digests = Meter(), []

    async def do_received(self) -> Any:
        """How much has come so far, the longest pause in it, and each ended stream's digest."""
        return {
            "size": self._meter.count,
            "longest_pause_s": self._meter.longest_pause_s(),
            "digests": self._digests,
        }

    async def do_close(self) -> Any:
        """Close everything."""
        pipe, dialing = self._pipe, self._dialing
        self._pipe = self._dialing = self._stream = None
        if self._reading is not None:
            self._reading.cancel()
        if pipe is not None:
            await pipe.close()
        if dialing is not None:
            await dialing.close()

    async def _hear_hello(self) -> None:
        assert self._stream is not None
        heard = b""
        while len(heard) < len(_HELLO):
            if not (data := await self._stream.read()):
                raise PeersError("the stream ended before the first bytes")
            heard += data

    async def _read_all(self, pipe: Pipe) -> None:
        with contextlib.suppress(PeersError):
            while True:
                stream = await pipe.accept_stream()
                self._digests.append(await receive(stream, self._meter))

    async def answer(self, line: bytes) -> None:
        """Do what one line asks for."""
        request = json.loads(line)
        number, do = request.pop("number"), request.pop("do")
        try:
            done = await getattr(self, f"do_{do}")(**request)
        except PeersError as error:
            done = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"number": number, **(done or {})}), flush=True)


async def main() -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    driver = Driver()
    tasks: set[asyncio.Task[None]] = set()
    while line := await lines.readline():
        task = loop.create_task(driver.answer(line))
        tasks.add(task)
        task.add_done_callback(_finished(tasks))
    for each in tasks:
        each.cancel()
    with contextlib.suppress(PeersError):
        await driver.do_close()


def _finished(tasks: set[asyncio.Task[None]]) -> Any:
    def finished(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"peer: {error!r}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)  # whoever waits for the answer is told at once by the end of stdout

    return finished


if __name__ == "__main__":
    asyncio.run(main())
