"""Listeners that come, go and come back, on a virtual network."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from peers import (
    AnyPeer,
    Identity,
    ListenerReplaced,
    NameTaken,
    NotListening,
    Pinned,
    PipeClosed,
    listen,
    look_up,
)
from tests.lab.scene import Scene
from tests.peers.dial_scene import RELAY, certificate, now, run, say, trust
from tests.peers.rendezvous_scene import (
    HERE,
    STRANGER,
    THERE,
    dial_from,
    listen_at,
    relay_counts,
)


def test_a_listener_that_was_gone_misses_nothing_that_lives() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at) as listener:
            addresses = at.accepter.addresses
            await asyncio.sleep(3.0)
            at.accepter.move()  # no network at all
            await asyncio.sleep(20.0)
            dialing = asyncio.create_task(dial_from(at))
            await asyncio.sleep(25.0)
            assert not dialing.done()
            at.accepter.move(*addresses)
            async with await dialing as here:
                await say(here, await listener.accept(), b"hello")

    run(main)


def test_a_listener_whose_address_changes() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at) as listener:
            await asyncio.sleep(3.0)
            at.accepter.move("203.0.113.99")
            await asyncio.sleep(40.0)
            async with await dial_from(at) as here:
                await say(here, await listener.accept(), b"hello")

    run(main)


@pytest.mark.parametrize("is_told", [True, False], ids=["stopped", "killed"])
def test_a_listener_outlives_its_relay(is_told: bool) -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, name="laptop") as listener:
            for _ in range(2):
                await asyncio.sleep(5.0)
                if is_told:
                    await at.relay.stop()
                else:
                    at.relay.kill()
                await asyncio.sleep(10.0)
                await at.relay.start()
                await asyncio.sleep(60.0)
                async with await dial_from(at) as here:
                    await say(here, await listener.accept(), b"hello")
                assert listener.name == "laptop"
                await look_up(RELAY, "laptop", trust=trust(at), network=at.dialer)

    run(main)


def test_a_name_that_was_lost_while_the_relay_was_down() -> None:
    """The listener goes on under its fingerprint."""

    async def main(at: Scene) -> None:
        async with await listen_at(at, name="laptop") as listener:
            addresses = at.accepter.addresses
            at.accepter.move()
            await at.relay.stop()
            await at.relay.start()
            other = await listen(
                RELAY,
                identity=STRANGER,
                auth=AnyPeer(STRANGER),
                trust=trust(at),
                name="laptop",
                network=at.dialer,
            )
            async with other:
                at.accepter.move(*addresses)
                await asyncio.sleep(60.0)
                async with await dial_from(at) as here:
                    await say(here, await listener.accept(), b"hello")
                assert listener.name is None
                found = await look_up(RELAY, "laptop", trust=trust(at), network=at.dialer)
                assert found == STRANGER.fingerprint

    run(main)


def test_two_listeners_with_the_same_identity() -> None:
    async def main(at: Scene) -> None:
        first = await listen_at(at)
        await asyncio.sleep(1.0)
        async with await listen_at(at) as second:
            with pytest.raises(ListenerReplaced, match="same identity"):
                await first.accept()
            await first.close()
            await asyncio.sleep(30.0)  # they do not fight for it
            async with await dial_from(at) as here:
                await say(here, await second.accept(), b"hello")
            assert relay_counts(at, "listeners") == 1

    run(main)


def test_a_name_that_is_taken() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, name="laptop"):
            with pytest.raises(NameTaken, match="'laptop'"):
                await listen_at(at, AnyPeer(STRANGER), who=STRANGER, name="laptop")
        async with await listen_at(at, AnyPeer(STRANGER), who=STRANGER, name="laptop"):
            pass

    run(main)


def test_stopping_leaves_the_pipes_that_were_taken() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, AnyPeer(THERE)) as listener:
            here = await dial_from(at)
            there = await listener.accept()
            waits = await dial_from(at)  # nobody has taken its other end
            await listener.stop()
            await listener.stop()
            assert "takes no more" in str(await waits.wait_closed())
            with pytest.raises(NotListening):
                await dial_from(at)
            with pytest.raises(PipeClosed):
                await listener.accept()
            assert [pipe async for pipe in listener] == []
            await say(here, there, b"hello")
        assert isinstance(await here.wait_closed(), PipeClosed)

    run(main)


Way = Callable[[Scene], Awaitable[None]]


async def _in_the_middle_of_a_poll(at: Scene) -> None:
    await asyncio.sleep(7.0)


async def _in_the_middle_of_a_handshake(at: Scene) -> None:
    task = asyncio.create_task(dial_from(at))
    while not relay_counts(at, "invites"):  # noqa: ASYNC110  # no event tells it
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    task.add_done_callback(lambda done: done.exception())


async def _without_a_network(at: Scene) -> None:
    at.accepter.move()
    await asyncio.sleep(50.0)


@pytest.mark.parametrize(
    "when", [_in_the_middle_of_a_poll, _in_the_middle_of_a_handshake, _without_a_network]
)
def test_closing_leaves_nothing_behind(when: Way) -> None:
    async def main(at: Scene) -> None:
        listener = await listen_at(at)
        await when(at)
        began = now()
        await asyncio.gather(listener.close(), listener.close())
        assert now() - began < 10.0
        await asyncio.sleep(80.0)  # a dialer's patience

    run(main)


def test_a_cancelled_dialer_leaves_nothing_behind() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, AnyPeer(THERE), max_pending=1), await dial_from(at):
            dialing = asyncio.create_task(dial_from(at))
            await asyncio.sleep(3.0)
            dialing.cancel()
            await asyncio.gather(dialing, return_exceptions=True)

    run(main)


def test_the_identity_may_be_on_p256() -> None:
    async def main(at: Scene) -> None:
        who = _on_p256()
        async with await listen_at(at, AnyPeer(who), who=who) as listener:
            auth = Pinned(HERE, [who.fingerprint])
            async with await dial_from(at, who.fingerprint, auth) as here:
                await say(here, await listener.accept(), b"hello")

    run(main)


def _on_p256() -> Identity:
    made = certificate()
    assert isinstance(made.private_key, ec.EllipticCurvePrivateKey)
    return Identity(made.chain[0], made.private_key)
