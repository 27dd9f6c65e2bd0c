"""Bytes over a pipe, and what became of them: hashes at both ends, and the pauses in between."""

import asyncio
import hashlib
import itertools
import random
from dataclasses import dataclass, field

from peers import Stream

CHUNK = 16_384


@dataclass(slots=True)
class Meter:
    """When bytes arrived, in loop time."""

    count: int = 0
    arrivals: list[float] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, count: int) -> None:
        """So many bytes have arrived now."""
        self.count += count
        self.arrivals.append(asyncio.get_running_loop().time())
        self._news.set()

    def longest_pause_s(self, since: float = 0.0) -> float:
        """The longest time without any arrival, from `since` on until the last one."""
        times = [since, *(each for each in self.arrivals if each >= since)]
        if since == 0.0:
            times = self.arrivals
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

    async def until(self, count: int) -> None:
        """Wait until so many bytes have arrived."""
        while self.count < count:
            self._news.clear()
            await self._news.wait()


async def send(stream: Stream, size: int, *, seed: int = 1, rate: float | None = None) -> str:
    """Write `size` bytes that `seed` determines, then FIN; wait until all is acknowledged.

    :param rate: bytes per second at most; evenly, so that every pause is one of the network's.
    :return: their SHA-256.
    """
    loop = asyncio.get_running_loop()
    source = random.Random(seed)
    digest = hashlib.sha256()
    began = loop.time()
    for start in range(0, size, CHUNK):
        data = source.randbytes(min(CHUNK, size - start))
        digest.update(data)
        await stream.write(data)
        if rate:
            await asyncio.sleep(began + (start + CHUNK) / rate - loop.time())
    stream.write_eof()
    await stream.drain_acknowledged()
    return digest.hexdigest()


async def receive(stream: Stream, meter: Meter | None = None) -> str:
    """Read to the end; returns the SHA-256 of all that came."""
    digest = hashlib.sha256()
    while data := await stream.read():
        digest.update(data)
        if meter:
            meter.add(len(data))
    return digest.hexdigest()
