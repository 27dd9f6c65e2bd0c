"""An accepter that stays, and answers several."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from peers import (
    Accepter,
    CloseCode,
    InviteUsed,
    NoAnswer,
    Pipe,
    PipeClosed,
    RegistrationFailed,
    RelayUnreachable,
    UsageError,
)
from peers.accepter import _Answer
from peers.berth import Berth
from peers.link.link import RelayLink
from tests.lab.scene import Scene
from tests.peers.dial_scene import RELAY, accepter_at, dial_at, open_sockets, run, say, trust


def test_an_accepter_answers_several_at_a_time() -> None:
    async def main(at: Scene) -> None:
        async with accepter_at(at) as accepter:
            dialings = [await dial_at(at) for _ in range(5)]
            pipes = await asyncio.gather(*(accepter.accept(each.invite) for each in dialings))
            assert open_sockets(at.accepter) == 2  # one for each family
            for number, (dialing, there) in enumerate(zip(dialings, pipes, strict=True)):
                await say(await dialing.pipe(), there, b"pipe %d" % number)
            await pipes[0].close()
            await asyncio.sleep(0.5)
            assert at.relay.control.registrations == 8  # its dialer has noticed
            await say(await dialings[1].pipe(), pipes[1], b"the others go on")
            for dialing in dialings:
                await dialing.close()

    run(main)


def test_an_accepter_answers_an_invite_once() -> None:
    async def main(at: Scene) -> None:
        async with accepter_at(at) as accepter, await dial_at(at) as dialing:
            there = await accepter.accept(dialing.invite)
            with pytest.raises(InviteUsed):
                await accepter.accept(dialing.invite)
            await there.close()
            with pytest.raises(InviteUsed):
                await accepter.accept(dialing.invite)

    run(main)


def test_an_accepter_knows_an_invite_by_its_packet_alone() -> None:
    async def main(at: Scene) -> None:
        async with accepter_at(at) as accepter, await dial_at(at) as dialing:
            invite = dialing.invite
            await accepter.accept(invite)
            assert invite.expires is not None
            for altered in (
                replace(invite, packet=invite.packet + b"\0"),
                replace(invite, packet=invite.packet + bytes(200)),
                replace(invite, expires=invite.expires + 1000),
            ):
                with pytest.raises(InviteUsed):
                    await accepter.accept(altered, answer_timeout_s=1.0)

    run(main)


def test_a_failed_registration_does_not_use_the_invite_up(monkeypatch: pytest.MonkeyPatch) -> None:
    moor = Berth.moor
    failures: list[Exception] = [RegistrationFailed("full", status=429), RelayUnreachable("gone")]

    async def failing(self: Berth, link: RelayLink) -> None:
        if link is accepters and failures:
            raise failures.pop()
        await moor(self, link)

    accepters: RelayLink | None = None
    monkeypatch.setattr(Berth, "moor", failing)

    async def main(at: Scene) -> None:
        nonlocal accepters
        async with accepter_at(at) as accepter, await dial_at(at) as dialing:
            accepters = accepter._link
            for kind in (RelayUnreachable, RegistrationFailed):
                with pytest.raises(kind):
                    await accepter.accept(dialing.invite)
            there = await accepter.accept(dialing.invite)
            await say(await dialing.pipe(), there, b"the third time it worked")
            with pytest.raises(InviteUsed):
                await accepter.accept(dialing.invite)

    run(main)


def test_an_invite_without_an_answer_from_the_dialer_is_used_up() -> None:
    async def main(at: Scene) -> None:
        async with accepter_at(at) as accepter:
            async with await dial_at(at) as dialing:
                invite = dialing.invite
            with pytest.raises(NoAnswer):
                await accepter.accept(invite, answer_timeout_s=1.0)
            with pytest.raises(InviteUsed):
                await accepter.accept(invite)

    run(main)


def test_a_pipe_that_opens_while_its_caller_is_cancelled_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give = _Answer.give
    opened: list[Pipe] = []

    async def cancelling(self: _Answer, link: RelayLink, timeout_s: float) -> Pipe:
        opened.append(await give(self, link, timeout_s))
        assert caller is not None
        asyncio.get_running_loop().call_soon(caller.cancel)
        return opened[0]

    caller: asyncio.Task[Pipe] | None = None
    monkeypatch.setattr(_Answer, "give", cancelling)

    async def main(at: Scene) -> None:
        nonlocal caller
        async with accepter_at(at) as accepter, await dial_at(at) as dialing:
            caller = asyncio.create_task(accepter.accept(dialing.invite))
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert not opened[0].is_open
            with pytest.raises(PipeClosed, match="the accepter gave up"):
                await (await dialing.pipe()).accept_stream()

    run(main)


def test_an_accepter_refuses_what_is_for_another_relay() -> None:
    async def main(at: Scene) -> None:
        async with accepter_at(at) as accepter, await dial_at(at) as dialing:
            other = replace(dialing.invite, fingerprint="sha256:" + 64 * "0")
            with pytest.raises(UsageError, match="for another relay"):
                await accepter.accept(other)
            await (await accepter.accept(dialing.invite)).close()

    run(main)


def test_the_other_ends_learn_that_the_accepters_application_failed() -> None:
    async def main(at: Scene) -> None:
        async with await dial_at(at) as dialing:
            with suppress(ZeroDivisionError):
                async with accepter_at(at) as accepter:
                    await accepter.accept(dialing.invite)
                    here = await dialing.pipe()
                    raise ZeroDivisionError
            ended = await here.wait_closed()
            assert isinstance(ended, PipeClosed)
            assert ended.code == CloseCode.FAILED

    run(main)


def test_closing_an_accepter_ends_what_is_under_way() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at)
        gone = dialing.invite
        await dialing.close()
        accepter = await Accepter.connect(RELAY, trust=trust(at), network=at.accepter)
        async with await dial_at(at) as dialing:
            await accepter.accept(dialing.invite)
            here = await dialing.pipe()
            waiting = asyncio.create_task(accepter.accept(gone))
            await asyncio.sleep(1.0)
            await accepter.close()
            with pytest.raises(PipeClosed, match="the accepter was closed"):
                await waiting
            with pytest.raises(PipeClosed, match="the accepter was closed"):
                await accepter.accept(gone)
            assert isinstance(await here.wait_closed(), PipeClosed)

    run(main)
