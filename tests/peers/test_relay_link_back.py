"""The link to the relay, when our own network was away and is back."""

import asyncio

import pytest

from relay.wire.connection_id import Derivation
from tests.peers.relay_world import KEY, World, scene, until


@pytest.mark.parametrize("away_s", [61.0, 63.0, 68.0, 300.0])
def test_a_network_that_is_back_is_used_at_once(away_s: float) -> None:
    """However long it was away: as long as a laptop sleeps, the relay is tried less and less."""

    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        home = world.peer_host.addresses
        world.peer_host.move()
        await until(lambda: link._reconnecting is not None)
        await asyncio.sleep(away_s)
        world.peer_host.move(*home)
        assert await until(lambda: link.reconnections == 1) < 2.0
        await world.close(link)

    scene(main)


def test_a_cable_that_is_back_is_used_at_once() -> None:
    """The address stays without it; the way to the router goes."""

    async def main() -> None:
        world = World()
        world.peer_host.router = "192.168.1.1"
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        world.peer_host.up.passes = lambda *_: False
        world.peer_host.router = None
        await until(lambda: link._reconnecting is not None)
        await asyncio.sleep(63.0)
        world.peer_host.up.passes = None
        world.peer_host.router = "192.168.1.1"
        assert await until(lambda: link.reconnections == 1) < 2.0
        await world.close(link)

    scene(main)
