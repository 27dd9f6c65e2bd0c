"""What the link knows of its own address, as the relay sees it."""

import asyncio

from peers.link.link import RelayLink
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.outside import ADDRESS_PATH
from tests.peers.relay_world import KEY, World, now, scene, talk, until

LISTENERS = (Address("0.0.0.0", 4433), Address("0.0.0.0", 4434))


def local_port(link: RelayLink) -> int:
    way = link.endpoint.current
    assert way is not None
    return way.socket.local.port


def changes(link: RelayLink) -> list[Address | None]:
    """What the link says of its address from now on."""
    seen: list[Address | None] = []
    link.outside.watch(seen.append)
    return seen


def test_the_outside_address_comes_with_the_registration() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        seen = [link.outside.address]
        await link.register(KEY, Derivation.BLAKE3, 16)
        assert seen == [None]
        assert link.outside.address == Address("192.0.2.7", local_port(link))
        assert [request.path for request in world.relay.requests] == ["/v1/register"]
        await world.close(link)

    scene(main)


def test_who_watches_has_the_relay_asked_and_hears_of_a_move() -> None:
    async def main() -> None:
        world = World()
        world.relay.listeners = LISTENERS
        link = await world.connect()
        seen = changes(link)
        await until(lambda: len(seen) == 1)
        assert link.outside.listeners == LISTENERS
        await link.register(KEY, Derivation.BLAKE3, 16)
        await talk(link)
        world.peer_host.move("203.0.113.5")
        await until(lambda: len(seen) == 2)
        assert [each.host for each in seen if each] == ["192.0.2.7", "203.0.113.5"]
        assert link.outside.address == seen[-1]
        await world.close(link)

    scene(main)


def test_a_new_socket_is_told_even_if_the_address_is_the_same() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        seen = changes(link)
        await link.register(KEY, Derivation.BLAKE3, 16)
        await until(lambda: link.outside.listeners is not None)
        before = len(seen)
        await talk(link)
        world.relay.kill()
        await asyncio.sleep(5.0)
        world.relay = world.start_relay()
        await until(lambda: len(seen) == before + 1)
        assert link.reconnections == 1
        assert {each.host for each in seen if each} == {"192.0.2.7"}
        await world.close(link)

    scene(main)


def test_without_watchers_a_move_costs_no_request_and_old_news_is_forgotten() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        await talk(link)
        world.peer_host.move("203.0.113.5")
        await until(lambda: link.outside.address is None)
        assert not [each for each in world.relay.requests if each.path == ADDRESS_PATH]
        await world.close(link)

    scene(main)


def test_an_older_relay_or_one_that_talks_nonsense_leaves_it_unknown() -> None:
    async def main() -> None:
        world = World()
        world.relay.script = [(404, {}, b"{}"), (200, {}, b"nonsense"), (425, {}, b""), None]
        link = await world.connect()
        seen = changes(link)
        await asyncio.sleep(3.0)
        link.outside.ask()
        await asyncio.sleep(3.0)
        assert seen == []
        link.outside.ask()  # 425, and then an answer
        start = now()
        await until(lambda: len(seen) == 1)
        assert 0.1 < now() - start < 1.0
        await world.close(link)

    scene(main)


def test_an_address_that_is_none_does_not_fail_the_registration() -> None:
    async def main() -> None:
        world = World()
        body = b'{"id": "00", "address": "elsewhere", "connection_ids": 1, "lease": 180}'
        world.relay.script = [(200, {}, body)]
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 1)
        assert link.outside.address is None
        await world.close(link)

    scene(main)


def test_who_must_do_something_at_the_end_has_time_for_it_but_not_for_ever() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        ended: list[float] = []

        async def quick() -> None:
            await asyncio.sleep(0.5)
            ended.append(now())

        async def slow() -> None:
            await asyncio.sleep(3600.0)

        link.closers += [quick, slow]
        start = now()
        await link.close()
        assert ended == [start + 0.5]
        assert now() - start < 1.5
        await world.close()

    scene(main)
