"""Addresses at which a peer may be reached, its own and those that the other end names.

The words are those of RFC 8445 where they fit; mapping behaviour is that of RFC 4787 §4.1.
"""

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from socket import AddressFamily

from relay.wire.address import Address

from ..nat.outlook import Mapping

SocketId = int
"""Names a UDP socket of the endpoint's. A number is never used again for another socket."""

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Kind(IntEnum):
    """Where an address comes from. The value is on the wire; a higher one is tried first."""

    REFLEXIVE = 0
    """Learned from a probe that came from there. Never announced."""
    OUTSIDE = 1
    """As the relay, or the other end, sees us."""
    MAPPED = 2
    """A port mapping that our router has granted (UPnP-IGD, NAT-PMP, PCP)."""
    HOST = 3
    """An address of one of our own interfaces."""


@dataclass(frozen=True, slots=True)
class LocalCandidate:
    """One of our own addresses, and the socket that hears what is sent there."""

    kind: Kind
    address: Address
    socket: SocketId


@dataclass(frozen=True, slots=True)
class RemoteCandidate:
    """An address that the other end has named. Nothing is proved of it."""

    kind: Kind
    address: Address


@dataclass(frozen=True, slots=True)
class LocalView:
    """All that is known of the network where we are."""

    sockets: dict[SocketId, AddressFamily]
    """The sockets to probe from, at most one of each family; not those of birthday probing."""
    candidates: tuple[LocalCandidate, ...] = ()
    """Best first; at most ten of them are announced."""
    mapping: Mapping = Mapping.UNKNOWN
    """Of the NAT before our IPv4 socket."""
    networks: tuple[IpNetwork, ...] = ()
    """The networks that our interfaces are on ("on-link")."""
    relays: frozenset[Address] = frozenset()
    """All addresses of the relay: the other end must not have us probe those."""
