"""Which addresses the relay sends to for a peer. docs/protocol.md §14.4.

A peer's address comes from its validated HTTP/3 connection, never from a body. Yet the relay stands
where others do not reach: beside machines of its own network, or on its own loopback. So what is no
peer's address is refused, and what is private is taken only where the peer came by a private way.
"""

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from relay.wire.address import Address

from .path import Path

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class DestinationRefusal(StrEnum):
    """Why an address is not taken. The value is its name in every report."""

    SPECIAL = "destination_special"
    """Unspecified, multicast, broadcast, link-local, reserved, or port 0: no peer has it."""
    OWN = "destination_own"
    """The relay's own listening address and port: packets would go round and round."""
    LOOPBACK = "destination_loopback"
    """On this machine, though the peer did not come by a loopback listener."""
    PRIVATE = "destination_private"
    """On a private network, though the peer did not come by a listener on one."""


class DestinationRefused(Exception):
    """The relay does not send there; the text is for people."""

    def __init__(self, reason: DestinationRefusal, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Destinations:
    """What is taken. Made anew when the relay's own addresses change."""

    listeners: Collection[Address] = ()
    """Where the relay listens; a wildcard stands for all of `own_hosts`."""
    own_hosts: Callable[[], Collection[str]] = frozenset
    """Gives this machine's IP addresses."""
    allow_private: bool = False
    """The operator says so: loopback and private networks are as good as any."""

    def check(self, path: Path) -> None:
        """See whether a peer may be reached by `path`.

        :raises DestinationRefused: and why.
        """
        remote = path.remote
        ip = _embedded(ipaddress.ip_address(remote.host))
        if remote.port == 0 or is_special(ip):
            raise DestinationRefused(
                DestinationRefusal.SPECIAL, f"{remote} is not an address that a peer can have"
            )
        if self._is_own(path, ip):
            raise DestinationRefused(
                DestinationRefusal.OWN, f"{remote} is an address of this relay itself"
            )
        if self.allow_private:
            return
        local = ipaddress.ip_address(path.local)
        if ip.is_loopback and not local.is_loopback:
            raise DestinationRefused(
                DestinationRefusal.LOOPBACK,
                f"{remote} is on the relay's own machine, and this way to it is not",
            )
        if is_private(ip) and not (is_private(local) or local.is_loopback):
            raise DestinationRefused(
                DestinationRefusal.PRIVATE,
                f"{remote} is on a private network, and the relay's address {path.local} is not",
            )

    def _is_own(self, path: Path, ip: _IP) -> bool:
        """:param ip: of the peer, or that which its address stands for."""
        remote = path.remote
        if not any(each.port == remote.port for each in self.listeners):
            return False  # the usual case, and quick
        hosts = {remote.host, str(ip)}
        for each in self.listeners:
            if each.port != remote.port:
                continue
            if each.host in hosts:
                return True
            is_wildcard = each.host in ("0.0.0.0", "::")
            if is_wildcard and (
                ip.is_loopback or path.local in hosts or not hosts.isdisjoint(self.own_hosts())
            ):
                return True
        return False


def is_special(ip: _IP) -> bool:
    """Whether no peer can have it: RFC 6890, RFC 4291 §2.4."""
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        return True
    if isinstance(ip, ipaddress.IPv4Address):
        return any(ip in network for network in _SPECIAL_IPV4)
    if ip.is_loopback:
        return False
    # All that is not global unicast or unique local: site-local (RFC 3879), discard-only
    # (RFC 6666), and what was never given out.
    return not any(ip in network for network in _UNICAST_IPV6)


def is_private(ip: _IP) -> bool:
    """Whether it means something else in each network: RFC 1918, RFC 6598, RFC 4193; and what only
    laboratories use (RFC 2544, RFC 5737, RFC 3849)."""
    networks = _PRIVATE_IPV4 if isinstance(ip, ipaddress.IPv4Address) else _PRIVATE_IPV6
    return any(ip in network for network in networks)


def _embedded(ip: _IP) -> _IP:
    """The IPv4 address that an IPv6 one stands for, should a translator or tunnel make it one
    again (RFC 4291 §2.5.5, RFC 3056, RFC 4380, RFC 6052); else the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(ip.packed[12:])
    return ip


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")

_SPECIAL_IPV4 = [
    ipaddress.IPv4Network(each)
    for each in (
        "0.0.0.0/8",  # "this network"
        "192.0.0.0/24",  # protocol assignments
        "240.0.0.0/4",  # reserved, and the broadcast address
    )
]
_UNICAST_IPV6 = [ipaddress.IPv6Network(each) for each in ("2000::/3", "fc00::/7")]
_PRIVATE_IPV4 = [
    ipaddress.IPv4Network(each)
    for each in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "192.0.2.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
]
_PRIVATE_IPV6 = [ipaddress.IPv6Network(each) for each in ("fc00::/7", "2001:db8::/32")]
