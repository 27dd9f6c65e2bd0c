"""Pipes that talk all the time, and check every byte and every datagram that arrives."""

import asyncio
import hashlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from peers import InviteKey, Network, PathPolicy, PeersError, Pipe, RelayTrust, Stream, accept, dial

CHUNK = 1_000
DATAGRAM_DIGEST = 16
DATAGRAM_SIZE = 400
OPEN_PATIENCE_S = 80.0
"""Seconds until each end is open or says why not: to reach the relay and to register take ten each,
to wait for an answer ten more, and the handshake thirty."""
DRAIN_PATIENCE_S = 60.0


class Wrong(Exception):
    """What arrived is not what was sent; the text says where."""


@dataclass(slots=True)
class Tally:
    """What all pipes of a run did."""

    bytes_delivered: int = 0
    datagrams_sent: int = 0
    datagrams_delivered: int = 0
    opened: int = 0
    ended: int = 0
    """Pipes that were closed on purpose, with all that was written delivered."""
    refused: Counter[str] = field(default_factory=Counter)
    """Pipes that did not open, by reason: in the middle of troubles that may be."""
    refusals: list[tuple[float, float, str]] = field(default_factory=list)
    """Of each of them: from when to when (seconds since 1970) it was tried, and why it was not."""
    wrong: list[str] = field(default_factory=list)
    """What must not be: wrong data, or an open pipe lost."""
    longest_silence_s: float = 0.0


class Talk:
    """One pipe, both ends in this process. Each end sends a stream and datagrams at a rate."""

    def __init__(self, tally: Tally, name: str, rate: float) -> None:
        """:param rate: bytes per second, of each end."""
        self._tally = tally
        self._name = name
        self._rate = rate
        self._stop = asyncio.Event()
        self._heard: dict[str, float] = {}
        self.is_open = False

    def stop(self) -> None:
        """End in order: finish the streams, see that all arrived, close."""
        self._stop.set()

    def silent_s(self, now: float) -> float:
        """For how long one end has heard nothing of the other's stream; 0.0 if it is not open."""
        return now - min(self._heard.values(), default=now) if self.is_open else 0.0

    async def run(self, relay: str, *, ends: tuple[Network, Network]) -> None:
        """Open, talk until `stop`, close. Never raises for what the network does."""
        began = time.time()
        try:
            async with asyncio.timeout(OPEN_PATIENCE_S):
                dialer, accepter = await _open(relay, ends)
        except PeersError as error:
            self._tally.refused[type(error).__name__] += 1
            self._tally.refusals.append((began, time.time(), f"{self._name} not opened: {error}"))
            return
        except TimeoutError:
            self._tally.wrong.append(f"{time.time():.1f} {self._name}: neither open nor refused")
            return
        self._tally.opened += 1
        self.is_open = True
        try:
            async with asyncio.TaskGroup() as both:
                for here, there, side in ((dialer, accepter, "a"), (accepter, dialer, "b")):
                    stream = here.open_stream(unidirectional=True)
                    both.create_task(self._write(stream, side))
                    both.create_task(self._read(there, side))
                    both.create_task(self._send_datagrams(here, side))
                    both.create_task(self._receive_datagrams(there, side))
            self._tally.ended += 1
        except* (PeersError, Wrong, TimeoutError) as failures:
            text = "; ".join(f"{type(each).__name__}: {each}" for each in failures.exceptions)
            self._tally.wrong.append(f"{time.time():.1f} {self._name}: {text}")
        finally:
            self.is_open = False
            for pipe in (dialer, accepter):
                await pipe.close()

    async def _write(self, stream: Stream, side: str) -> None:
        source = self._source(side)
        while not self._stop.is_set():
            await stream.write(source.randbytes(CHUNK))
            await asyncio.sleep(CHUNK / self._rate)
        stream.write_eof()
        async with asyncio.timeout(DRAIN_PATIENCE_S):
            await stream.drain_acknowledged()

    async def _read(self, pipe: Pipe, side: str) -> None:
        source, expected, position = self._source(side), b"", 0
        stream = await pipe.accept_stream()
        self._heard[side] = time.monotonic()
        while data := await stream.read():
            now = time.monotonic()
            silence_s = now - self._heard[side]
            self._tally.longest_silence_s = max(self._tally.longest_silence_s, silence_s)
            self._heard[side] = now
            while len(expected) < len(data):
                expected += source.randbytes(CHUNK)
            if not expected.startswith(data):
                raise Wrong(f"stream of {side}: other bytes after {position}")
            expected = expected[len(data) :]
            position += len(data)
            self._tally.bytes_delivered += len(data)
        if len(expected) or not self._stop.is_set():
            raise Wrong(f"stream of {side}: it ended after {position} bytes, too early")

    async def _send_datagrams(self, pipe: Pipe, side: str) -> None:
        number = 0
        while not self._stop.is_set():
            body = f"{self._name} {side} {number}".encode().ljust(DATAGRAM_SIZE, b".")
            pipe.send_datagram(hashlib.sha256(body).digest()[:DATAGRAM_DIGEST] + body)
            self._tally.datagrams_sent += 1
            number += 1
            await asyncio.sleep(DATAGRAM_SIZE / self._rate * 4)

    async def _receive_datagrams(self, pipe: Pipe, side: str) -> None:
        seen = bytearray()  # by number: what a test keeps must not look like a leak
        head = f"{self._name} {side} ".encode()
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(1.0):
                    data = await pipe.receive_datagram()
            except TimeoutError:
                continue
            digest, body = data[:DATAGRAM_DIGEST], data[DATAGRAM_DIGEST:]
            if hashlib.sha256(body).digest()[:DATAGRAM_DIGEST] != digest:
                raise Wrong(f"datagram of {side}: it was altered")
            if not body.startswith(head):
                raise Wrong(f"datagram of {side}: it is another pipe's")
            number = int(body[len(head) :].rstrip(b"."))
            seen.extend(bytes(max(0, number + 1 - len(seen))))
            if seen[number]:
                raise Wrong(f"datagram of {side}: it came twice")
            seen[number] = 1
            self._tally.datagrams_delivered += 1

    def _source(self, side: str) -> random.Random:
        return random.Random(f"{self._name} {side}")


async def _open(relay: str, ends: tuple[Network, Network]) -> tuple[Pipe, Pipe]:
    dialing = await dial(
        relay,
        auth=InviteKey(),
        trust=RelayTrust(),
        path_policy=PathPolicy.RELAY_ONLY,
        network=ends[0],
    )
    answer = accept(dialing.invite, path_policy=PathPolicy.RELAY_ONLY, network=ends[1])
    both = [asyncio.create_task(each) for each in (dialing.pipe(), answer)]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        dialer, accepter = (each.result() for each in both if each.done())
        return dialer, accepter
    except BaseException:
        for each in both:
            each.cancel()
        for end in await asyncio.gather(*both, return_exceptions=True):
            if isinstance(end, Pipe):
                await end.close()
        await dialing.close()
        raise
