"""The control over no socket, under a clock that jumps: real HTTP/3 in, changes out."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from relay.control import Control
from relay.core.limits import RateLimits
from relay.core.registry import RegistryFull, RegistryLimits
from relay.core.table import (
    Change,
    ConnectionIdsAdded,
    ForwardingTable,
    OwnerMoved,
    OwnerRemoved,
)
from relay.wire.registration import RegisterAnswer, RegisterRequest
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import Client, World, certificate, path_of, serving

LEASE = 180.0
BODY = b'{"key":"AAECAwQFBgcICQoLDA0ODw==","num":10}'


class Recorder:
    """A forwarder that remembers, with the time."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, Change]] = []
        self.table = ForwardingTable()
        self.fails = 0
        """How many calls raise, against the contract."""

    def apply(self, changes: Sequence[Change]) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a forwarder that breaks its promise")
        now = asyncio.get_running_loop().time()
        for change in changes:
            self.changes.append((now, change))
            self.table.apply(change)

    def removals(self) -> list[float]:
        return [at for at, change in self.changes if isinstance(change, OwnerRemoved)]


class Scene:
    """A control and clients that reach it."""

    def __init__(self, limits: RegistryLimits | None = None) -> None:
        self.world = World()
        self.forwarders = [Recorder(), Recorder()]
        self.control = Control(
            certificate=certificate(),
            forwarders=self.forwarders,
            send=self.world.deliver,
            registry_limits=limits or RegistryLimits(lease_s=LEASE),
            rate_limits=RateLimits(per_minute=1e6, burst=10**6),
        )
        self.world.to_server = self.control.receive_http3

    async def registered(self, port: int = 1000) -> tuple[Client, RegisterAnswer]:
        client = await self.world.connect(port)
        response = await client.post("/v1/register", BODY)
        assert response.status == 200
        return client, RegisterAnswer.decode(bytes(response.body))


@contextlib.asynccontextmanager
async def scene(limits: RegistryLimits | None = None) -> AsyncIterator[Scene]:
    made = Scene(limits)
    async with serving(made.control):
        yield made


def test_a_registration_reaches_every_forwarder_before_its_answer() -> None:
    async def main() -> None:
        async with scene() as here:
            _, answer = await here.registered(1000)
            assert (answer.connection_ids, answer.lease) == (10, LEASE)
            assert answer.address == "192.0.2.1:1000"
            for forwarder in here.forwarders:
                (_, moved), (_, added) = forwarder.changes
                assert moved == OwnerMoved(0, path_of(1000))
                assert isinstance(added, ConnectionIdsAdded)

    run_virtual(main())


def test_the_lease_runs_when_the_connection_has_ended() -> None:
    async def main() -> None:
        async with scene() as here:
            loop = asyncio.get_running_loop()
            client, _ = await here.registered()
            client.close()
            closed = loop.time()
            await asyncio.sleep(LEASE / 2)
            assert here.control.registrations == 1
            await asyncio.sleep(LEASE)
            assert here.control.registrations == 0
            assert here.control.connection_ids == 0
            for forwarder in here.forwarders:
                (at,) = forwarder.removals()
                assert at == pytest.approx(closed + LEASE, abs=1.0)

    run_virtual(main())


def test_a_client_that_vanishes_is_forgotten_in_the_end() -> None:
    async def main() -> None:
        async with scene() as here:
            client, _ = await here.registered()
            client.leave()
            await asyncio.sleep(LEASE)
            assert here.control.registrations == 1
            await asyncio.sleep(LEASE)
            assert here.control.registrations == 0

    run_virtual(main())


def test_a_client_that_leaves_before_the_answer_leaves_nothing_behind() -> None:
    """Its request may be followed or not; a registration that nobody holds must not stay."""

    async def main() -> None:
        async with scene() as here:
            for turns in range(12):  # how far the request gets before the connection ends
                client = await here.world.connect(1000 + turns)
                client.request("POST", "/v1/register", BODY)
                for _ in range(turns):
                    await asyncio.sleep(0)
                client.close()
                await asyncio.sleep(3 * LEASE)
                assert here.control.registrations == 0, turns

    run_virtual(main(), limit_s=1e6)


