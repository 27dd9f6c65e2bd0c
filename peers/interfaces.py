"""This machine's own addresses, and its way out, as the system tells them."""

import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import ifaddr

IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address of ours and the network that it is on."""

MAX_INTERFACES = 64
"""Addresses that are looked at; machines that host others may have thousands."""

_ROUTES = Path("/proc/net/route")
_ROUTE_UP_AND_GATEWAY = 0x3
"""RTF_UP and RTF_GATEWAY of linux/route.h."""


def system_interfaces() -> tuple[IpInterface, ...]:
    """The unicast addresses of this machine: no loopback, no link-local IPv6 ones. Never raises.

    Link-local IPv6 addresses are left out because nobody else can write them down: their zone
    (RFC 4007) means something on this machine only.
    """
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError:
        return ()
    found: list[IpInterface] = []
    for adapter in adapters:
        for each in adapter.ips:
            host = each.ip if isinstance(each.ip, str) else each.ip[0]
            interface = usable(host, each.network_prefix)
            if interface is not None:
                found.append(interface)
    return tuple(dict.fromkeys(found))[:MAX_INTERFACES]


def usable(host: str, prefix: int) -> IpInterface | None:
    """An interface's address as a value; None for those of no use to another machine."""
    try:
        interface = ipaddress.ip_interface(f"{host.partition('%')[0]}/{prefix}")
    except ValueError:
        return None
    ip = interface.ip
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and (ip.is_link_local or ip.ipv4_mapped):
        return None
    return interface


def system_gateway() -> str | None:
    """The IPv4 address of the default router; None: there is none, or the system does not say.

    Known on Linux only: elsewhere no port mapping is attempted.
    """
    try:
        table = _ROUTES.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return default_gateway(table.splitlines())


def default_gateway(lines: Sequence[str]) -> str | None:
    """Read /proc/net/route: the gateway of the default route with the smallest metric."""
    best: tuple[int, str] | None = None
    for line in lines[1:]:
        fields = line.split()
        try:
            destination, gateway, flags, mask = (int(fields[i], 16) for i in (1, 2, 3, 7))
            metric = int(fields[6])
            # The kernel prints the four bytes as one number of the machine's own byte order.
            host = socket.inet_ntoa(gateway.to_bytes(4, sys.byteorder))
        except (IndexError, ValueError, OverflowError):
            continue
        is_default = destination == 0 and mask == 0 and gateway != 0
        if is_default and flags & _ROUTE_UP_AND_GATEWAY == _ROUTE_UP_AND_GATEWAY:
            best = min(best or (metric, host), (metric, host))
    return best[1] if best else None
