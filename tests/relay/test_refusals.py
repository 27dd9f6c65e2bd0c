"""What a whole control refuses: with which status, counted under which name, and what it leaves."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from relay.access import Access
from relay.control import Control
from relay.core.admission import TokenRefusal
from relay.core.destinations import DestinationRefusal, Destinations
from relay.core.limits import RateLimits
from relay.core.path import Path
from relay.core.quota import RegistryRefusal
from relay.core.registry import RegistryLimits
from relay.core.rendezvous import Refusal as RendezvousRefusal
from relay.core.slots import Refusal as SlotRefusal
from relay.gate import REQUESTS_FULL, TOO_MANY_REFUSED
from relay.requests import TOO_OFTEN_BY_SOURCE, TOO_OFTEN_BY_TOKEN, TOO_OFTEN_IN_ALL
from relay.wire.address import Address
from relay.wire.slots import OPEN_PATH, OpenRequest
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import Client, Response, World, certificate, serving

RELAY = "198.51.100.1"
PUBLIC = "8.8.4.4"


class Scene:
    """A control on a public address, and clients anywhere."""

    def __init__(self, access: Access, limits: RegistryLimits) -> None:
        self.world = World()
        self.control = Control(
            certificate=certificate(),
            forwarders=[],
            send=self.world.deliver,
            registry_limits=limits,
            access=access,
        )
        self.world.to_server = self.control.receive_http3

    async def client(self, host: str, port: int = 1000, local: str = RELAY) -> Client:
        client = Client(self.world, Path(Address(host, port), 0, local))
        client.connect()
        async with asyncio.timeout(5.0):
            await client.established
        return client

    def refused(self) -> dict[str, int]:
        """Reasons that occurred."""
        return {reason: n for reason, n in self.control.refused_counters().items() if n}


@contextlib.asynccontextmanager
async def scene(
    access: Access | None = None, limits: RegistryLimits | None = None
) -> AsyncIterator[Scene]:
    made = Scene(access or Access(), limits or RegistryLimits())
    async with serving(made.control):
        yield made


async def register(client: Client, number: int = 1, num: int = 1) -> Response:
    key = "AAECAwQFBgcICQoLDA0O" + "ABCDEFGH"[number] + "w=="
    return await client.post("/v1/register", json.dumps({"key": key, "num": num}).encode())


RULES = Destinations([Address(RELAY, 4433)])


@pytest.mark.parametrize(
    ("host", "port", "local", "reason"),
    [
        ("169.254.1.1", 5000, RELAY, DestinationRefusal.SPECIAL),
        ("10.0.0.1", 5000, PUBLIC, DestinationRefusal.PRIVATE),
        ("127.0.0.1", 5000, RELAY, DestinationRefusal.LOOPBACK),
        (RELAY, 4433, RELAY, DestinationRefusal.OWN),
        (RELAY, 4434, RELAY, None),
        (PUBLIC, 4433, RELAY, None),
        ("10.0.0.1", 5000, "192.168.0.1", None),
    ],
)
def test_an_address_that_is_refused(
    host: str, port: int, local: str, reason: DestinationRefusal | None
) -> None:
    async def run() -> None:
        async with scene(Access(destinations=RULES)) as here:
            answer = await register(await here.client(host, port, local))
            assert answer.status == (200 if reason is None else 403)
            assert here.refused() == ({} if reason is None else {reason.value: 1})
            assert here.control.registrations == (reason is None)

    run_virtual(run())


def test_who_moves_to_an_address_that_is_refused_stays_registered_where_he_was() -> None:
    async def run() -> None:
        async with scene(Access(destinations=RULES)) as here:
            client = await here.client(PUBLIC)
            assert (await register(client)).status == 200
            client.move(Path(Address("127.0.0.1", 1000), 0, RELAY))
            assert (await client.get("/health")).status == 200
            await asyncio.sleep(2.0)  # the path is validated
            (registration,) = here.control.registry.by_owner.values()
            assert registration.path.remote == Address(PUBLIC, 1000)
            assert here.refused() == {DestinationRefusal.LOOPBACK: 1}
            client.move(Path(Address(PUBLIC, 1001), 0, RELAY))
            assert (await client.get("/health")).status == 200
            await asyncio.sleep(2.0)
            assert registration.path.remote == Address(PUBLIC, 1001)

    run_virtual(run())


def test_full_and_taken_are_counted_by_their_reasons() -> None:
    async def run() -> None:
        limits = RegistryLimits(max_registrations=2, max_connection_ids=5, retry_after_s=7.0)
        async with scene(limits=limits) as here:
            first, second, third = [await here.client(f"8.8.4.{number}") for number in (1, 2, 3)]
            assert (await register(first, 1, num=2)).status == 200
            assert (await register(second, 2, num=3)).status == 200
            for client, number, num, reason in (
                (third, 3, 1, RegistryRefusal.FULL),
                (second, 2, 4, RegistryRefusal.CIDS_FULL),
            ):
                before = here.refused().get(reason, 0)
                answer = await register(client, number, num)
                assert answer.status == 429
                assert answer.headers[b"retry-after"] == b"7"
                assert here.refused()[reason] == before + 1
            assert here.control.connection_ids == 5

    run_virtual(run())


def test_a_relay_that_leaves_takes_nothing_new() -> None:
    async def run() -> None:
        async with scene() as here:
            client = await here.client(PUBLIC)
            assert (await register(client)).status == 200
            here.control.is_draining = True
            assert (await register(client)).status == 200  # what is there goes on
            answer = await register(client, 2)
            assert answer.status == 503
            assert int(answer.headers[b"retry-after"]) > 0
            assert here.refused() == {RegistryRefusal.LEAVING: 1}

    run_virtual(run())


def test_a_reload_changes_how_often_one_source_may_ask_of_all() -> None:
    async def run() -> None:
        async with scene(Access(source_rate=RateLimits(2.0, 1))) as here:
            client = await here.client(PUBLIC)
            for path, name in (("/v1/register", None), ("/v1/challenge", "refused_rate")):
                if name is None:
                    assert (await register(client)).status == 200
                    assert (await register(client)).status == 429
                    assert here.refused() == {TOO_OFTEN_BY_SOURCE: 1}
                else:
                    assert (await client.post(path, b"")).status == 200
                    assert (await client.post(path, b"")).status == 429
                    assert here.control.rendezvous_counters()[name] == 1
            here.control.change_access(Access(source_rate=RateLimits(6000.0, 3000)))
            await asyncio.sleep(0.1)
            assert (await register(client)).status == 200
            assert (await client.post("/v1/challenge", b"")).status == 200

    run_virtual(run())


def test_codes_of_one_source_have_a_rate_of_their_own() -> None:
    """docs/protocol.md §11: a claim of a stranger's number is a guess."""

    async def run() -> None:
        async with scene() as here:
            client = await here.client(PUBLIC)
            statuses = [
                (await client.post(OPEN_PATH, OpenRequest(f"{number:032x}").encode())).status
                for number in range(31)
            ]
            assert statuses == [200] * 30 + [429]
            assert here.control.rendezvous_counters()["slot_refused_rate"] == 1

    run_virtual(run())


def test_every_reason_has_a_counter_before_it_occurs() -> None:
    async def run() -> None:
        async with scene() as here:
            counters = here.control.refused_counters()
            for name in (
                *(REQUESTS_FULL, TOO_MANY_REFUSED),
                *(TOO_OFTEN_BY_SOURCE, TOO_OFTEN_BY_TOKEN, TOO_OFTEN_IN_ALL),
                *TokenRefusal,
                *RegistryRefusal,
                *DestinationRefusal,
            ):
                assert counters[name] == 0
            counters = here.control.rendezvous_counters()
            for name in RendezvousRefusal:
                assert counters[f"refused_{name}"] == 0
            for name in SlotRefusal:
                assert counters[f"slot_refused_{name}"] == 0
            for name in ("rate", "proof", "polls"):
                assert counters[f"refused_{name}"] == 0
            for name in ("rate", "polls"):
                assert counters[f"slot_refused_{name}"] == 0

    run_virtual(run())
