"""Port mappings by PCP and NAT-PMP, with a gateway of all sorts, on a virtual network."""

import asyncio
import ipaddress
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from peers.nat import natpmp, pcp
from peers.nat.gateway import Grant, NotMapped, NotThere, Speaks
from peers.nat.port_mapping import (
    LIFETIME_S,
    RETRY_S,
    SHORTEST_RENEWAL_S,
    Mappers,
    PortMapping,
    client_towards,
)
from relay.wire.address import Address
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Conditions, VirtualNetwork

from .nat_world import until
from .port_router import CLIENT, OUTSIDE, ROUTER, Router

STRANGER = "192.168.1.66"
PORT = 50_000


class Lan:
    """A client and its router."""

    def __init__(self, router: Router) -> None:
        network = VirtualNetwork()
        self.client = network.host("client", CLIENT)
        self.client.set_conditions(Conditions(latency_s=0.001))
        self.client.router = ROUTER
        self.router = router
        self._host = network.host("router", ROUTER)
        self.stranger = network.host("stranger", STRANGER)
        self._socket = self._host.open_socket(Address(ROUTER, 0).family, natpmp.PORT)
        self._socket.start(self._receive)
        self.grants: list[Grant | None] = []
        self.spoof: Callable[[bytes], list[bytes]] = lambda _: []
        """What the router's own address sends ahead of each answer."""

    def _receive(self, batch: list[tuple[bytes, Address]]) -> None:
        for datagram, source in batch:
            self._socket.send(self.spoof(datagram) + self.router.answers(datagram), source)

    def mappers(self) -> Mappers:
        found = Mappers.of(self.client)
        assert found is not None
        return found

    def start(self) -> PortMapping:
        return PortMapping(self.mappers(), PORT, self.grants.append)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(main(), limit_s=100_000.0)


