"""A relay whose answers make no sense: errors in one line, and no haste."""

import asyncio
import json

import pytest

from tests.peers.dial_scene import say
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
