"""What tests of dialing and accepting share: a scene after which nothing may be left."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from peers import Accepter, Dialing, InviteKey, Pipe, RelayTrust, dial
from relay.certificate import ServerCertificate
from relay.core.registry import RegistryLimits
from tests.lab.scene import RELAY_NAME, Scene
from tests.lab.scene import scene as set_scene
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Host
from tests.lab.virtual_relay import PORT

RELAY = f"{RELAY_NAME}:{PORT}"

Main = Callable[[Scene], Awaitable[None]]


@cache
def certificate() -> ServerCertificate:
    """The relay's: one for all, as to make one takes time."""
    with tempfile.TemporaryDirectory() as folder:
        return ServerCertificate.self_signed(Path(folder), RELAY_NAME)


def run(main: Main) -> None:
    """Run a test on a scene; afterwards no socket, no task and no registration may be left."""
    run_virtual(_whole(main), limit_s=100_000.0)


async def _whole(main: Main) -> None:
    before = len(asyncio.all_tasks())
    async with set_scene(certificate()) as at:
        tasks = len(asyncio.all_tasks())
        await main(at)
        await asyncio.sleep(2.0)
        assert open_sockets(at.dialer) == open_sockets(at.accepter) == 0
        assert len(asyncio.all_tasks()) <= tasks
        await asyncio.sleep(RegistryLimits().lease_s)  # for requests cut off in the middle
        assert at.relay.control.registrations == 0
    assert len(asyncio.all_tasks()) <= before + 1


def open_sockets(host: Host) -> int:
    return len(host._sockets)


def now() -> float:
    return asyncio.get_running_loop().time()


def trust(at: Scene) -> RelayTrust:
    return RelayTrust(at.relay.certificate.fingerprint)


async def dial_at(at: Scene, lifetime_s: float = 3600.0) -> Dialing:
    return await dial(
        RELAY, auth=InviteKey(), trust=trust(at), lifetime_s=lifetime_s, network=at.dialer
    )


@asynccontextmanager
async def accepter_at(at: Scene) -> AsyncIterator[Accepter]:
    async with await Accepter.connect(RELAY, trust=trust(at), network=at.accepter) as accepter:
        yield accepter


async def say(from_: Pipe, to: Pipe, text: bytes) -> None:
    """Send on a stream of its own, and see that it arrives."""
    stream = from_.open_stream(unidirectional=True)
    await stream.write(text)
    stream.write_eof()
    received = await to.accept_stream()
    assert await received.read() == text
