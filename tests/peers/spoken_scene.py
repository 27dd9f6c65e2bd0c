"""Two peers on a virtual network, one of whom makes a code that the other one dials."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from peers import Identity, Pipe, RelayTrust
from peers.errors import PeersError
from peers.rendezvous.code import word_list
from peers.rendezvous.spoken import SpokenCode, accept_code, dial_code
from relay.certificate import ServerCertificate
from tests.lab.pairs import RELAY
from tests.lab.scene import Scene, scene
from tests.lab.virtual_loop import run_virtual

ALICE, BOB, MALLORY = (Identity.generate() for _ in range(3))

Test = Callable[[Scene], Awaitable[None]]


def play(certificate: ServerCertificate, test: Test, limit_s: float = 3000.0) -> None:
    async def main() -> None:
        async with scene(certificate) as at:
            await test(at)

    run_virtual(main(), limit_s=limit_s)


def trust(at: Scene) -> RelayTrust:
    return RelayTrust(at.relay.certificate.fingerprint)


async def make_code(at: Scene) -> SpokenCode:
    return await accept_code(RELAY, trust=trust(at), identity=ALICE, network=at.accepter)


async def use_code(at: Scene, code: str) -> Pipe:
    return await dial_code(code, RELAY, trust=trust(at), identity=BOB, network=at.dialer)


def other_words(code: str) -> str:
    """The same number, and words that are not those."""
    number, first, second = code.split("-")
    return f"{number}-{first}-{next(word for word in word_list() if word != second)}"


@contextlib.asynccontextmanager
async def met(at: Scene) -> AsyncIterator[tuple[Pipe, Pipe]]:
    """Both ends of a pipe, dialer first."""
    async with await make_code(at) as waiting, asyncio.TaskGroup() as group:
        accepting = group.create_task(waiting.pipe())
        async with await use_code(at, waiting.code) as dialer:
            yield dialer, await accepting


async def outcome(work: Coroutine[Any, Any, Any]) -> PeersError | None:
    try:
        await work
    except PeersError as error:
        return error
    return None
