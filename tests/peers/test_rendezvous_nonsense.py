"""A relay whose answers make no sense: errors in one line, and no haste."""

import asyncio
import json
from collections.abc import Callable

import pytest

from relay.wire.rendezvous import WAIT_PATH, WaitRequest
from tests.peers.dial_scene import say
from tests.peers.fake_relay import Answer, Request
from tests.peers.lying_relay import LyingRelay
from tests.peers.lying_world import World, run


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b""),
        (200, {}, b"{}"),
        (200, {}, b'{"invites": [{"number": 1, "invite": 1}]}'),
        (200, {}, b'{"invites": [{"number": 0, "invite": {}}]}'),
        (200, {}, b"[" * 5000),
        (500, {}, b"\xff"),
        (429, {"retry-after": "99999"}, b""),
        (429, {"retry-after": "soon"}, b""),
        (302, {"location": "https://elsewhere.example/"}, b""),
    ],
)
def test_polls_that_are_answered_with_nonsense(answer: tuple[int, dict[str, str], bytes]) -> None:
    """The listener goes on, and does not hurry."""

    async def main(at: World) -> None:
        async with await at.listen() as listener:
            at.relay.script = [answer] * 6
            await asyncio.sleep(120.0)
            assert not at.relay.script
            async with await at.dial() as here:
                await say(here, await listener.accept(), b"hello")

    run(main)


def test_polls_that_are_answered_at_once_do_not_keep_the_listener_busy() -> None:
    async def main(at: World) -> None:
        async with await at.listen():
            before = len(at.relay.requests)
            await asyncio.sleep(60.0)
            assert len(at.relay.requests) - before <= 130

    run(main)


def test_more_invites_than_were_asked_for() -> None:
    async def main(at: World) -> None:
        async with await at.listen() as listener:
            invites = [{"number": n, "invite": {}} for n in range(1, 10)]
            at.relay.script = [(200, {}, json.dumps({"invites": invites}).encode())]
            await asyncio.sleep(30.0)
            assert not at.relay.script
            assert not listener.refused

    run(main)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ((200, {}, b""), "refused"),
        ((500, {}, b"\xff"), "500"),
        ((404, {}, b""), "nobody listens"),
        ((429, {"retry-after": "99999"}, b'{"detail": "full"}'), "full"),
        ((400, {}, b'{"detail": "a\\nb"}'), "a?b"),
    ],
)
def test_invites_that_are_answered_with_nonsense(
    answer: tuple[int, dict[str, str], bytes], word: str
) -> None:
    async def main(at: World) -> None:
        at.relay.invite_answer = answer
        error = await at.expect_failure()
        assert word in str(error)
        assert "\n" not in str(error)

    run(main)


JUNK = {"packet": "AAAA", "v": 1, "auth": "certificate"}


class Haste(LyingRelay):
    """Answers every poll at once, as a test says."""

    answer: Callable[[WaitRequest], Answer]

    def _usual(self, request: Request) -> Answer:
        if request.path == WAIT_PATH:
            return self.answer(WaitRequest.decode(request.body))
        return super()._usual(request)


def junk(asked: WaitRequest) -> Answer:
    """As many invites as were asked for, and none that is one."""
    numbers = range(asked.after + 1, asked.after + 1 + asked.limit)
    invites = [{"number": number, "invite": JUNK} for number in numbers]
    return 200, {}, json.dumps({"invites": invites}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        junk,
        lambda _: (404, {}, b""),
        lambda _: (429, {"retry-after": "0"}, b""),
        lambda _: (503, {"retry-after": "0"}, b""),
    ],
)
def test_a_relay_in_haste_does_not_keep_the_listener_busy(
    answer: Callable[[WaitRequest], Answer],
) -> None:
    async def main(at: World) -> None:
        liar = at.replace_relay(Haste)
        liar.answer = answer
        async with await at.listen() as listener:
            await asyncio.sleep(10.0)  # the first few may come fast
            before, refused = len(liar.requests), listener.refused.total()
            await asyncio.sleep(60.0)
            assert 1 <= len(liar.requests) - before <= 460
            assert listener.refused.total() - refused <= 2500

    run(main)


def test_an_answer_that_is_too_large_does_not_end_the_listener() -> None:
    async def main(at: World) -> None:
        async with await at.listen() as listener:
            at.relay.script = [(200, {}, b" " * 100_000)]
            await asyncio.sleep(60.0)
            assert not at.relay.script
            async with await at.dial() as here:
                await say(here, await listener.accept(), b"hello")

    run(main)
