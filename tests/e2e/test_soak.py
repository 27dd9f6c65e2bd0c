"""A bad day: whatever can move, fail or lose does so again and again, and no byte is lost."""

import asyncio
import hashlib
import itertools
import os
import random

import pytest

from peers import Pipe
from relay.certificate import ServerCertificate

from ..lab.pairs import joined
from ..lab.scene import Scene, scene
from ..lab.transfer import Meter, receive
from ..lab.virtual_loop import run_virtual
from ..lab.virtual_network import Conditions, Host
from .conftest import LONG, Note

DAYS = 100 if LONG else 4
TROUBLES = 12
CHUNK = 2_000
INTERVAL_S = 0.05
RECOVERY_S = 6.0
"""How long a pause may be beyond the time for which there was no way at all. A lost datagram or two
of the reconnection cost a second each, so this is more than one event's 3 s."""


class Day:
    """What happens is chance, but the seed's."""

    def __init__(self, at: Scene, seed: int) -> None:
        self._at = at
        self._random = random.Random(seed)
        self._next_address = 10
        self.troubles: list[tuple[float, float, str]] = []
        """Beginning and end, in loop time, and what it was."""
        self.over = asyncio.Event()

    async def pass_by(self) -> None:
        """Let some troubles happen, with some peace between them."""
        loop = asyncio.get_running_loop()
        for _ in range(TROUBLES):
            await asyncio.sleep(self._random.uniform(3.0, 12.0))
            trouble = self._random.choice(
                [
                    self._a_host_moves,
                    self._a_nat_rebinds,
                    self._the_relay_is_killed,
                    self._the_relay_restarts,
                    self._a_host_loses_its_network,
                    self._the_weather_changes,
                ]
            )
            began = loop.time()
            await trouble()
            self.troubles.append((began, loop.time(), trouble.__name__))
        await asyncio.sleep(RECOVERY_S)
        self.over.set()

    def recovery_s(self, arrivals: list[float]) -> float:
        """The longest pause in what arrived, without the time for which there was no way."""
        longest = 0.0
        for earlier, later in itertools.pairwise(arrivals):
            down_s = sum(
                max(0.0, min(later, end) - max(earlier, began)) for began, end, _ in self.troubles
            )
            longest = max(longest, later - earlier - down_s)
        return longest

    def _a_host(self) -> Host:
        return self._random.choice([self._at.dialer, self._at.accepter])

    def _fresh(self) -> str:
        self._next_address += 1
        return f"198.51.100.{self._next_address}"

    async def _a_host_moves(self) -> None:
        self._a_host().move(self._fresh())

    async def _a_nat_rebinds(self) -> None:
        nat = self._at.network.nat(self._fresh(), idle_timeout_s=30)
        self._a_host().move("10.0.0.2", behind=nat)
        await asyncio.sleep(self._random.uniform(0.0, 6.0))
        nat.rebind()

    async def _the_relay_is_killed(self) -> None:
        self._at.relay.kill()
        await asyncio.sleep(self._random.uniform(0.1, 12.0))
        await self._at.relay.start()

    async def _the_relay_restarts(self) -> None:
        await self._at.relay.stop()
        await asyncio.sleep(self._random.uniform(0.1, 3.0))
        await self._at.relay.start()

    async def _a_host_loses_its_network(self) -> None:
        host = self._a_host()
        host.move()
        await asyncio.sleep(self._random.uniform(0.1, 12.0))
        host.move(self._fresh())

    async def _the_weather_changes(self) -> None:
        self._a_host().set_conditions(
            Conditions(
                latency_s=self._random.choice([0.001, 0.02, 0.15]),
                jitter_s=self._random.choice([0.0, 0.02]),
                loss=self._random.choice([0.0, 0.01, 0.03]),
                duplicate=self._random.choice([0.0, 0.05]),
                late=self._random.choice([0.0, 0.01]),
            )
        )


async def _transfer(sender: Pipe, receiver: Pipe, meter: Meter, over: asyncio.Event) -> None:
    """Send a little all day long."""

    async def deliver() -> str:
        return await receive(await receiver.accept_stream(), meter)

    delivering = asyncio.create_task(deliver())
    stream = sender.open_stream(unidirectional=True)
    digest = hashlib.sha256()
    while not over.is_set():
        data = os.urandom(CHUNK)
        digest.update(data)
        await stream.write(data)
        await asyncio.sleep(INTERVAL_S)
    stream.write_eof()
    assert await delivering == digest.hexdigest()


def _live_through(certificate: ServerCertificate, seed: int) -> float:
    """Returns the longest recovery."""

    async def main() -> float:
        async with scene(certificate, seed=seed) as at, joined(at) as pair:
            there, back = Meter(), Meter()
            day = Day(at, seed)
            try:
                await asyncio.gather(
                    _transfer(pair.dialer, pair.accepter, there, day.over),
                    _transfer(pair.accepter, pair.dialer, back, day.over),
                    day.pass_by(),
                )
            except Exception as error:
                error.add_note(f"seed {seed}: {day.troubles}")
                raise
            return max(day.recovery_s(each.arrivals) for each in (there, back))

    return run_virtual(main(), limit_s=3600)


@pytest.mark.timeout(1800)
def test_no_byte_is_lost_on_a_bad_day(certificate: ServerCertificate, note: Note) -> None:
    recoveries = [_live_through(certificate, seed) for seed in range(DAYS)]
    note(f"{DAYS} days of {TROUBLES} troubles: longest recovery {max(recoveries):.2f} s")
    assert max(recoveries) < RECOVERY_S
