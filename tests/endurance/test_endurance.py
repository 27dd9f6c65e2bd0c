"""The two long runs, shortly; and that they would notice what they look for."""

import asyncio
import os
import random
import sys

import pytest

from peers import Pipe
from peers.errors import RelayUnreachable
from peers.network import SystemNetwork
from tests.conftest import Note

from . import chaos, traffic
from .soak import slope
from .traffic import CHUNK, Talk, Tally, Wrong


def test_a_little_chaos(note: Note) -> None:
    if sys.platform != "linux":
        pytest.skip("the troubles need Linux: /proc, several loopback addresses, prlimit")
    outcome = chaos.run(
        pipes=4, seconds=10.0, seed=int.from_bytes(os.urandom(4), "big"), rate=10_000.0
    )
    for line in outcome.lines():
        note(line)
    assert outcome.tally.wrong == []
    assert outcome.tally.ended == outcome.tally.opened >= 4
    assert outcome.troubles


class FakePipe:
    """One stream with these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = [data, b""]

    async def accept_stream(self) -> "FakePipe":
        return self

    async def read(self) -> bytes:
        return self._data.pop(0)


def test_other_bytes_are_noticed() -> None:
    sent = random.Random("pipe 1 a").randbytes(CHUNK)
    for data in (b"\0" + sent[1:], sent[:-1], sent):
        talk = Talk(Tally(), "pipe 1", 1.0)
        talk.stop()
        reading = talk._read(FakePipe(data), "a")  # type: ignore[arg-type]  # as much as it needs
        if data == sent:
            asyncio.run(reading)
        else:
            with pytest.raises(Wrong):
                asyncio.run(reading)


def test_an_early_end_is_noticed() -> None:
    talk = Talk(Tally(), "pipe 1", 1.0)
    sent = random.Random("pipe 1 a").randbytes(CHUNK)
    with pytest.raises(Wrong):
        asyncio.run(talk._read(FakePipe(sent), "a"))  # type: ignore[arg-type]  # see above


class FakeDialing:
    """An invite that nobody answers."""

    invite = None
    is_closed = False

    async def pipe(self) -> Pipe:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        self.is_closed = True


def test_an_accepter_that_fails_is_told_of_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dialing, tally = FakeDialing(), Tally()

    async def dial(*_: object, **__: object) -> FakeDialing:
        return dialing

    async def accept(*_: object, **__: object) -> Pipe:
        raise RelayUnreachable("not here")

    monkeypatch.setattr(traffic, "dial", dial)
    monkeypatch.setattr(traffic, "accept", accept)
    ends = (SystemNetwork(), SystemNetwork())
    asyncio.run(Talk(tally, "pipe 1", 1.0).run("127.0.0.1:1", ends=ends))
    assert tally.refused == {"RelayUnreachable": 1}
    assert not tally.wrong
    assert dialing.is_closed


class FakeTalk:
    """A pipe that is as silent as it is told to be."""

    silence_s = 0.0

    def silent_s(self, _: float) -> float:
        return self.silence_s


def test_outages_wait_until_all_pipes_are_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "MOST_UNWELL_S", 0.3)

    async def main() -> None:
        run, talk = chaos.Chaos(None), FakeTalk()  # type: ignore[arg-type]  # no network is needed
        run._talks = {talk: None, FakeTalk(): None}  # type: ignore[dict-item]  # see above
        watching = asyncio.create_task(run._watch())
        await run.recovery()
        talk.silence_s = chaos.UNWELL_S + 1.0
        await asyncio.sleep(0.6)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run.recovery(), 0.6)
        talk.silence_s = 0.0
        await asyncio.wait_for(run.recovery(), 10.0)
        watching.cancel()

    asyncio.run(main())


def test_a_leak_is_noticed() -> None:
    chance = random.Random(1)
    flat = [(float(at), 50.0 + chance.random()) for at in range(200)]
    rising = [(at, mb + at / 50.0) for at, mb in flat]
    assert slope("flat", flat).is_flat
    assert not slope("rising", rising).is_flat
