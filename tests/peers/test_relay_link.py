"""The link to the relay: reaching it, and what it answers."""

import asyncio
from contextlib import suppress

import pytest

from peers.errors import RegistrationFailed, RelayUnreachable, RelayUntrusted
from peers.identity import Identity
from peers.link.connection import MAX_RESPONSE
from peers.link.search import CONNECT_TIMEOUT_S
from peers.trust import RelayTrust
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from tests.lab.virtual_network import Conditions
from tests.peers.fake_relay import certificate
from tests.peers.relay_world import KEY, V4, V6, World, now, scene


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


def test_a_relay_that_was_restarted_in_the_middle_of_a_handshake_is_asked_again() -> None:
    async def main() -> None:
        world = World()
        world.relay.refuses_token = 2
        link = await world.connect()
        assert now() < 2.0
        assert world.relay.refuses_token == 0
        await asyncio.sleep(1.0)
        assert world.open_sockets() == 1
        await world.close(link)

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


def test_interim_answers_and_trailers_do_not_matter() -> None:
    async def main() -> None:
        world = World()
        world.relay.interim = True
        link = await world.connect()
        registration = await link.register(KEY, Derivation.BLAKE3, 16)
        assert registration.count == 16
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


@pytest.mark.parametrize("frame_type", [0x01, 0x21], ids=["headers", "unknown"])
def test_a_frame_without_an_end_is_no_burden(frame_type: int) -> None:
    endless = bytes([frame_type]) + (0xC0 << 56 | 2**30).to_bytes(8, "big")

    async def main() -> None:
        world = World()
        link = await world.connect()
        connection = link._connection
        assert connection is not None
        world.relay.flood = endless + bytes(1_000_000)
        for streams in range(1, 9):
            with suppress(TimeoutError, RegistrationFailed):
                async with asyncio.timeout(5.0):
                    await connection.request("GET", "relay.example", "/flood")
            received = connection._quic.statistics().bytes_received
            assert received < 1.2 * min(streams * 2 * MAX_RESPONSE, 8 * MAX_RESPONSE)
        await world.close(link)

    scene(main)


def test_large_answers_in_a_row_all_fit() -> None:
    async def main() -> None:
        world = World()
        link = await world.connect()
        connection = link._connection
        assert connection is not None
        world.relay.script = [(404, {}, bytes(60_000))] * 20
        for _ in range(20):
            answer = await connection.request("GET", "relay.example", "/large")
            assert len(answer.body) == 60_000
        await world.close(link)

    scene(main)
