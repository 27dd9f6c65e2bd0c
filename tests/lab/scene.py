"""The usual cast on a virtual network: a relay, and two hosts for the peers."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from relay.certificate import ServerCertificate
from relay.core.registry import RegistryLimits
from relay.wire.address import Address

from .original import OriginalAccepter, OriginalDialer
from .virtual_network import PERFECT, Conditions, Host, VirtualNetwork
from .virtual_relay import PORT, VirtualRelay

RELAY_NAME = "relay.example"
RELAY_ADDRESSES = ("192.0.2.1", "2001:db8::1")
DIALER_ADDRESSES = ("198.51.100.2", "2001:db8:d::2")
ACCEPTER_ADDRESSES = ("203.0.113.3", "2001:db8:a::3")


@dataclass(frozen=True, slots=True)
class Scene:
    """A relay that runs, and where its peers are to be."""

    network: VirtualNetwork
    relay: VirtualRelay
    dialer: Host
    accepter: Host

    def relay_address(self, host: Host) -> Address:
        """Where that host finds the relay, IPv4 first."""
        own_families = {Address(each, 0).family for each in host.addresses}
        for each in self.relay.host.addresses:
            found = Address(each, PORT)
            if found.family in own_families:
                return found
        raise ValueError(f"{host.name} has no family in common with the relay")

    def original_dialer(self) -> OriginalDialer:
        """A dialer of the original, on the dialer's host."""
        relay = self.relay_address(self.dialer)
        return OriginalDialer(self.dialer.open_socket(relay.family), relay)

    def original_accepter(self) -> OriginalAccepter:
        """An accepter of the original, on the accepter's host."""
        relay = self.relay_address(self.accepter)
        return OriginalAccepter(self.accepter.open_socket(relay.family), relay)


@contextlib.asynccontextmanager
async def scene(
    certificate: ServerCertificate,
    *,
    seed: int = 1,
    peers: Conditions | None = None,
    dialer: tuple[str, ...] = DIALER_ADDRESSES,
    accepter: tuple[str, ...] = ACCEPTER_ADDRESSES,
    registry_limits: RegistryLimits | None = None,
) -> AsyncIterator[Scene]:
    """Start the relay; at the end stop it. `peers` are the conditions of both peers' links."""
    network = VirtualNetwork(seed)
    network.names[RELAY_NAME] = list(RELAY_ADDRESSES)
    relay_host = network.host("relay", *RELAY_ADDRESSES)
    relay_host.set_conditions(PERFECT)
    relay = VirtualRelay(relay_host, certificate, registry_limits=registry_limits)
    made = Scene(
        network, relay, network.host("dialer", *dialer), network.host("accepter", *accepter)
    )
    for host in (made.dialer, made.accepter):
        host.set_conditions(peers or Conditions())
    await relay.start()
    try:
        yield made
    finally:
        await relay.stop()
