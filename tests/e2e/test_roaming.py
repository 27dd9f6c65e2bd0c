"""A transfer goes on whatever moves underneath it. Virtual time, the relay's real control.

The transfer is paced, so that each pause in it is one of the network's.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from relay.certificate import ServerCertificate

from ..lab.pairs import joined
from ..lab.scene import Scene, scene
from ..lab.transfer import Meter, receive, send
from ..lab.virtual_loop import run_virtual
from ..lab.virtual_network import Conditions
from .conftest import LONG, Note

PROMISE_S = 3.0
SIZE = 2_500_000
RATE = 500_000.0
SEEDS = range(20 if LONG else 2)

Event = Callable[[Scene], Awaitable[float]]
"""Does something to the network; returns the moment from which the pause counts."""


async def _dialer_moves(at: Scene) -> float:
    at.dialer.move("198.51.100.77", "2001:db8:d:1::77")
    return asyncio.get_running_loop().time()


async def _dialer_moves_to_the_other_family(at: Scene) -> float:
    family_left = at.dialer.addresses[1:]
    at.dialer.move(*family_left)
    return asyncio.get_running_loop().time()


async def _accepter_moves(at: Scene) -> float:
    at.accepter.move("203.0.113.77", "2001:db8:a:1::77")
    return asyncio.get_running_loop().time()


async def _both_move(at: Scene) -> float:
    await _dialer_moves(at)
    return await _accepter_moves(at)


async def _relay_is_killed_and_restarted(at: Scene) -> float:
    at.relay.kill()
    await asyncio.sleep(at.network.random.uniform(0.2, 6.0))
    await at.relay.start()
    return asyncio.get_running_loop().time()


async def _dialer_is_without_a_network_for_10_s(at: Scene) -> float:
    addresses = at.dialer.addresses
    at.dialer.move()
    await asyncio.sleep(10.0)
    at.dialer.move(*addresses)
    return asyncio.get_running_loop().time()


EVENTS: list[Event] = [
    _dialer_moves,
    _dialer_moves_to_the_other_family,
    _accepter_moves,
    _both_move,
    _relay_is_killed_and_restarted,
    _dialer_is_without_a_network_for_10_s,
]


async def _transfer_through(at: Scene, event: Event, *, dialer_sends: bool) -> float:
    """Transfer with the event in its middle; returns the longest pause after it."""
    async with joined(at) as pair:
        sender, receiver = pair.dialer, pair.accepter
        if not dialer_sends:
            sender, receiver = receiver, sender
        meter = Meter()
        sending = asyncio.create_task(
            send(sender.open_stream(unidirectional=True), SIZE, rate=RATE)
        )
        receiving = asyncio.create_task(receive(await receiver.accept_stream(), meter))
        await meter.until(SIZE // 4)
        since = await event(at)
        assert meter.count < SIZE
        assert await receiving == await sending
        return meter.longest_pause_s(since)


def _run(
    certificate: ServerCertificate,
    event: Event,
    *,
    dialer_sends: bool,
    seed: int,
    conditions: Conditions,
) -> float:
    async def main() -> float:
        async with scene(certificate, seed=seed, peers=conditions) as at:
            return await _transfer_through(at, event, dialer_sends=dialer_sends)

    return run_virtual(main(), limit_s=300)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("dialer_sends", [True, False], ids=["dialer-sends", "dialer-receives"])
@pytest.mark.parametrize("event", EVENTS, ids=[each.__name__.strip("_") for each in EVENTS])
def test_transfer_completes_whole(
    certificate: ServerCertificate, note: Note, event: Event, dialer_sends: bool
) -> None:
    conditions = Conditions(latency_s=0.02, jitter_s=0.005)
    pauses = [
        _run(certificate, event, dialer_sends=dialer_sends, seed=seed, conditions=conditions)
        for seed in SEEDS
    ]
    note(f"longest pause of {len(pauses)} runs: {max(pauses):.2f} s")
    assert max(pauses) < PROMISE_S


@pytest.mark.timeout(900)
@pytest.mark.parametrize("dialer_sends", [True, False], ids=["dialer-sends", "dialer-receives"])
def test_nat_gives_the_dialer_another_port(
    certificate: ServerCertificate, note: Note, dialer_sends: bool
) -> None:
    """Which it cannot see: when it only receives, nothing of its own would tell the relay."""

    def run(seed: int) -> float:
        async def main() -> float:
            async with scene(certificate, seed=seed) as at:
                nat = at.network.nat("198.51.100.200")
                at.dialer.move("10.0.0.2", behind=nat)

                async def rebinds(_: Scene) -> float:
                    nat.rebind()
                    return asyncio.get_running_loop().time()

                return await _transfer_through(at, rebinds, dialer_sends=dialer_sends)

        return run_virtual(main(), limit_s=300)

    pauses = [run(seed) for seed in SEEDS]
    note(f"longest pause of {len(pauses)} runs: {max(pauses):.2f} s")
    assert max(pauses) < PROMISE_S


def test_waiting_dialer_outlives_the_relay_and_its_own_address(
    certificate: ServerCertificate,
) -> None:
    """Nothing flows while it waits for its accepter, and still it must be found there."""

    async def main() -> None:
        async with scene(certificate) as at:
            nat = at.network.nat("198.51.100.200", idle_timeout_s=30)
            at.dialer.move("10.0.0.2", behind=nat)

            async def trouble() -> None:
                await asyncio.sleep(300)
                await _relay_is_killed_and_restarted(at)
                await asyncio.sleep(300)
                nat.rebind()
                await asyncio.sleep(300)
                at.dialer.move("198.51.100.77")

            troubling = asyncio.create_task(trouble())
            async with joined(at, wait_s=1200) as pair:
                await troubling
                assert pair.handshake_s < 1.0

    run_virtual(main(), limit_s=1800)


def test_idle_pipe_keeps_its_nat_binding(certificate: ServerCertificate) -> None:
    """NATs forget after 30 s; whoever was silent for ten minutes is still reached at once."""

    async def main() -> None:
        async with scene(certificate) as at:
            for host, public in ((at.dialer, "198.51.100.200"), (at.accepter, "203.0.113.200")):
                nat = at.network.nat(public, idle_timeout_s=30)
                host.move("10.0.0.2", behind=nat)
            async with joined(at) as pair:
                loop = asyncio.get_running_loop()
                for sender, receiver in (
                    (pair.dialer, pair.accepter),
                    (pair.accepter, pair.dialer),
                ):
                    await asyncio.sleep(600)
                    sent_at = loop.time()
                    sender.send_datagram(b"still there?")
                    assert await receiver.receive_datagram() == b"still there?"
                    assert loop.time() - sent_at < 0.1

    run_virtual(main(), limit_s=1800)
