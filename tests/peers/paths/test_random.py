"""Whatever the network does: the pipe goes on, and is direct in the end where it can be."""

import asyncio
import itertools
import os
import random

import pytest

from peers.paths.path import Direct
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Behaviour, Conditions, Filtering, Host, MappingBehaviour

from .lab import INDEPENDENT, PORT, RELAY_HOST, End, World

SEEDS = 2_000 if os.environ.get("QUICPIPE_LONG") else 40
BATCH = 20
LASTS_S = 150.0
QUIET_S = 75.0
"""The longest pause between two attempts is a minute."""
SENDING_S = 2.0
"""No gap in what arrives may be longer, while nothing but the direct path is disturbed."""


def _behaviour(chance: random.Random) -> tuple[Behaviour, ...]:
    if chance.random() < 0.2:
        return ()
    mapping = chance.choice([*MappingBehaviour, MappingBehaviour.INDEPENDENT])
    return tuple(
        Behaviour(mapping, chance.choice(list(Filtering)), chance.random() < 0.5, random_ports=True)
        for _ in range(chance.choice([1, 1, 1, 2]))
    )


def _conditions(chance: random.Random) -> Conditions:
    return Conditions(
        latency_s=chance.choice([0.001, 0.02, 0.1]),
        jitter_s=chance.choice([0.0, 0.01]),
        loss=chance.choice([0.0, 0.0, 0.02]),
        duplicate=chance.choice([0.0, 0.05]),
        late=chance.choice([0.0, 0.02]),
    )


def _disturb(world: World, host: Host, chance: random.Random) -> None:
    what = chance.choice(["cut", "cut", "mend", "mend", "change", "rebind"])
    if what == "cut":
        host.up.passes = lambda _, source, destination: destination.host == RELAY_HOST
    elif what == "mend":
        host.up.passes = None
    elif what == "change":
        host.set_conditions(_conditions(chance))
    elif host in world.nats:
        world.nats[host].rebind()


def _needs_luck(layers: list[tuple[Behaviour, ...]]) -> bool:
    """Whether only birthday probing helps, which is not tried again and again."""
    dependent = [any(each.mapping is not INDEPENDENT for each in nats) for nats in layers]
    by_port = [any(each.filtering is PORT for each in nats) for nats in layers]
    return any(
        dependent[one] and (dependent[other] or by_port[other]) for one, other in ((0, 1), (1, 0))
    )


async def _learn(end: End) -> None:
    """As the connection to the relay does: the outside address is asked for again and again."""
    while True:
        await asyncio.sleep(10)
        end.ask_relay()
        await asyncio.sleep(1)
        end.start()


async def _send(end: End) -> None:
    while True:
        end.send_data()
        await asyncio.sleep(0.1)


async def _one(seed: int) -> None:
    chance = random.Random(seed)
    world = World(seed)
    layers = [_behaviour(chance), _behaviour(chance)]
    hosts = [
        world.home(name, number, *nats, v6=chance.random() < 0.2)
        for number, name, nats in zip((1, 2), ("dialer", "accepter"), layers, strict=True)
    ]
    ends = await world.join(*hosts)
    for host in hosts:
        host.set_conditions(_conditions(chance))
    is_busy = chance.random() < 0.5
    tasks = [asyncio.create_task(_learn(each)) for each in ends]
    if is_busy:
        tasks += [asyncio.create_task(_send(each)) for each in ends]
    began = world.now
    while world.now < began + LASTS_S:
        await asyncio.sleep(chance.uniform(0.1, 15))
        _disturb(world, chance.choice(hosts), chance)
    for host in hosts:
        host.up.passes = None
        host.set_conditions(Conditions(latency_s=0.02))
    was_direct = all(each.direct_at is not None for each in ends)
    await asyncio.sleep(QUIET_S)
    if was_direct and not _needs_luck(layers):
        explained = [line for end in ends for line in end.agent.report(world.now).lines()]
        assert all(isinstance(end.agent.current, Direct) for end in ends), explained
    if is_busy:
        for end in ends:
            gaps = [after - before for before, after in itertools.pairwise(end.data_at)]
            assert max(gaps) < SENDING_S, (end.host.name, max(gaps))
    for end in ends:
        assert len(end.ids) <= 2_300
        assert len(end.sockets) <= 2 + 10, "birthday sockets are left"
        assert len(end.switches) < 60
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_disturbances(first: int) -> None:
    for seed in range(first, first + BATCH):
        try:
            run_virtual(_one(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
