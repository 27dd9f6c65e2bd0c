"""The link to the relay, on a virtual network, with a relay that does what it is told."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from peers.errors import RegistrationFailed, RelayUnreachable, RelayUntrusted
from peers.identity import Identity
from peers.relay_link import RelayLink
from peers.relay_name import RelayName
from peers.relay_search import CONNECT_TIMEOUT_S
from peers.trust import RelayTrust
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Conditions, VirtualNetwork
from tests.peers.fake_relay import FakeRelay, certificate

V4, V6 = "198.51.100.1", "2001:db8::1"
NAME = RelayName("relay.example", 4433)
KEY = bytes(range(32))
PINNED = RelayTrust(fingerprint=certificate().fingerprint)


class World:
    """A peer's host and a relay's, which has both families."""

    def __init__(self, *peer_addresses: str, latency_s: float = 0.02, seed: int = 1) -> None:
        self.network = VirtualNetwork(seed=seed)
        self.relay_host = self.network.host("relay", V4, V6)
        self.peer_host = self.network.host(
            "peer", *(peer_addresses or ("192.0.2.7", "2001:db8::7"))
        )
        self.network.names["relay.example"] = [V4]
        self.peer_host.set_conditions(Conditions(latency_s=latency_s))
        self.relay = self.start_relay()

    def start_relay(
        self, family: socket.AddressFamily = socket.AF_INET, identity: Identity | None = None
    ) -> FakeRelay:
        return FakeRelay(self.relay_host.open_socket(family, 4433), identity).start()

    async def connect(self, trust: RelayTrust = PINNED) -> RelayLink:
        return await RelayLink.connect(self.peer_host, NAME, trust)

    def open_sockets(self) -> int:
        return len(self.peer_host._sockets)

    async def close(self, link: RelayLink | None = None) -> None:
        if link is not None:
            await link.close()
        self.relay.kill()


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> float:
    """Wait for it; returns how long that took."""
    start = now()
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.01)
    return now() - start


async def talk(link: RelayLink) -> None:
    """As if a pipe were active."""
    for _ in range(6):
        link.pipe_received(now())
        await asyncio.sleep(0.01)


def scene(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(main(), limit_s=10_000.0)


def test_connects_registers_and_ends_politely() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        assert link.fingerprint == certificate().fingerprint
        registration = await link.register(KEY, Derivation.BLAKE3, 16)
        way = link.endpoint.current
        assert way is not None
        assert registration.count == 16
        assert registration.address == str(Address("192.0.2.7", way.socket.local.port))
        assert registration.lease_s == 180.0
        await link.extend(registration, 20)
        assert registration.count == 20
        assert world.relay.registered == 20
        assert [each.fields.get("first") for each in world.relay.requests] == [1, 17]
        await link.close()
        await link.close()
        assert world.relay.registered == 0
        await asyncio.sleep(1.0)
        assert world.relay.connections == 0
        await world.close()

    scene(main)


def test_many_connection_ids_take_several_requests() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        registration = await link.register(KEY, Derivation.BLAKE3, 2500)
        assert registration.count == world.relay.registered == 2500
        assert [each.fields["num"] for each in world.relay.requests] == [1024, 1024, 452]
        await world.close(link)

    scene(main)


def test_nothing_is_told_to_an_untrusted_relay() -> None:
    async def main() -> None:
        world = World()
        other = Identity.generate()
        with pytest.raises(RelayUntrusted) as caught:
            await world.connect(RelayTrust(fingerprint=other.fingerprint))
        assert caught.value.fingerprint == certificate().fingerprint
        assert now() < 1.0
        await asyncio.sleep(5.0)
        assert world.relay.requests == []
        await world.close()

    scene(main)


def test_nobody_answers() -> None:
    async def main() -> None:
        world = World()
        world.relay.silent = True
        with pytest.raises(RelayUnreachable, match=r"relay\.example:4433 does not answer"):
            await world.connect()
        assert now() == pytest.approx(CONNECT_TIMEOUT_S, abs=0.1)
        await world.close()

    scene(main)


def test_the_name_is_unknown() -> None:
    async def main() -> None:
        world = World()
        world.network.names.clear()
        with pytest.raises(RelayUnreachable, match="does not resolve"):
            await world.connect()
        await world.close()

    scene(main)


def test_an_address_that_is_dead_costs_a_quarter_of_a_second() -> None:
    async def main() -> None:
        world = World()
        world.network.names["relay.example"] = [V6, V4]  # the relay listens on IPv4 only
        link = await world.connect()
        assert link.endpoint.current is not None
        assert link.endpoint.current.relay == Address(V4, 4433)
        assert now() < 0.25 + 0.25
        assert world.open_sockets() == 1  # the loser's is closed
        await world.close(link)

    scene(main)


def test_a_host_without_the_first_family_loses_no_time() -> None:
    async def main() -> None:
        world = World("192.0.2.7")
        world.network.names["relay.example"] = [V6, V4]
        link = await world.connect()
        assert now() < 0.25
        await world.close(link)

    scene(main)


def test_cancelling_leaves_nothing_behind() -> None:
    async def main() -> None:
        world = World()
        world.relay.silent = True
        connecting = asyncio.create_task(world.connect())
        await asyncio.sleep(1.0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert world.open_sockets() == 0
        assert len(asyncio.all_tasks()) == 2  # this scene, and the relay's clock
        await world.close()

    scene(main)


@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_connects_and_registers_in_time_over_a_bad_way(loss: float) -> None:
    async def main() -> None:
        took = []
        for seed in range(30):
            world = World(seed=seed)
            world.peer_host.set_conditions(Conditions(latency_s=0.03, loss=loss))
            start = now()
            link = await world.connect()
            await link.register(KEY, Derivation.BLAKE3, 16)
            took.append(now() - start)
            await world.close(link)
        took.sort()
        assert took[-1] < 8.0
        assert took[len(took) // 2] < 2.5

    scene(main)


# What the relay answers.


def problem(detail: str) -> bytes:
    return b'{"title": "no", "detail": "%s"}' % detail.encode()


def test_a_refusal_carries_the_relays_words() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.script = [(409, {}, problem("another key holds it"))]
        with pytest.raises(RegistrationFailed, match="another key holds it") as caught:
            await link.register(KEY, Derivation.BLAKE3, 16)
        assert caught.value.status == 409
        assert caught.value.retry_after_s is None
        await world.close(link)

    scene(main)


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [(429, {"retry-after": "3"}, 3.0), (425, {}, 0.2), (503, {"retry-after": "1"}, 1.0)],
)
def test_a_refusal_that_passes_is_waited_for(
    status: int, headers: dict[str, str], wait_s: float
) -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.script = [(status, headers, b"")]
        start = now()
        registration = await link.register(KEY, Derivation.BLAKE3, 16)
        assert registration.count == 16
        assert now() - start == pytest.approx(wait_s, abs=0.2)
        await world.close(link)

    scene(main)


@pytest.mark.parametrize("after", ["30", "Fri, 21 Nov 2025 07:28:00 GMT", "-1", "9" * 50, ""])
def test_a_refusal_for_longer_is_reported(after: str) -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.script = [(429, {"retry-after": after}, problem("full"))]
        with pytest.raises(RegistrationFailed, match="full") as caught:
            await link.register(KEY, Derivation.BLAKE3, 16)
        assert caught.value.status == 429
        assert caught.value.retry_after_s == (30.0 if after == "30" else None)
        await world.close(link)

    scene(main)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"id": 7}', b"\xff" * 1000])
def test_an_answer_that_is_none(body: bytes) -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.script = [(200, {}, body)]
        with pytest.raises(RegistrationFailed, match="makes no sense"):
            await link.register(KEY, Derivation.BLAKE3, 16)
        await world.close(link)

    scene(main)


def test_an_answer_without_an_end() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.script = [(200, {}, bytes(200_000))]
        with pytest.raises(RegistrationFailed, match="too large"):
            await link.register(KEY, Derivation.BLAKE3, 16)
        await world.close(link)

    scene(main)


# Keeping it alive.


def test_a_waiting_peer_sends_a_keepalive_and_little_else() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        await asyncio.sleep(5.0)
        sent: list[float] = []
        world.network.watchers.append(
            lambda packet: sent.append(now()) if packet.destination.host == V4 else None
        )
        await asyncio.sleep(3600.0)
        gaps = [after - before for before, after in pairwise(sent)]
        assert max(gaps) < 15.5
        assert len(sent) < 3 * 3600 / 15
        assert link.reconnections == 0
        await world.close(link)

    scene(main)


def test_a_relay_that_is_killed_and_comes_back_is_found_and_told_everything() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        first = await link.register(KEY, Derivation.BLAKE3, 16)
        second = await link.register(bytes(32), Derivation.BLAKE3, 8)
        await link.extend(first, 20)
        await talk(link)
        world.relay.kill()
        await asyncio.sleep(7.3)
        world.relay = world.start_relay()
        took = await until(lambda: world.relay.registered == 28)
        assert took < 1.5
        await asyncio.sleep(0.1)
        assert link.reconnections == 1
        assert second.count == 8
        await world.close(link)
        assert world.relay.registered == 0

    scene(main)


def test_a_relay_that_says_goodbye_is_looked_for_at_once() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        world.relay.stop()
        world.relay = world.start_relay()
        took = await until(lambda: world.relay.registered == 16)
        assert took < 0.5  # nobody waited for a keepalive
        await world.close(link)

    scene(main)


def test_an_outage_of_an_hour_ends_within_the_longest_interval() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        world.relay.kill()
        sent: list[float] = []
        world.network.watchers.append(lambda _: sent.append(now()))
        await asyncio.sleep(3600.0)
        assert len(sent) < 6000  # 240 attempts, each a few packets to a few addresses
        world.relay = world.start_relay()
        took = await until(lambda: world.relay.registered == 16)
        assert took < 16.0
        await world.close(link)

    scene(main)


def test_a_relay_at_another_address_is_found() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        await talk(link)
        world.relay.kill()
        world.network.names["relay.example"] = [V6]
        world.relay = world.start_relay(socket.AF_INET6)
        took = await until(lambda: world.relay.registered == 16)
        assert took < 10.0
        await asyncio.sleep(5.0)
        assert link.endpoint.current is not None
        assert link.endpoint.current.relay == Address(V6, 4433)
        assert world.open_sockets() == 1
        await world.close(link)

    scene(main)


def test_an_impostor_gets_nothing_and_the_real_one_is_found_later() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        world.relay.kill()
        impostor = world.start_relay(identity=Identity.generate())
        await asyncio.sleep(60.0)
        assert impostor.requests == []
        impostor.kill()
        world.relay = world.start_relay()
        await until(lambda: world.relay.registered == 16)
        await world.close(link)

    scene(main)


def test_requests_wait_for_the_reconnection() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.stop()
        asking = asyncio.create_task(link.register(KEY, Derivation.BLAKE3, 16))
        await asyncio.sleep(2.0)
        world.relay = world.start_relay()
        registration = await asking
        assert registration.count == 16
        await world.close(link)

    scene(main)


def test_a_request_that_is_never_answered_fails_in_time() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.silent = True
        start = now()
        with pytest.raises(RegistrationFailed, match="did not answer"):
            await link.register(KEY, Derivation.BLAKE3, 16)
        assert now() - start == pytest.approx(10.0, abs=0.1)
        await world.close(link)

    scene(main)


def test_a_short_outage_costs_no_connection() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        await talk(link)
        world.relay.silent = True
        await asyncio.sleep(2.2)  # pings for a second, then attempts to reconnect have begun
        world.relay.silent = False
        await asyncio.sleep(30.0)
        assert world.relay.connections <= 2
        assert world.relay.registered == 16
        await world.close(link)

    scene(main)


def test_heavy_loss_makes_no_storm_of_reconnections() -> None:
    async def main() -> None:
        world = World(latency_s=0.03)
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        world.peer_host.set_conditions(Conditions(latency_s=0.03, loss=0.1))
        for _ in range(300):  # an active pipe whose other end is silent: the most pings
            await asyncio.sleep(1.0)
            link.pipe_sent(now())
        assert link.reconnections <= 1
        await world.close(link)

    scene(main)


def test_a_registration_that_the_relay_refuses_to_renew_is_tried_again() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        world.relay.stop()
        world.relay = world.start_relay()
        world.relay.script = [(429, {"retry-after": "5"}, b""), (500, {}, b"")]
        took = await until(lambda: world.relay.registered == 16)
        assert 20.0 < took < 22.0
        await world.close(link)

    scene(main)


def test_closing_while_the_relay_is_dead_takes_a_second_and_leaves_nothing() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        world.relay.kill()
        start = now()
        await link.close()
        assert now() - start <= 1.01
        assert world.open_sockets() == 0
        assert len(asyncio.all_tasks()) == 1

    scene(main)
