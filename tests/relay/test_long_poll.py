"""Requests that wait."""

import asyncio

import pytest

from relay.core.rendezvous import RendezvousFull
from relay.long_poll import MAX_WAIT_S, LongPolls
from tests.lab.virtual_loop import run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def test_woken_or_not() -> None:
    async def main() -> None:
        polls = LongPolls()
        waiting = asyncio.create_task(polls.wait("a", 10.0))
        other = asyncio.create_task(polls.wait("b", 10.0))
        await asyncio.sleep(3.0)
        assert len(polls) == 2
        polls.wake("a")
        polls.wake("c")  # nobody waits for it
        assert await waiting is True
        assert now() == 3.0
        assert await other is False
        assert now() == 10.0
        assert len(polls) == 0

    run_virtual(main())


@pytest.mark.parametrize(("asked_s", "waits_s"), [(-1.0, 0.0), (0.0, 0.0), (1e9, MAX_WAIT_S)])
def test_no_longer_than_is_right(asked_s: float, waits_s: float) -> None:
    async def main() -> None:
        polls = LongPolls()
        assert await polls.wait("a", asked_s) is False
        assert now() == pytest.approx(waits_s)

    run_virtual(main())


def test_the_last_one_waits() -> None:
    async def main() -> None:
        polls = LongPolls(max_waiting=1)
        first = asyncio.create_task(polls.wait("a", 10.0))
        await asyncio.sleep(1.0)
        second = asyncio.create_task(polls.wait("a", 10.0))
        assert await first is True
        assert now() == 1.0
        polls.wake("a")
        assert await second is True
        assert len(polls) == 0

    run_virtual(main())


def test_whoever_is_cancelled_leaves_nothing() -> None:
    async def main() -> None:
        polls = LongPolls()
        first = asyncio.create_task(polls.wait("a", 10.0))
        await asyncio.sleep(0.0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert len(polls) == 0
        # One that comes in the same turn is not swept away with it.
        first = asyncio.create_task(polls.wait("a", 10.0))
        await asyncio.sleep(0.0)
        first.cancel()
        second = asyncio.create_task(polls.wait("a", 10.0))
        await asyncio.gather(first, return_exceptions=True)
        assert len(polls) == 1
        polls.wake("a")
        assert await second is True

    run_virtual(main())


def test_there_is_a_bound() -> None:
    async def main() -> None:
        polls = LongPolls(max_waiting=2)
        tasks = [asyncio.create_task(polls.wait(n, 10.0)) for n in range(2)]
        await asyncio.sleep(0.0)
        with pytest.raises(RendezvousFull) as refused:
            await polls.wait(2, 10.0)
        assert refused.value.retry_after_s > 0
        assert len(polls) == 2
        assert polls.refused == 1
        polls.wake(0)
        assert await polls.wait(2, 1.0) is False
        await asyncio.gather(*tasks)

    run_virtual(main())
