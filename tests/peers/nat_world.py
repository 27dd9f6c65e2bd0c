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
from relay.wire.address import Address
from tests.lab.virtual_network import Conditions, Host, Nat, Packet, VirtualNetwork
from tests.lab.virtual_relay import PORT, VirtualRelay

RELAY_NAME = "relay.example"
RELAY = ("192.0.2.1", "2001:db8::1")
PUBLIC = "203.0.113.9"
PRIVATE = "192.168.1.7"
SECOND_PORT = PORT + 1


class DependentNat(Nat):
    """Address- and port-dependent mapping (RFC 4787 §4.1) and filtering (§5)."""

    def __init__(self, network: VirtualNetwork, public: str) -> None:
        super().__init__(network, public, float("inf"))
        network.attach(public, self)
        self._core = network
        self._outside = public
        self._hosts: dict[str, Host] = {}
        self._ports: dict[tuple[Address, Address], int] = {}
        self._pairs: dict[int, tuple[Address, Address]] = {}

    def connect(self, host: Host, private: str) -> None:
        self._hosts[private] = host

    def disconnect(self, private: str) -> None:
        self._hosts.pop(private, None)

    def send_out(self, packet: Packet) -> None:
        pair = (packet.source, packet.destination)
        port = self._ports.setdefault(pair, 30_000 + len(self._ports))
        self._pairs[port] = pair
        source = Address(self._outside, port)
        self._core.route(Packet(packet.datagram, source, packet.destination))

    def arrive(self, packet: Packet) -> None:
        private, contacted = self._pairs.get(packet.destination.port, (None, None))
        if private is None or contacted != packet.source:
            self._core.drop("nat: never contacted")
        elif (host := self._hosts.get(private.host)) is not None:
            host.arrive(Packet(packet.datagram, packet.source, private))


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
