"""The rendezvous over HTTP/3 in memory, under a clock that jumps: what its tests are made with."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from peers.identity import Identity
from relay.control import Control
from relay.core.limits import RateLimits
from relay.core.rendezvous import RendezvousLimits
from relay.wire.rendezvous import (
    ChallengeAnswer,
    ListenAnswer,
    ListenRequest,
    WaitAnswer,
    WaitRequest,
    bytes_to_sign,
)
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import Client, Response, World, certificate, serving

RELAY = certificate().fingerprint
WHO, OTHER = Identity.generate(), Identity.generate()
INVITE = {"packet": "AAAA", "v": 1, "auth": "certificate"}
GRACE, LIFE = 30.0, 60.0


class Scene:
    """A control and clients that reach it."""

    def __init__(self, limits: RendezvousLimits | None, rate_limits: RateLimits | None) -> None:
        self.world = World()
        self.control = Control(
            certificate=certificate(),
            forwarders=[],
            send=self.world.deliver,
            rate_limits=rate_limits or RateLimits(per_minute=1e6, burst=10**6),
            rendezvous_limits=limits,
        )
        self.world.to_server = self.control.receive_http3

    def count(self, what: str) -> int:
        return self.control.rendezvous_counters().get(what, 0)


Main = Callable[[Scene], Awaitable[None]]


def run(
    main: Main, limits: RendezvousLimits | None = None, rate_limits: RateLimits | None = None
) -> None:
    async def whole() -> None:
        async with scene(limits, rate_limits) as here:
            await main(here)

    run_virtual(whole())


@contextlib.asynccontextmanager
async def scene(
    limits: RendezvousLimits | None, rate_limits: RateLimits | None
) -> AsyncIterator[Scene]:
    made = Scene(limits, rate_limits)
    async with serving(made.control):
        yield made


def now() -> float:
    return asyncio.get_running_loop().time()


async def challenged(client: Client) -> bytes:
    response = await client.answer("POST", "/v1/challenge")
    assert response.status == 200
    return ChallengeAnswer.decode(bytes(response.body)).challenge


async def listen(
    client: Client, who: Identity = WHO, name: str | None = None, relay: str = RELAY
) -> Response:
    message = bytes_to_sign(relay, await challenged(client), who.certificate_der, name)
    request = ListenRequest(who.certificate_der, who.sign(message), name)
    return await client.post("/v1/listen", request.encode())


async def listening(client: Client, who: Identity = WHO, name: str | None = None) -> str:
    response = await listen(client, who, name)
    assert response.status == 200
    answer = ListenAnswer.decode(bytes(response.body))
    assert answer.grace == GRACE
    return answer.id


async def post(client: Client, to: str, number: int = 0) -> Response:
    body = json.dumps({"to": to, "invite": {**INVITE, "number": number}}).encode()
    return await client.post("/v1/invites", body)


def ask(client: Client, listener: str, after: int = 0, wait: int = 25) -> "asyncio.Task[Response]":
    request = WaitRequest(listener, after, wait=wait).encode()
    _, response = client.request("POST", "/v1/listeners/wait", request)

    async def answered() -> Response:
        async with asyncio.timeout(40.0):
            await response.done
        return response

    return asyncio.create_task(answered())


def numbers(response: Response, after: int = 0) -> list[int]:
    assert response.status == 200
    found = WaitAnswer.decode(bytes(response.body), after).invites
    return [json.loads(invite)["number"] for _, invite in found]