def test_the_lease_ends_to_the_moment_and_packets_start_it_anew() -> None:
    async def main() -> None:
        async with scene() as here:
            loop = asyncio.get_running_loop()
            path = path_of(7)
            here.control.register(RegisterRequest(bytes(16), 3), path, holder=-1)
            here.control.connection_closed(-1)
            begun = loop.time()
            await asyncio.sleep(100.0)
            here.control.seen([path_of(8).remote])
            here.control.seen([path.remote])
            await asyncio.sleep(LEASE - 0.001)
            assert here.forwarders[0].removals() == []
            await asyncio.sleep(0.002)
            (at,) = here.forwarders[0].removals()
            assert at == pytest.approx(begun + 100.0 + LEASE, abs=1e-6)

    run_virtual(main())


def test_registrations_follow_a_client_that_moves() -> None:
    async def main() -> None:
        async with scene() as here:
            client, _ = await here.registered(1000)
            client.move(path_of(2000))
            client.quic.send_ping(1)
            client.transmit()
            await asyncio.sleep(5.0)
            assert here.forwarders[0].changes[-1][1] == OwnerMoved(0, path_of(2000))
            assert here.forwarders[0].table.is_source(path_of(2000).remote)
            assert not here.forwarders[0].table.is_source(path_of(1000).remote)

    run_virtual(main())


def test_a_registration_is_ended_by_its_id() -> None:
    async def main() -> None:
        async with scene() as here:
            client, answer = await here.registered()
            where = f"/v1/registrations/{answer.id}"
            assert (await client.answer("DELETE", where)).status == 204
            assert here.control.registrations == 0
            assert isinstance(here.forwarders[1].changes[-1][1], OwnerRemoved)
            assert (await client.answer("DELETE", where)).status == 404

    run_virtual(main())


def test_ids_are_128_random_bits() -> None:
    async def main() -> None:
        async with scene() as here:
            ids = {
                here.control.register(
                    RegisterRequest(bytes([each]) * 16, 1), path_of(each), holder=-each
                ).id
                for each in range(1, 100)
            }
            assert len(ids) == 99
            assert all(len(each) == 32 and int(each, 16) for each in ids)

    run_virtual(main())


def test_a_full_relay_refuses_and_tells_when_to_come_again() -> None:
    async def main() -> None:
        async with scene(RegistryLimits(max_registrations=1, retry_after_s=9.0)) as here:
            here.control.register(RegisterRequest(bytes(16), 1), path_of(1), holder=-1)
            with pytest.raises(RegistryFull):
                here.control.register(RegisterRequest(bytes(17), 1), path_of(2), holder=-2)
            client = await here.world.connect()
            response = await client.post("/v1/register", BODY)
            assert (response.status, response.headers[b"retry-after"]) == (429, b"9")

    run_virtual(main())


def test_many_leases_that_end_together_do_so_in_steps() -> None:
    async def main() -> None:
        async with scene() as here:
            for each in range(2500):
                request = RegisterRequest(each.to_bytes(16, "big"), 1)
                path = path_of(1 + each, f"10.0.0.{each % 10}")
                here.control.register(request, path, holder=-1 - each)
                here.control.connection_closed(-1 - each)
            await asyncio.sleep(LEASE + 0.001)
            assert here.control.registrations == 0
            assert here.forwarders[0].table == ForwardingTable()

    run_virtual(main())


def test_leases_go_on_ending_when_a_forwarder_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with scene() as here:
            for each in (1, 2):
                request = RegisterRequest(bytes([each]) * 16, 1)
                here.control.register(request, path_of(each), holder=-each)
                here.control.connection_closed(-each)
                await asyncio.sleep(10.0)
            here.forwarders[0].fails = 1
            await asyncio.sleep(LEASE + 20.0)
            assert here.control.registrations == 0

    with caplog.at_level(logging.ERROR):
        run_virtual(main())
    assert [record.message for record in caplog.records] == ["ending registrations failed"]


def test_stopping_tells_the_clients() -> None:
    async def main() -> None:
        async with scene() as here:
            client, _ = await here.registered()
            began = asyncio.get_running_loop().time()
            await here.control.stop()
            assert asyncio.get_running_loop().time() - began < 1.0
            await asyncio.wait_for(client.terminated, 1.0)

    run_virtual(main())


def test_the_state_fills_a_forwarder() -> None:
    async def main() -> None:
        async with scene() as here:
            await here.registered(1000)
            here.control.register(RegisterRequest(bytes(16), 1024), path_of(1), holder=-1)
            filled = ForwardingTable()
            for owner in here.control.state.owners():
                for change in here.control.state.describe(owner):
                    filled.apply(change)
            assert filled == here.forwarders[0].table
            assert here.control.state.describe(999) == []

    run_virtual(main())
