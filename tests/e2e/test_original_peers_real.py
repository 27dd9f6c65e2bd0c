"""The original's own peers, over real sockets, through the relay as a process."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from peers import Invite, Original, RelayName, RelayTrust, SystemNetwork, accept, dial
from relay.wire.address import Address

from ..lab.original import OriginalAccepter, OriginalDialer
from ..lab.processes import PATIENCE_S, PYTHON, RelayProcess, environment


async def _conversation(dialer_relay: Address, accepter_relay: Address) -> None:
    network = SystemNetwork()
    async with (
        OriginalDialer(network.open_socket(dialer_relay.family), dialer_relay) as dialer,
        OriginalAccepter(network.open_socket(accepter_relay.family), accepter_relay) as accepter,
        asyncio.timeout(PATIENCE_S),
    ):
        await accepter.accept(await dialer.invite())
        await dialer.connected.wait()
        request, answer = os.urandom(100_000), os.urandom(100_000)
        dialer.write(request)
        assert await accepter.read(len(request)) == request
        accepter.write(answer)
        assert await dialer.read(len(answer)) == answer
        await dialer.close()
        await accepter.terminated


@pytest.mark.parametrize(
    ("dialer_at", "accepter_at"), [(0, 0), (1, 1), (0, 1)], ids=["ipv4", "ipv6", "mixed"]
)
def test_talk_through_our_relay(tmp_path: Path, dialer_at: int, accepter_at: int) -> None:
    with RelayProcess(tmp_path, "127.0.0.1", "::1") as relay:
        addresses = relay.addresses
        asyncio.run(_conversation(addresses[dialer_at], addresses[accepter_at]))
        assert relay.stop() == 0
        counters = relay.counters()
    assert counters["registrations"] == 2
    assert isinstance(counters["bytes_forwarded"], int)
    assert counters["bytes_forwarded"] > 200_000


def test_original_accepter_answers_our_dialer(tmp_path: Path) -> None:
    async def main(relay: Address) -> None:
        opened = SystemNetwork().open_socket(relay.family)
        dialing = await dial(str(relay), auth=Original(), trust=RelayTrust())
        async with (
            asyncio.timeout(PATIENCE_S),
            dialing,
            OriginalAccepter(opened, relay) as accepter,
        ):
            await accepter.accept(dialing.invite.encode())
            pipe = await dialing.pipe()
            stream = pipe.open_stream()
            await stream.write(b"request")
            assert await accepter.read(7) == b"request"
            accepter.write(b"answer", end=True)
            assert b"".join([data async for data in stream]) == b"answer"

    with RelayProcess(tmp_path) as relay:
        asyncio.run(main(relay.address))


def test_our_accepter_answers_an_original_dialer(tmp_path: Path) -> None:
    async def main(relay: Address) -> None:
        opened = SystemNetwork().open_socket(relay.family)
        async with asyncio.timeout(PATIENCE_S), OriginalDialer(opened, relay) as dialer:
            invite = Invite.decode(await dialer.invite())
            invite = replace(invite, relay=RelayName(relay.host, relay.port))
            accepting = accept(invite, auth=Original(), trust=RelayTrust())
            async with await accepting as pipe:
                dialer.write(b"request", end=True)
                stream = await pipe.accept_stream()
                assert b"".join([data async for data in stream]) == b"request"
                await stream.write(b"answer")
                assert await dialer.read(6) == b"answer"

    with RelayProcess(tmp_path) as relay:
        asyncio.run(main(relay.address))


@contextlib.asynccontextmanager
async def _command(relay: Address, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`quicpipe … --original` with its standard streams as pipes."""
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        "-m",
        "peers",
        *arguments,
        "--original",
        "--relay",
        str(relay),
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def test_original_accepter_answers_the_command(tmp_path: Path) -> None:
    async def main(relay: Address) -> None:
        opened = SystemNetwork().open_socket(relay.family)
        async with (
            asyncio.timeout(PATIENCE_S),
            _command(relay, "dial") as command,
            OriginalAccepter(opened, relay) as accepter,
        ):
            assert command.stdin
            assert command.stdout
            command.stdin.write(b"request")
            command.stdin.write_eof()
            await accepter.accept((await command.stdout.readline()).decode())
            assert await accepter.read(7) == b"request"
            accepter.write(b"answer", end=True)
            assert await command.stdout.read() == b"answer"
            assert await command.wait() == 0

    with RelayProcess(tmp_path) as relay:
        asyncio.run(main(relay.address))


def test_the_command_answers_an_original_dialer(tmp_path: Path) -> None:
    async def main(relay: Address) -> None:
        opened = SystemNetwork().open_socket(relay.family)
        async with (
            asyncio.timeout(PATIENCE_S),
            OriginalDialer(opened, relay) as dialer,
            _command(relay, "accept") as command,
        ):
            assert command.stdin
            assert command.stdout
            command.stdin.write((await dialer.invite()).encode())
            await dialer.connected.wait()
            dialer.write(b"request", end=True)
            assert await command.stdout.read() == b"request"
            assert await command.wait() == 0

    with RelayProcess(tmp_path) as relay:
        asyncio.run(main(relay.address))
