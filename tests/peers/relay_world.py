"""A peer's host and a relay that does what it is told, on a virtual network."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from peers.identity import Identity
from peers.link.link import RelayLink
from peers.relay_name import RelayName
from peers.trust import RelayTrust
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Conditions, VirtualNetwork
from tests.peers.fake_relay import FakeRelay, certificate

V4, V6 = "198.51.100.1", "2001:db8::1"
NAME = RelayName("relay.example", 4433)
KEY = bytes(range(32))
PINNED = RelayTrust(fingerprint=certificate().fingerprint)


class World:
    """A peer's host and a relay's, which has both families."""

    def __init__(self, *peer_addresses: str, latency_s: float = 0.02, seed: int = 1) -> None:
        self.network = VirtualNetwork(seed=seed)
        self.relay_host = self.network.host("relay", V4, V6)
        self.peer_host = self.network.host(
            "peer", *(peer_addresses or ("192.0.2.7", "2001:db8::7"))
        )
        self.network.names["relay.example"] = [V4]
        self.peer_host.set_conditions(Conditions(latency_s=latency_s))
        self.relay = self.start_relay()

    def start_relay(
        self, family: socket.AddressFamily = socket.AF_INET, identity: Identity | None = None
    ) -> FakeRelay:
        return FakeRelay(self.relay_host.open_socket(family, 4433), identity).start()

    async def connect(self, trust: RelayTrust = PINNED) -> RelayLink:
        return await RelayLink.connect(self.peer_host, NAME, trust)

    def open_sockets(self) -> int:
        return len(self.peer_host._sockets)

    async def close(self, link: RelayLink | None = None) -> None:
        if link is not None:
            await link.close()
        self.relay.kill()


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> float:
    """Wait for it; returns how long that took."""
    start = now()
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.01)
    return now() - start


async def talk(link: RelayLink) -> None:
    """As if a pipe were active."""
    for _ in range(6):
        link.pipe_received(now())
        await asyncio.sleep(0.01)


def scene(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(main(), limit_s=10_000.0)
