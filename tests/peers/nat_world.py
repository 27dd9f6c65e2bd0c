"""A relay on two ports and a peer's host, perhaps behind a NAT, on a virtual network."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from peers.link.link import RelayLink
from peers.nat.discovery import Watch, discover
from peers.nat.outlook import Outlook
from peers.network import DatagramSocket
from peers.relay_name import RelayName
from peers.trust import RelayTrust
from relay.certificate import ServerCertificate
from tests.lab.virtual_nat import Behaviour, MappingBehaviour, Nat
from tests.lab.virtual_network import Conditions, Host, VirtualNetwork
from tests.lab.virtual_relay import PORT, VirtualRelay

RELAY_NAME = "relay.example"
RELAY = ("192.0.2.1", "2001:db8::1")
PUBLIC = "203.0.113.9"
PRIVATE = "192.168.1.7"
SECOND_PORT = PORT + 1


def dependent_nat(network: VirtualNetwork, public: str) -> Nat:
    """One that maps by address and port (RFC 4787 §4.1), and filters by both (§5)."""
    return network.nat(public, behaviour=Behaviour(mapping=MappingBehaviour.ADDRESS_AND_PORT))


@dataclass
class NatWorld:
    """Who is there."""

    network: VirtualNetwork
    relay: VirtualRelay
    peer: Host
    outlooks: list[Outlook] = field(default_factory=list)

    def behind(self, nat: Nat, *more: str) -> None:
        """Put the peer behind a NAT; `more` are its other addresses there."""
        self.peer.move(PRIVATE, *more, behind=nat)

    async def link(self) -> RelayLink:
        """The peer's, connected."""
        trust = RelayTrust(self.relay.certificate.fingerprint)
        return await RelayLink.connect(self.peer, RelayName(RELAY_NAME, PORT), trust)

    def discover(self, link: RelayLink) -> Watch:
        """Note what is found out."""
        return discover(link, self.outlooks.append)

    @property
    def outlook(self) -> Outlook:
        """The last one."""
        return self.outlooks[-1]


@contextlib.asynccontextmanager
async def nat_world(
    certificate: ServerCertificate,
    *,
    ports: Sequence[int] = (PORT, SECOND_PORT),
    relay: Sequence[str] = RELAY,
    peer: Sequence[str] = ("198.51.100.2", "2001:db8:d::2"),
) -> AsyncIterator[NatWorld]:
    """Start the relay; at the end stop it."""
    network = VirtualNetwork()
    network.names[RELAY_NAME] = list(relay)
    served = VirtualRelay(network.host("relay", *relay), certificate, ports=ports)
    host = network.host("peer", *peer)
    host.set_conditions(Conditions(latency_s=0.02))
    await served.start()
    try:
        yield NatWorld(network, served, host)
    finally:
        await served.stop()


def main_socket(link: RelayLink) -> DatagramSocket:
    """That which the link uses."""
    way = link.endpoint.current
    if way is None:
        raise RuntimeError("the link has no way")
    return way.socket


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> float:
    """Wait for it; returns how long that took."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)
    return loop.time() - start
