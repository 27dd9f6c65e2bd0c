"""The link to the relay, when the relay or the way to it is not what it was."""

import asyncio
import socket
from itertools import pairwise

import pytest

from peers.errors import RegistrationFailed
from peers.identity import Identity
from peers.link.connection import RelayConnection, Response
from peers.link.search import Settle
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from tests.lab.virtual_network import Conditions
from tests.peers.relay_world import KEY, V4, V6, World, now, scene, talk, until


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


def test_a_relay_that_ends_every_connection_at_once_does_not_keep_us_busy() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()

        async def dismiss() -> None:
            while True:
                await asyncio.sleep(0.05)
                world.relay.dismiss()

        hostile = asyncio.create_task(dismiss())
        await asyncio.sleep(60.0)
        assert 5 <= link.reconnections <= 20
        hostile.cancel()
        assert await until(lambda: link.reconnections > 5 and link._up.is_set()) < 16.0
        await asyncio.sleep(60.0)
        world.relay.dismiss()  # and now once, as any relay may
        before = link.reconnections
        assert await until(lambda: link.reconnections > before) < 0.5
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


def test_a_relay_that_is_slow_to_answer_gets_few_handshakes() -> None:
    async def main() -> None:
        world = World(latency_s=0.9)
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        await asyncio.sleep(5.0)
        world.relay.stop()
        world.relay = world.start_relay()
        await until(lambda: world.relay.registered == 16)
        assert world.relay.connections <= 2  # by the way that we know, and by a fresh socket
        await world.close(link)

    scene(main)


def test_handshakes_that_a_nat_cut_in_two_keep_nobody_waiting() -> None:
    async def main() -> None:
        latency_s = 0.9
        world = World(latency_s=latency_s)
        nat = world.network.nat("203.0.113.5")
        world.peer_host.move("192.168.1.7", behind=nat)
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        await asyncio.sleep(5.0)
        world.relay.stop()
        world.relay = world.start_relay()
        await until(lambda: link._reconnecting is not None)
        # Two handshakes are under way then. The relay's answers have passed the NAT, and to us
        # they are done; what we say to that comes from another port, and the relay ignores it.
        await asyncio.sleep(2.95 * latency_s)
        nat.rebind()
        assert await until(lambda: world.relay.registered == 16) < 7.0
        await asyncio.sleep(5.0)
        assert world.open_sockets() == 1
        await world.close(link)

    scene(main)


def test_the_old_connection_takes_back_what_an_attempt_has_registered() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        way = link.endpoint.current
        assert way is not None
        asked = world.relay.requests

        def passes(_: bytes, __: Address, destination: Address) -> bool:
            # First the old way brings nothing; once the new one has registered, it is the new one.
            return (destination.port == way.socket.local.port) is (len(asked) > 1)

        world.peer_host.down.passes = passes
        link._reconnect("a test says so")
        await until(lambda: asked[-1].source.port != way.socket.local.port)
        link._acknowledged(now())  # the relay was only slow
        await until(lambda: asked[-1].source.port == way.socket.local.port, limit_s=5.0)
        assert link.reconnections == 0
        assert world.relay.registered == 16
        world.peer_host.down.passes = None
        await asyncio.sleep(20.0)
        assert len(asked) == 3
        assert world.open_sockets() == 1
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


def test_a_connection_that_answers_once_more_and_then_ends_is_replaced_at_once() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        link._reconnect("a test says so")
        await asyncio.sleep(0)
        assert link._connection is not None
        link._acknowledged(now())  # in one batch: the search hears only of the first
        link._connection.close()
        assert await until(lambda: link.reconnections == 1) < 1.0
        assert world.relay.registered == 16
        await world.close(link)

    scene(main)


def test_requests_wait_when_the_connection_ends_during_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = 0
    request = RelayConnection.request

    async def counted(
        self: RelayConnection, method: str, authority: str, path: str, body: bytes = b""
    ) -> Response:
        nonlocal attempts
        attempts += 1
        return await request(self, method, authority, path, body)

    monkeypatch.setattr(RelayConnection, "request", counted)

    async def main() -> None:
        world = World()
        link = await world.connect()
        world.relay.kill()
        link._reconnect("a test says so")
        await asyncio.sleep(0.5)
        assert link._connection is not None
        link._connection.close()
        asking = asyncio.create_task(link.register(KEY, Derivation.BLAKE3, 16))
        await asyncio.sleep(5.0)
        assert attempts == 0
        world.relay = world.start_relay()
        assert (await asking).count == 16
        await world.close(link)

    scene(main)


def test_an_unforeseen_error_does_not_end_the_search(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        await link.register(KEY, Derivation.BLAKE3, 16)
        again = link._search.again
        failures = 3

        async def failing(
            recovered: asyncio.Future[None], settle: Settle
        ) -> RelayConnection | None:
            nonlocal failures
            if failures:
                failures -= 1
                raise ZeroDivisionError("who would have thought")
            return await again(recovered, settle)

        monkeypatch.setattr(link._search, "again", failing)
        world.relay.stop()
        world.relay = world.start_relay()
        assert await until(lambda: world.relay.registered == 16) < 5.0
        await world.close(link)

    scene(main)
    assert "ZeroDivisionError: who would have thought" in caplog.text


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
