"""A client that sends from an address where it does not receive registers nobody there."""

import asyncio

from relay.core.path import Path
from relay.http3.server import Refused
from relay.wire.registration import RegisterRequest
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import Client, World, path_of

FORGED = path_of(443, "203.0.113.9")
"""Where somebody else is, who receives what the relay sends there."""


def register_body() -> bytes:
    return RegisterRequest(bytes(16), 2).encode()


def test_handshake_from_another_address_than_it_began_at_validates_nothing() -> None:
    """A client of its own address goes on under a forged one, as soon as it has the keys."""

    async def run() -> None:
        async with World() as world:
            client = Client(world, path_of(1000))
            client.connect()
            client.path = FORGED  # it still receives at its own
            async with asyncio.timeout(5.0):
                await client.established
            client.request("POST", "/v1/register", register_body())
            await asyncio.sleep(5.0)
            assert world.service.registered == []
            assert FORGED not in world.sent_by_path
            counters = world.server.counters
            assert counters.connections == 0
            assert counters.refused[Refused.MOVED_TOO_EARLY] >= 2
            await world.assert_serves()

    run_virtual(run())


def test_nothing_but_an_answer_to_a_challenge_validates_another_address() -> None:
    """Neither 1-RTT packets nor Handshake packets from there do, once the handshake is over."""

    async def run() -> None:
        async with World() as world:
            client = Client(world, path_of(1000))
            handshake: list[bytes] = []

            def record(datagram: bytes, path: Path) -> None:
                handshake.append(datagram)
                world.server.receive_datagram(datagram, path)

            world.to_server = record
            client.connect()
            async with asyncio.timeout(5.0):
                await client.established
            world.to_server = world.server.receive_datagram
            assert (await client.get("/health")).status == 200
            client.path = FORGED
            for datagram in handshake:
                world.server.receive_datagram(datagram, FORGED)
            client.request("POST", "/v1/register", register_body())
            await asyncio.sleep(5.0)
            assert world.service.registered == []
            assert world.moved == []
            await world.assert_serves()

    run_virtual(run())
