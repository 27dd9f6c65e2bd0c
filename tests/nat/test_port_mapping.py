"""Port mappings by the very gateway that many homes have: miniupnpd."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from peers.nat.gateway import Grant, Mapper, Speaks
from peers.nat.port_mapping import Mappers, PortMapping
from peers.network import SystemNetwork
from tests.netns.lab import Host

from .nats import Nat
from .port_mapping import MINIUPNPD, MiniUpnpd
from .port_mapping import PortMapping as Daemon
from .world import Gateway, World

PATIENCE_S = 5.0


@contextlib.contextmanager
def home(world: World, folder: Path, speaks: Daemon) -> Iterator[tuple[Gateway, Host]]:
    """A gateway that maps ports, and a device behind it."""
    if MINIUPNPD is None:
        pytest.skip("not installed here: miniupnpd")
    gateway = world.gateway(Nat.RANDOM)
    device = world.device(gateway)
    daemon = MiniUpnpd(gateway, folder, speaks)
    try:
        yield gateway, device
    finally:
        daemon.close()


def run_on(device: Host, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In the device's network."""
    with device.entered():
        asyncio.run(main())


def mappers_here() -> Mappers:
    """For the network that this thread is in."""
    found = Mappers.of(SystemNetwork())
    assert found is not None
    return found


async def reaches(stranger: Host, grant: Grant) -> bool:
    """Whether a stranger's datagram to the mapped port comes to a socket on the device."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        inside.setblocking(False)
        inside.bind(("", grant.internal_port))
        stranger.udp("0.0.0.0").sendto(b"hello", tuple(grant.external))
        try:
            async with asyncio.timeout(0.5):
                return await loop.sock_recv(inside, 100) == b"hello"
        except TimeoutError:
            return False


@pytest.mark.parametrize("speaks", Speaks)
def test_a_port_is_mapped_renewed_and_unmapped(
    world: World, tmp_path: Path, speaks: Speaks
) -> None:
    stranger = world.server().host

    async def main() -> None:
        mappers = mappers_here()
        every: tuple[Mapper, ...] = (mappers.pcp, mappers.nat_pmp, mappers.upnp)
        (mapper,) = [each for each in every if each.speaks is speaks]
        granted = await mapper.map(50_000, 50_000, 600)
        assert granted.speaks is speaks
        assert granted.external.host == gateway.ipv4
        assert await reaches(stranger, granted)
        renewed = await mapper.map(50_000, granted.external.port, 600)
        assert renewed.external == granted.external
        await mapper.unmap(renewed)
        assert not await reaches(stranger, renewed)

    with home(world, tmp_path, Daemon.ALL) as (gateway, device):
        run_on(device, main)


@pytest.mark.parametrize(
    ("daemon", "expected"),
    [(Daemon.ALL, Speaks.PCP), (Daemon.NAT_PMP, Speaks.PCP), (Daemon.UPNP, Speaks.UPNP)],
)
def test_whichever_protocol_the_gateway_speaks_is_found(
    world: World, tmp_path: Path, daemon: Daemon, expected: Speaks
) -> None:
    stranger = world.server().host

    async def main() -> None:
        grants: asyncio.Queue[Grant | None] = asyncio.Queue()
        mapping = PortMapping(mappers_here(), 50_001, grants.put_nowait)
        async with asyncio.timeout(PATIENCE_S):
            grant = await grants.get()
        assert grant is not None
        assert grant.speaks is expected
        assert await reaches(stranger, grant)
        await mapping.close()
        assert not await reaches(stranger, grant)

    with home(world, tmp_path, daemon) as (_, device):
        run_on(device, main)


def test_a_port_that_another_device_has_is_not_taken_from_it(world: World, tmp_path: Path) -> None:
    async def first() -> None:
        upnp = mappers_here().upnp
        assert (await upnp.map(50_002, 50_002, 600)).external.port == 50_002

    async def second() -> None:
        upnp = mappers_here().upnp
        grant = await upnp.map(50_002, 50_002, 600)
        assert grant.external.port != 50_002
        await upnp.unmap(grant)

    with home(world, tmp_path, Daemon.UPNP) as (gateway, device):
        run_on(device, first)
        run_on(world.device(gateway), second)


def test_what_a_gateway_calls_itself(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        mappers = mappers_here()
        assert await mappers.upnp.is_there()
        assert await mappers.upnp.outside_address() == gateway.ipv4
        assert mappers.upnp.name
        assert mappers.upnp.name.isprintable()
        assert await mappers.nat_pmp.outside_address() is None
        assert not await mappers.pcp.is_there()

    with home(world, tmp_path, Daemon.UPNP) as (gateway, device):
        run_on(device, main)
