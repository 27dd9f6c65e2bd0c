"""The lying relay, two honest peers and an accomplice, on a virtual network."""

import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from peers import (
    Authentication,
    Identity,
    Listener,
    PeersError,
    Pinned,
    Pipe,
    RelayTrust,
    dial_to,
    listen,
)
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Host, VirtualNetwork
from tests.peers.fake_relay import certificate
from tests.peers.lying_relay import LyingRelay
from tests.peers.rendezvous_scene import HERE, THERE

Liar = TypeVar("Liar", bound=LyingRelay)

RELAY = "relay.example:4433"
TRUST = RelayTrust(certificate().fingerprint)
ATTACKER = Identity.generate()


class World:
    """The liar, the two honest peers, and the liar's accomplice."""

    def __init__(self) -> None:
        self.network = VirtualNetwork(seed=1)
        self.network.names["relay.example"] = ["198.51.100.1"]
        self._relay_host = self.network.host("relay", "198.51.100.1")
        self.dialer = self.network.host("dialer", "192.0.2.7")
        self.accepter = self.network.host("accepter", "192.0.2.8")
        self.attacker = self.network.host("attacker", "192.0.2.66")
        self.datagrams: list[bytes] = []
        """All that was on any wire."""
        self.network.watchers.append(lambda packet: self.datagrams.append(packet.datagram))
        self.relay: LyingRelay = self._start(LyingRelay)

    def replace_relay(self, kind: type[Liar]) -> Liar:
        """Another one in its place, from the beginning."""
        self.relay.kill()
        self.relay = relay = self._start(kind)
        return relay

    def _start(self, kind: type[Liar]) -> Liar:
        relay = kind(self._relay_host.open_socket(socket.AF_INET, 4433))
        relay.start()
        return relay

    async def listen(
        self, auth: Authentication | None = None, who: Identity = THERE, at: Host | None = None
    ) -> Listener:
        return await listen(
            RELAY,
            identity=who,
            auth=auth or Pinned(who, [HERE.fingerprint]),
            trust=TRUST,
            network=at or self.accepter,
        )

    async def dial(self, to: str = THERE.fingerprint, auth: Authentication | None = None) -> Pipe:
        auth = auth or Pinned(HERE, [THERE.fingerprint])
        return await dial_to(RELAY, to, auth=auth, trust=TRUST, timeout_s=20.0, network=self.dialer)

    async def expect_failure(
        self, to: str = THERE.fingerprint, auth: Authentication | None = None
    ) -> PeersError:
        with pytest.raises(PeersError) as failed:
            await self.dial(to, auth)
        return failed.value


def run(main: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = World()
        try:
            await main(world)
        finally:
            world.relay.kill()

    run_virtual(whole(), limit_s=10_000.0)
