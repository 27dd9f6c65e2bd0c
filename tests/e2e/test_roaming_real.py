"""A transfer over real sockets goes on when an address, a port, the relay or a worker is gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from peers import InviteKey, PathPolicy, Pipe, RelayTrust, accept, dial

from ..lab.movable import MovableNetwork
from ..lab.processes import PATIENCE_S, RelayProcess, wait_until_gone
from ..lab.shim import UdpShim
from ..lab.transfer import Meter, receive, send
from .conftest import Note

PROMISE_S = 3.0
SIZE = 4_500_000
RATE = 1_500_000.0


@dataclass(slots=True)
class Stage:
    """A relay; the dialer reaches it through a NAT, and can move."""

    relay: RelayProcess
    nat: UdpShim
    network: MovableNetwork


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with RelayProcess(tmp_path) as relay, UdpShim(relay.address) as nat:
        yield Stage(relay, nat, MovableNetwork())


@contextlib.asynccontextmanager
async def _pipe(stage: Stage) -> AsyncIterator[tuple[Pipe, Pipe]]:
    dialing = await dial(
        str(stage.nat.address),
        auth=InviteKey(),
        trust=RelayTrust(),
        path_policy=PathPolicy.RELAY_ONLY,
        network=stage.network,
    )
    async with dialing:
        answering = asyncio.create_task(accept(dialing.invite))
        dialer = await dialing.pipe()
        async with await answering as accepter:
            yield dialer, accepter
            await dialer.close()
            await accepter.wait_closed()


async def _transfer(
    stage: Stage, event: Callable[[Stage], Awaitable[None]], *, dialer_sends: bool
) -> float:
    """Transfer with the event in its middle; returns the longest pause after it."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(2 * PATIENCE_S), _pipe(stage) as (dialer, accepter):
        sender, receiver = (dialer, accepter) if dialer_sends else (accepter, dialer)
        meter = Meter()
        sending = asyncio.create_task(
            send(sender.open_stream(unidirectional=True), SIZE, rate=RATE)
        )
        receiving = asyncio.create_task(receive(await receiver.accept_stream(), meter))
        await meter.until(SIZE // 4)
        await event(stage)
        since = loop.time()
        assert meter.count < SIZE
        assert await receiving == await sending
        return meter.longest_pause_s(since)


async def _moves(stage: Stage) -> None:
    stage.network.move("127.0.0.2")


async def _nat_rebinds(stage: Stage) -> None:
    stage.nat.rebind()


async def _relay_is_killed(stage: Stage) -> None:
    """Returns when it is back."""
    workers = stage.relay.worker_pids()
    assert workers
    stage.relay.kill()
    await asyncio.to_thread(wait_until_gone, workers, 2.0)
    await asyncio.to_thread(stage.relay.start)


async def _a_worker_is_killed(stage: Stage) -> None:
    stage.relay.kill_worker()


async def _workers_are_killed(stage: Stage) -> None:
    """All of them: which one serves the transfer is the kernel's choice."""
    assert len(stage.relay.kill_workers()) == 2


EVENTS = [_moves, _nat_rebinds, _relay_is_killed, _a_worker_is_killed, _workers_are_killed]


@pytest.mark.parametrize("dialer_sends", [True, False], ids=["dialer-sends", "dialer-receives"])
@pytest.mark.parametrize("event", EVENTS, ids=[each.__name__.strip("_") for each in EVENTS])
def test_transfer_completes_whole(
    stage: Stage, note: Note, event: Callable[[Stage], Awaitable[None]], dialer_sends: bool
) -> None:
    pause = asyncio.run(_transfer(stage, event, dialer_sends=dialer_sends))
    note(f"longest pause {pause:.2f} s")
    assert pause < PROMISE_S
