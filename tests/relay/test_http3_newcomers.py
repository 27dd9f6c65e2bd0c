"""How many handshakes begin: with clients that have shown nothing, and while the core is short."""

import asyncio
import math

import pytest

from relay.http3.pace import BURST_S, SHARE, Pace
from relay.http3.server import Http3Limits
from tests.lab.virtual_loop import run_virtual
from tests.relay.half_open_flood import InitialMaker
from tests.relay.http3_client import World, path_of


class ProcessorTime:
    """Passes when it is told to."""

    def __init__(self) -> None:
        self.spent = 0.0

    def __call__(self) -> float:
        return self.spent


def begun(pace: Pace, used: ProcessorTime, now: float, cost_s: float, *, short: bool) -> int:
    """How many handshakes of that cost begin at this moment, up to 1,000."""
    for count in range(1_000):
        if pace.wait_s(now, is_core_short=short):
            return count
        pace.begin()
        used.spent += cost_s
        pace.end(now)
    return 1_000


def test_where_nobody_else_wants_the_core_there_is_no_bound() -> None:
    used = ProcessorTime()
    assert begun(Pace(used), used, 0.0, 0.001, short=False) == 1_000


def test_where_the_core_is_short_a_burst_begins_and_then_a_share() -> None:
    used = ProcessorTime()
    pace = Pace(used)
    cost_s = SHARE / 64  # so each takes a sixty-fourth of a second
    assert begun(pace, used, 0.0, cost_s, short=True) == int(64 * BURST_S) + 1
    assert pace.wait_s(0.0, is_core_short=True) == pytest.approx(1 / 64)
    assert begun(pace, used, 1 / 64 - 1e-9, cost_s, short=True) == 0
    assert begun(pace, used, 1 / 64, cost_s, short=True) == 1
    before = used.spent
    for tick in range(1, 6_401):
        begun(pace, used, tick / 64, cost_s, short=True)
    assert used.spent - before == pytest.approx(100 * SHARE, rel=0.01)


def test_where_there_is_room_again_nothing_is_owed() -> None:
    used = ProcessorTime()
    pace = Pace(used)
    begun(pace, used, 0.0, 0.1, short=True)
    assert pace.wait_s(1.0, is_core_short=True) > 0
    assert begun(pace, used, 0.0, 0.001, short=False) == 1_000
    assert pace.wait_s(1.0, is_core_short=False) == 0.0
    assert begun(pace, used, 1.0, SHARE / 64, short=True) == int(64 * BURST_S) + 1


def test_handshakes_with_clients_that_have_shown_nothing_have_a_rate() -> None:
    """The last that is begun at once, the first that is asked, and so on a minute later."""

    async def run() -> None:
        limits = Http3Limits(unproven_per_minute=8)
        async with World(limits=limits) as world:
            maker, ports = InitialMaker(), iter(range(2000, 9000))

            async def come(count: int) -> tuple[int, int]:
                """So many spoofed Initials, far apart; returns how many were admitted and asked."""
                before = world.server.counters
                for _ in range(count):
                    port = next(ports)
                    cid = b"%08d" % port
                    world.server.receive_datagram(maker.make(cid), path_of(port))
                    await asyncio.sleep(0.01)
                after = world.server.counters
                return after.half_open - before.half_open, after.retried - before.retried

            assert await come(4) == (4, 0)  # half of them at once
            assert await come(1) == (0, 1)
            await asyncio.sleep(7.4)  # one in seven and a half seconds
            assert await come(1) == (0, 1)
            await asyncio.sleep(0.1)
            assert await come(2) == (1, 1)
            client = await world.connect(1000)  # whoever answers is let in, whatever the rate
            assert client.quic._retry_count == 1
            assert (await client.get("/health")).status == 200

            world.server.change_limits(Http3Limits(unproven_per_minute=60))
            await asyncio.sleep(1.1)
            assert await come(2) == (1, 1)

    run_virtual(run())


def test_newcomers_wait_while_the_core_is_short_and_others_do_not() -> None:
    async def run() -> None:
        short = False
        async with World(is_core_short=lambda: short) as world:
            client = await world.connect(1000)
            assert world.server.counters.pauses == 0
            world.server._pace._until = math.inf  # all that there is was spent
            short = True
            late = asyncio.ensure_future(world.connect(1001))
            await asyncio.sleep(0.5)
            assert not late.done()
            assert world.server.counters.connections == 1
            assert 5 <= world.server.counters.pauses <= 6  # looked at ten times a second
            assert (await client.get("/health")).status == 200
            world.server._pace._until = 0.0
            short = False
            another = asyncio.ensure_future(world.connect(1002))
            await asyncio.sleep(3.0)
            assert world.server.counters.connections == 3
            assert (await (await late).get("/health")).status == 200
            assert (await (await another).get("/health")).status == 200

    run_virtual(run())


def test_whoever_is_registered_does_not_wait_for_the_core() -> None:
    """A relay that was restarted on a busy machine is looked for by all its peers at once."""

    async def run() -> None:
        async with World(
            is_core_short=lambda: True, is_known=lambda address: address.port != 1001
        ) as world:
            world.server._pace._until = math.inf  # all that there is was spent
            newcomer = asyncio.ensure_future(world.connect(1001))
            await asyncio.sleep(0.05)
            assert world.server._pause is not None
            for port in (1002, 1003):
                assert (await (await world.connect(port)).get("/health")).status == 200
            assert not newcomer.done()
            world.server._pace._until = 0.0
            assert (await (await newcomer).get("/health")).status == 200

    run_virtual(run())
