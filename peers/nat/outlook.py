"""What is known of our own place in the network: values only. docs/protocol.md §12."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from relay.wire.address import Address

from ..interfaces import IpInterface
from ..network import DatagramSocket


class Mapping(StrEnum):
    """How the NAT before us chooses the outside address of a socket (RFC 4787 §4.1)."""

    INDEPENDENT = "independent"
    """The same one whoever is written to; or there is no NAT at all."""
    DEPENDENT = "dependent"
    """Another one for another address, or another port, of the other end."""
    UNKNOWN = "unknown"
    """The relay has no second address or port to compare with, or did not answer there."""


@dataclass(frozen=True, slots=True, eq=False)
class SocketOutlook:
    """What is known of one UDP socket of ours."""

    socket: DatagramSocket
    outside: Address | None = None
    """Its address as the relay sees it; None: not known (yet)."""
    mapping: Mapping = Mapping.UNKNOWN
    mapped: Address | None = None
    """The outside address and port that a gateway forwards to it (UPnP-IGD, NAT-PMP, PCP)."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What is known at one moment; a new one is made for everything that is learnt."""

    interfaces: tuple[IpInterface, ...] = ()
    """The addresses of this machine with their networks: no loopback, no IPv6 link-local ones."""
    sockets: tuple[SocketOutlook, ...] = ()
    """The one that the pipes use towards the relay first."""
    relays: frozenset[Address] = frozenset()
    """All addresses of the relay's that are known; some name a wildcard host."""

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks that we are on."""
        return tuple(dict.fromkeys(each.network for each in self.interfaces))

    def hosts(self, socket: DatagramSocket) -> tuple[Address, ...]:
        """The addresses at which this machine's own networks reach a wildcard socket."""
        return host_addresses(self.interfaces, socket.local)


def host_addresses(interfaces: Sequence[IpInterface], local: Address) -> tuple[Address, ...]:
    """`local`'s port on each interface address of its family."""
    version = 6 if ":" in local.host else 4
    return tuple(
        Address(str(each.ip), local.port) for each in interfaces if each.version == version
    )