@pytest.mark.parametrize(
    ("speaks", "expected"),
    [
        ({Speaks.PCP}, Speaks.PCP),
        ({Speaks.PCP, Speaks.NAT_PMP}, Speaks.PCP),
        ({Speaks.NAT_PMP}, Speaks.NAT_PMP),
    ],
)
def test_a_port_is_mapped_renewed_in_time_and_unmapped(
    speaks: set[Speaks], expected: Speaks
) -> None:
    async def main() -> None:
        lan = Lan(Router(speaks))
        mapping = lan.start()
        took = await until(lambda: bool(lan.grants))
        assert took < 0.1
        grant = Grant(expected, PORT, Address(OUTSIDE, PORT), LIFETIME_S)
        assert lan.grants == [grant]
        await asyncio.sleep(3600.0)
        times = [when for when, _, _ in lan.router.requests]
        gaps = {round(after - before) for before, after in pairwise(times)}
        assert gaps == {LIFETIME_S // 2}
        assert lan.grants == [grant]  # nothing new
        await mapping.close()
        assert lan.router.requests[-1][2] == 0
        await asyncio.sleep(3600.0)
        assert lan.router.requests[-1][2] == 0

    run(main)


def test_nobody_there_is_found_out_within_seconds_and_not_asked_again() -> None:
    async def main() -> None:
        lan = Lan(Router(set()))
        with pytest.raises(NotThere):
            await lan.mappers().first(PORT)
        assert asyncio.get_running_loop().time() < 5.0
        mapping = lan.start()
        await asyncio.sleep(36_000.0)
        assert lan.grants == []
        await mapping.close()

    run(main)


@pytest.mark.parametrize("speaks", [Speaks.PCP, Speaks.NAT_PMP])
def test_a_gateway_that_refuses_is_asked_again_more_and_more_rarely(speaks: Speaks) -> None:
    async def main() -> None:
        lan = Lan(Router({speaks}, code=2))
        with pytest.raises(NotMapped, match="not authorized"):
            await lan.mappers().first(PORT)
        lan.router.requests.clear()
        mapping = lan.start()
        await asyncio.sleep(3600.0)
        asked = len(lan.router.requests)
        assert len(RETRY_S) < asked <= 5
        lan.router.code = 0
        await asyncio.sleep(RETRY_S[-1] + 10)
        assert len(lan.grants) == 1
        await mapping.close()

    run(main)


def test_a_gateway_that_forgets_and_comes_back_is_used_again() -> None:
    async def main() -> None:
        lan = Lan(Router())
        mapping = lan.start()
        await until(lambda: len(lan.grants) == 1)
        lan.router.speaks = set()
        await until(lambda: len(lan.grants) == 2, 400.0)
        lan.router.speaks = {Speaks.NAT_PMP}
        await until(lambda: len(lan.grants) == 3, 400.0)
        assert [each.speaks if each else None for each in lan.grants] == [
            Speaks.PCP,
            None,
            Speaks.NAT_PMP,
        ]
        await mapping.close()

    run(main)


def test_another_port_than_the_one_asked_for_is_taken_and_a_change_is_told() -> None:
    async def main() -> None:
        lan = Lan(Router(external_port=7001))
        mapping = lan.start()
        await until(lambda: len(lan.grants) == 1)
        lan.router.external_port = 7002
        await until(lambda: len(lan.grants) == 2, 400.0)
        assert [each.external.port for each in lan.grants if each] == [7001, 7002]
        await mapping.close()

    run(main)


@pytest.mark.parametrize(("lifetime_s", "interval_s"), [(1, SHORTEST_RENEWAL_S), (2**32 - 1, 300)])
def test_absurd_lifetimes_are_kept_within_bounds(lifetime_s: int, interval_s: float) -> None:
    async def main() -> None:
        lan = Lan(Router(lifetime_s=lifetime_s))
        mapping = lan.start()
        await asyncio.sleep(3000.0)
        assert len(lan.router.requests) == pytest.approx(3000 / interval_s, abs=1)
        await mapping.close()

    run(main)


def test_a_lifetime_of_zero_is_no_mapping() -> None:
    async def main() -> None:
        lan = Lan(Router(lifetime_s=0))
        with pytest.raises(NotMapped, match="no time"):
            await lan.mappers().first(PORT)

    run(main)


def test_answers_to_others_requests_and_from_elsewhere_are_not_ours() -> None:
    async def main() -> None:
        lan = Lan(Router())

        def spoof(request: bytes) -> list[bytes]:
            wrong_nonce = bytearray(lan.router.answers(request)[0])
            if len(wrong_nonce) > 24:
                wrong_nonce[24] ^= 1
            wrong_port = bytearray(lan.router.answers(request)[0])
            wrong_port[-20] ^= 1
            return [bytes(wrong_nonce), bytes(wrong_port), b"", b"\x02", bytes(2000)]

        lan.spoof = spoof
        stranger = lan.stranger.open_socket(Address(STRANGER, 0).family, natpmp.PORT)
        request = pcp.encode_map_request(CLIENT, bytes(12), PORT, Address("0.0.0.0", 0), 600)
        forged = Router(external_port=666).answers(request)
        mapping = lan.start()
        for port in range(49_152, 49_170):  # of which one is the client's
            stranger.send(forged, Address(CLIENT, port))
        await until(lambda: bool(lan.grants))
        await asyncio.sleep(1.0)
        assert [each.external.port for each in lan.grants if each] == [PORT]
        await mapping.close()

    run(main)


def test_who_is_there_is_asked_without_mapping_anything() -> None:
    async def main() -> None:
        lan = Lan(Router())
        mappers = lan.mappers()
        assert await mappers.pcp.is_there()
        assert await mappers.nat_pmp.outside_address() == OUTSIDE
        lan.router.speaks = {Speaks.NAT_PMP}
        assert not await mappers.pcp.is_there()
        lan.router.speaks = set()
        assert not await mappers.pcp.is_there()
        assert await mappers.nat_pmp.outside_address() is None
        assert lan.router.requests == []

    run(main)


def test_our_address_towards_the_router() -> None:
    interfaces = tuple(
        map(ipaddress.ip_interface, ("10.0.0.5/8", "10.1.0.5/16", "192.168.1.7/24", "fd00::1/64"))
    )
    assert client_towards("192.168.1.1", interfaces) == "192.168.1.7"
    assert client_towards("10.1.0.1", interfaces) == "10.1.0.5"
    assert client_towards("172.16.0.1", interfaces) is None
    assert client_towards("nonsense", interfaces) is None
    assert Mappers.of(VirtualNetwork().host("alone", CLIENT)) is None
