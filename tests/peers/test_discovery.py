"""What is found out of one's own place, on a virtual network."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from peers.nat import natpmp
from peers.nat.discovery import LINGER_S, LOOK_S
from peers.nat.outlook import Mapping
from peers.nat.port_mapping import LIFETIME_S
from peers.nat.question import elsewhere, expanded
from relay.certificate import ServerCertificate
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Packet
from tests.lab.virtual_relay import PORT

from .nat_world import (
    PRIVATE,
    PUBLIC,
    RELAY,
    SECOND_PORT,
    NatWorld,
    dependent_nat,
    main_socket,
    nat_world,
    until,
)
from .port_router import OUTSIDE, ROUTER, Router

Scene = Callable[[NatWorld], Coroutine[Any, Any, None]]


def run(scene: Scene, certificate: ServerCertificate, **options: Any) -> None:
    async def main() -> None:
        async with nat_world(certificate, **options) as world:
            await scene(world)

    run_virtual(main(), limit_s=10_000.0)


V4 = {"relay": RELAY[:1], "peer": ("198.51.100.2",)}


def test_without_a_nat_nothing_else_need_be_asked(certificate: ServerCertificate) -> None:
    async def scene(world: NatWorld) -> None:
        link = await world.link()
        seen: list[Packet] = []
        world.network.watchers.append(seen.append)
        world.discover(link)
        await until(lambda: bool(world.outlooks and world.outlook.sockets[0].outside))
        mine = world.outlook.sockets[0]
        assert mine.socket is main_socket(link)
        assert mine.outside == Address("198.51.100.2", mine.socket.local.port)
        assert mine.mapping is Mapping.INDEPENDENT
        assert world.outlook.hosts(mine.socket) == (mine.outside,)
        assert [str(each) for each in world.outlook.networks] == ["198.51.100.0/24"]
        await asyncio.sleep(5.0)
        assert not [each for each in seen if each.destination.port == SECOND_PORT]
        await link.close()

    run(scene, certificate, **V4)


@pytest.mark.parametrize("mapping", [Mapping.INDEPENDENT, Mapping.DEPENDENT])
def test_the_mapping_is_found_within_a_few_round_trips(
    certificate: ServerCertificate, mapping: Mapping
) -> None:
    async def scene(world: NatWorld) -> None:
        is_dependent = mapping is Mapping.DEPENDENT
        nat = dependent_nat(world.network, PUBLIC) if is_dependent else world.network.nat(PUBLIC)
        world.behind(nat)
        link = await world.link()
        world.discover(link)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first = world.outlook  # local addresses are there at once
        assert [str(each.ip) for each in first.interfaces] == [PRIVATE]
        assert [each.outside for each in first.sockets] == [None]
        took = await until(lambda: world.outlook.sockets[0].mapping is not Mapping.UNKNOWN)
        assert took < 0.5  # ten round trips
        assert world.outlook.sockets[0].mapping is mapping
        outside = world.outlook.sockets[0].outside
        assert outside is not None
        assert outside.host == PUBLIC
        assert Address(RELAY[0], PORT) in world.outlook.relays
        assert Address(RELAY[0], SECOND_PORT) in world.outlook.relays
        await link.close()

    run(scene, certificate, **V4)


def test_a_relay_on_one_port_leaves_the_mapping_unknown(certificate: ServerCertificate) -> None:
    async def scene(world: NatWorld) -> None:
        world.behind(world.network.nat(PUBLIC))
        link = await world.link()
        world.discover(link)
        await asyncio.sleep(10.0)
        assert world.outlook.sockets[0].outside is not None
        assert world.outlook.sockets[0].mapping is Mapping.UNKNOWN
        await link.close()

    run(scene, certificate, ports=(PORT,), **V4)


def test_a_second_port_that_does_not_answer_leaves_it_unknown_and_delays_nothing(
    certificate: ServerCertificate,
) -> None:
    async def scene(world: NatWorld) -> None:
        world.behind(world.network.nat(PUBLIC))
        world.peer.up.passes = lambda _, __, destination: destination.port != SECOND_PORT
        link = await world.link()
        world.discover(link)
        await until(lambda: bool(world.outlooks and world.outlook.sockets[0].outside), 0.5)
        await asyncio.sleep(10.0)
        assert world.outlook.sockets[0].mapping is Mapping.UNKNOWN
        assert link.reconnections == 0
        await link.close()

    run(scene, certificate, **V4)


def test_a_move_to_another_network_is_told_and_judged_anew(certificate: ServerCertificate) -> None:
    async def scene(world: NatWorld) -> None:
        world.behind(world.network.nat(PUBLIC))
        link = await world.link()
        await link.register(bytes(32), Derivation.BLAKE3, 4)
        world.discover(link)
        await until(lambda: world.outlooks[-1:] != [] and bool(world.outlook.sockets[0].mapping))
        await until(lambda: world.outlook.sockets[0].mapping is Mapping.INDEPENDENT)
        world.behind(dependent_nat(world.network, "203.0.113.77"))
        world.peer.move("192.168.9.9", behind=dependent_nat(world.network, "203.0.113.78"))
        took = await until(lambda: world.outlook.sockets[0].mapping is Mapping.DEPENDENT)
        assert took < LOOK_S + 2.0
        assert [str(each.ip) for each in world.outlook.interfaces] == ["192.168.9.9"]
        outside = world.outlook.sockets[0].outside
        assert outside is not None
        assert outside.host == "203.0.113.78"
        await link.close()

    run(scene, certificate, **V4)


def test_a_socket_of_the_other_family_is_shown_to_the_relay_too(
    certificate: ServerCertificate,
) -> None:
    async def scene(world: NatWorld) -> None:
        world.network.names["relay.example"] = [RELAY[1], RELAY[0]]
        link = await world.link()
        assert main_socket(link).local.family == socket.AF_INET6
        watch = world.discover(link)
        socket_id = link.endpoint.sockets.open(socket.AF_INET)
        other = link.endpoint.sockets[socket_id]
        watch.add(other)
        await until(lambda: len(world.outlooks) > 0 and len(world.outlook.sockets) == 2)
        await until(lambda: world.outlook.sockets[1].outside is not None)
        assert world.outlook.sockets[1].socket is other
        assert world.outlook.sockets[1].outside == Address("198.51.100.2", other.local.port)
        watch.remove(other)
        await until(lambda: len(world.outlook.sockets) == 1)
        link.endpoint.sockets.let_go(socket_id)
        await link.close()

    run(scene, certificate)


def test_many_pipes_share_one_discovery_and_it_rests_when_nobody_wants_to_know(
    certificate: ServerCertificate,
) -> None:
    async def scene(world: NatWorld) -> None:
        world.behind(world.network.nat(PUBLIC))
        link = await world.link()
        seen: list[Packet] = []
        world.network.watchers.append(seen.append)
        watches = [world.discover(link) for _ in range(20)]
        await until(lambda: bool(world.outlooks and world.outlook.sockets[0].mapping))
        await until(lambda: world.outlook.sockets[0].mapping is Mapping.INDEPENDENT)
        asked = [each for each in seen if each.destination.port == SECOND_PORT]
        assert len(asked) < 20
        for watch in watches:
            watch.stop()
            watch.stop()
        known = len(world.outlooks)
        await asyncio.sleep(LINGER_S + 2 * LOOK_S)
        world.peer.move("198.51.100.2")
        await asyncio.sleep(3 * LOOK_S)
        assert len(world.outlooks) == known
        world.discover(link)  # and begins again
        await until(lambda: any(each.outside for each in world.outlook.sockets))
        await link.close()

    run(scene, certificate, **V4)


def test_a_router_maps_the_port_while_the_link_lives(certificate: ServerCertificate) -> None:
    async def scene(world: NatWorld) -> None:
        world.behind(dependent_nat(world.network, PUBLIC))
        world.peer.router = ROUTER
        router = Router()
        served = world.network.host("router", ROUTER).open_socket(socket.AF_INET, natpmp.PORT)

        def receive(batch: list[tuple[bytes, Address]]) -> None:
            for datagram, source in batch:
                served.send(router.answers(datagram), source)

        served.start(receive)
        link = await world.link()
        watch = world.discover(link)
        await until(lambda: any(each.mapped for each in watch.outlook.sockets))
        port = main_socket(link).local.port
        assert watch.outlook.sockets[0].mapped == Address(OUTSIDE, port)
        watch.stop()  # one pipe less: others may follow
        await asyncio.sleep(1.0)
        assert [seconds for _, _, seconds in router.requests] == [LIFETIME_S]
        await link.close()
        assert [seconds for _, _, seconds in router.requests] == [LIFETIME_S, 0]

    run(scene, certificate, **V4)


def test_a_second_address_is_asked_before_a_second_port() -> None:
    reached = Address("192.0.2.1", 4433)
    listeners = (
        Address("0.0.0.0", 4434),
        Address("::", 4434),
        Address("0.0.0.0", 4433),
        Address("192.0.2.9", 4433),
    )
    assert elsewhere(reached, listeners) == [Address("192.0.2.9", 4433), Address("192.0.2.1", 4434)]
    assert elsewhere(Address("2001:db8::1", 4433), listeners) == [Address("2001:db8::1", 4434)]
    assert Address("192.0.2.1", 4434) in expanded(reached, listeners)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "169.254.1.1", "224.0.0.1", "100.64.0.1"]
)
def test_a_relay_cannot_send_us_to_its_own_or_our_own_private_places(host: str) -> None:
    assert elsewhere(Address("192.0.2.1", 4433), (Address(host, 1234),)) == []
