"""Which addresses the other end may have us probe. It is authenticated, and may still be hostile.

docs/protocol.md §13.3.
"""

import ipaddress
from collections.abc import Iterable
from enum import StrEnum

from relay.wire.address import Address

from .candidate import IpNetwork, Kind, LocalView, RemoteCandidate

MAX_CANDIDATES = 10
"""How many of its candidates are taken from the other end at a time; and so many are announced."""

LOWEST_PORT = 1024
"""Below are services, which no peer's socket is; NATs keep to that, too (RFC 4787 REQ-3)."""


class Refusal(StrEnum):
    """Why a candidate is not taken."""

    TOO_MANY = "too many"
    PORT = "a port of services"
    SPECIAL = "loopback, link-local, multicast or reserved"
    PRIVATE = "private, and neither on-link nor behind our outside address"
    BROADCAST = "a network's own or broadcast address"
    RELAY = "the relay's address"
    OURS = "our own address"
    TOO_FAST = "new addresses came too fast"


def _networks(*texts: str) -> tuple[IpNetwork, ...]:
    return tuple(map(ipaddress.ip_network, texts))


_SPECIAL = _networks("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
"""RFC 6890: no host's address, or not to be reached beyond one link."""
_PRIVATE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193."""
_GLOBAL_V6 = _networks("2000::/3")
_EMBEDDING_V4 = _networks("2001::/32", "2002::/16")
"""Teredo and 6to4 carry an IPv4 address, which would get round the rules for those."""


class Admission:
    """The rules, for the place where we are."""

    def __init__(self, view: LocalView, peers_outside: Iterable[Address] = ()) -> None:
        """:param peers_outside: what the other end says its outside addresses are."""
        self._view = view
        own = {each.address for each in view.candidates}
        self._own = own
        ours = {each.address.host for each in view.candidates if each.kind is Kind.OUTSIDE}
        self._behind_same = any(each.host in ours for each in peers_outside)

    def refuse(self, address: Address) -> Refusal | None:
        """Why we do not probe that address; None: we may."""
        ip = _parse(address.host)
        if ip is None or is_special(address):
            return Refusal.SPECIAL
        if not LOWEST_PORT <= address.port <= 65_535:
            return Refusal.PORT
        if address in self._view.relays:
            return Refusal.RELAY
        if address in self._own:
            return Refusal.OURS
        on_link = [each for each in self._view.networks if ip in each]
        if any(_is_broadcast(ip, each) for each in on_link):
            return Refusal.BROADCAST
        if any(ip in each for each in _PRIVATE) and not on_link and not self._behind_same:
            return Refusal.PRIVATE
        return None


def outside_of(candidates: Iterable[RemoteCandidate]) -> list[Address]:
    """The outside addresses among them."""
    return [each.address for each in candidates if each.kind is Kind.OUTSIDE]


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_special(address: Address) -> bool:
    """Whether it is no address that one host can have for another one elsewhere."""
    ip = _parse(address.host)
    if ip is None:
        return True
    if ip.version == 4:
        return any(ip in each for each in _SPECIAL)
    if any(ip in each for each in _EMBEDDING_V4):
        return True
    # What is neither global unicast (RFC 4291 §2.4) nor unique local is nothing to probe: mapped
    # and translated IPv4, link-local and site-local addresses, multicast.
    return not any(ip in each for each in (*_GLOBAL_V6, *_PRIVATE))


def _is_broadcast(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, network: IpNetwork) -> bool:
    if network.prefixlen >= network.max_prefixlen - 1:  # RFC 3021: both are hosts
        return False
    return ip.version == 4 and ip in (network.network_address, network.broadcast_address)
