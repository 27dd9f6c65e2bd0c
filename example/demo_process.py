"""The processes of the demonstration: `example.demo` starts this file three times.

`relay` is the relay as it is. `dialer` and `accepter` report on their standard error, one JSON
object a line. Each ends when its lifeline does: a pipe that only the demonstration holds open, so
that none outlives it, however it ends.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator

from peers import (
    Invite,
    InviteKey,
    PathPolicy,
    PeersError,
    Pipe,
    RelayTrust,
    Stream,
    accept,
    dial,
)

from .demo import SIZE

CHUNK = 65_536
HELLOS = 3


async def dialer(relay: str) -> None:
    """Print the invite, say hello, then send and receive."""
    dialing = await dial(
        relay,
        auth=InviteKey(),
        trust=RelayTrust(),
        # On one machine the two would soon talk directly, and show nothing of the relay.
        path_policy=PathPolicy.RELAY_ONLY,
    )
    async with dialing:
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


def _hold(lifeline: int) -> None:
    """End this process when nobody holds the other end any more."""

    def watch() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Run one role: `LIFELINE relay`, `LIFELINE dialer RELAY` or `LIFELINE accepter`."""
    _hold(int(sys.argv[1]))
    try:
        match sys.argv[2:]:
            case ["relay"]:
                from relay.__main__ import main as relay

                return relay(["--listen", "127.0.0.1:0", "--log-format", "json"])
            case ["dialer", address]:
                asyncio.run(dialer(address))
            case ["accepter"]:
                asyncio.run(accepter())
    except PeersError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
