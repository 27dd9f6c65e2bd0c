"""The virtual clock itself: a laboratory that lies is worse than none."""

import asyncio
import socket
import threading
import time

import pytest

from .virtual_loop import Deadlock, VirtualLoop, run_virtual


def test_waits_cost_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run_virtual(main(), limit_s=4000) == pytest.approx(3600)


def test_timers_run_in_order_at_their_time() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str, float]] = []

        def note(name: str) -> None:
            seen.append((name, loop.time()))

        for name, delay in (("late", 50.0), ("early", 0.1), ("middle", 7.0)):
            loop.call_later(delay, note, name)
        await asyncio.sleep(60)
        return seen

    expected = [("early", 0.1), ("middle", 7.0), ("late", 50.0)]
    for (name, at), (expected_name, expected_at) in zip(run_virtual(main()), expected, strict=True):
        assert name == expected_name
        assert at == pytest.approx(expected_at)


def test_deadlock_is_an_error_that_names_who_waits() -> None:
    async def waits_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with asyncio.timeout(None):
            await waits_for_ever()

    with pytest.raises(Deadlock, match="main"), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_limit_is_in_virtual_seconds() -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        run_virtual(asyncio.sleep(1e6), limit_s=1e5)
    assert time.monotonic() - before < 60


def test_executor_holds_the_clock() -> None:
    release = threading.Event()

    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        loop.call_later(1000, lambda: None)
        loop.call_soon(release.set)

        def job() -> str:
            release.wait(10)
            return "answered"

        return await loop.run_in_executor(None, job), loop.time()

    assert run_virtual(main()) == ("answered", 0.0)


def test_file_descriptors_work() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            got: asyncio.Future[bytes] = loop.create_future()
            loop.add_reader(ours, lambda: got.set_result(ours.recv(100)))
            loop.call_later(5, theirs.send, b"hello")
            try:
                return await got
            finally:
                loop.remove_reader(ours)

    assert run_virtual(main()) == b"hello"
