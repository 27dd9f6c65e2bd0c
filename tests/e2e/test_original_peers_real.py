"""The original's own peers, over real sockets, through the relay as a process."""

import asyncio
import os
from pathlib import Path

import pytest

from peers.network import SystemNetwork
from relay.wire.address import Address

from ..lab.original import OriginalAccepter, OriginalDialer
from ..lab.processes import PATIENCE_S, RelayProcess


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
