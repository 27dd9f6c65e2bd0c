"""Two of our own peers on a scene, joined by a pipe."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from peers import Authentication, Invite, InviteKey, PathPolicy, Pipe, RelayTrust, accept, dial
from peers.dialer import Dialing

from .scene import RELAY_NAME, Scene
from .transfer import receive, send
from .virtual_relay import PORT

RELAY = f"{RELAY_NAME}:{PORT}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends of one pipe."""

    invite: Invite
    dialer: Pipe
    accepter: Pipe
    handshake_s: float
    """From the accepter's start until both have their pipe."""


async def dial_at(
    at: Scene,
    auth: Authentication | None = None,
    path_policy: PathPolicy = PathPolicy.RELAY_ONLY,
) -> Dialing:
    """Dial on the dialer's host, with the relay's fingerprint pinned.

    By the relay only, unless it is the direct path that is tested: it would soon be found.
    """
    trust = RelayTrust(at.relay.certificate.fingerprint)
    return await dial(
        RELAY,
        auth=auth or InviteKey(),
        trust=trust,
        path_policy=path_policy,
        network=at.dialer,
    )


async def answer(at: Scene, dialing: Dialing, auth: Authentication | None = None) -> Pair:
    """Accept on the accepter's host; wait until both ends are open."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    answering = loop.create_task(accept(dialing.invite, auth=auth, network=at.accepter))
    try:
        here = await dialing.pipe()
        there = await answering
    finally:
        answering.cancel()
    return Pair(dialing.invite, here, there, loop.time() - began)


@contextlib.asynccontextmanager
async def joined(
    at: Scene, *, wait_s: float = 0.0, path_policy: PathPolicy = PathPolicy.RELAY_ONLY
) -> AsyncIterator[Pair]:
    """Dial, wait, accept. At the end the dialer closes, and the accepter notices."""
    async with await dial_at(at, path_policy=path_policy) as dialing:
        await asyncio.sleep(wait_s)
        pair = await answer(at, dialing)
        async with pair.accepter:
            yield pair
            await pair.dialer.close()
            await pair.accepter.wait_closed()


async def exchange(dialer: Pipe, accepter: Pipe, size: int) -> float:
    """Send so many bytes each way on one stream, compare the hashes; returns the seconds taken."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def answer() -> tuple[str, str]:
        stream = await accepter.accept_stream()
        return await receive(stream), await send(stream, size, seed=2)

    answering = loop.create_task(answer())
    stream = dialer.open_stream()
    sent = await send(stream, size, seed=1)
    received = await receive(stream)
    assert await answering == (sent, received)
    return loop.time() - began
