"""The seam between the peers and the network: everything above it can run on a virtual one.

A `Network` opens UDP sockets and resolves names. `SystemNetwork` is the real one; the tests have
another, with loss, latency and NATs, under a virtual clock.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Protocol

from relay.wire.address import Address, SockAddr

from .errors import RelayUnreachable, printable
from .interfaces import IpInterface, system_gateway, system_interfaces
from .udp import UdpSocket, canonical

MAX_ADDRESSES = 16
"""How many of a name's addresses are tried: a resolver may be hostile, too."""

RESOLVE_TIMEOUT_S = 10.0
"""Seconds for a name to resolve."""

Receive = Callable[[list[tuple[bytes, Address]]], None]
"""Takes a batch of datagrams with their source addresses, in the order of their arrival."""


class DatagramSocket(Protocol):
    """A UDP socket, bound to a port of its own and to no particular local address."""

    @property
    def local(self) -> Address:
        """Where it is bound; the host may be the wildcard address."""

    def start(self, receive: Receive) -> None:
        """Call `receive` once per batch of datagrams from now on, until `close`. Call it once."""

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        """Send each in order. Never blocks, and never raises for what the network does.

        Like the network itself it may drop: what cannot be sent is counted, not reported.
        """

    def close(self) -> None:
        """Stop at once; what was not yet sent is dropped. A second call does nothing."""


class Network(Protocol):
    """Where sockets and addresses come from."""

    def open_socket(self, family: socket.AddressFamily) -> DatagramSocket:
        """Open a socket of that family.

        :raises OSError: the system has no such family, or no socket left.
        """

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Find the addresses of a name, best first, the families taking turns (RFC 8305 §4).

        :raises RelayUnreachable: there are none; the message says why.
        """

    def interfaces(self) -> tuple[IpInterface, ...]:
        """Our own addresses that another machine may be able to reach. Quick; never raises."""

    def gateway(self) -> str | None:
        """The IPv4 address of the router that may map ports for us; None: not known."""


class SystemNetwork:
    """The real network. Its sockets must be opened and used inside one event loop."""

    def open_socket(self, family: socket.AddressFamily) -> UdpSocket:
        """Open a non-blocking socket, bound to the wildcard address and a free port.

        :raises OSError: the system has no such family, or no socket left.
        """
        return UdpSocket(family)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Resolve in a thread; a literal address (also in brackets) needs no resolver.

        :raises RelayUnreachable: the name is unknown or malformed, or the resolver is silent.
        """
        literal = literal_address(host, port)
        if literal is not None:
            return [literal]
        loop = asyncio.get_running_loop()
        name = printable(host, 100)
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await loop.getaddrinfo(
                    host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
                )
        except TimeoutError:
            raise RelayUnreachable(
                f"the relay's name '{name}' did not resolve within {RESOLVE_TIMEOUT_S:.0f} s; "
                "is there a network?"
            ) from None
        except OSError as error:
            raise RelayUnreachable(
                f"the relay's name '{name}' does not resolve: {error.strerror or error}"
            ) from None
        except ValueError:  # not encodable as a host name, or with a zero byte in it
            raise RelayUnreachable(f"'{name}' cannot be the name of a host") from None
        # Typed more loosely than it is: what getaddrinfo gives for these two families.
        addresses = [
            canonical(sockaddr)  # type: ignore[arg-type]  # see above
            for family, _, _, _, sockaddr in found
            if family in (socket.AF_INET, socket.AF_INET6)
        ]
        if not addresses:
            raise RelayUnreachable(f"the relay's name '{name}' has no IPv4 or IPv6 address")
        return interleave(addresses)[:MAX_ADDRESSES]

    def interfaces(self) -> tuple[IpInterface, ...]:
        """Those of this machine: no loopback, no link-local IPv6 ones."""
        return system_interfaces()

    def gateway(self) -> str | None:
        """The default router."""
        return system_gateway()


def literal_address(host: str, port: int) -> Address | None:
    """Read an IP address, IPv6 ones with or without brackets; None if `host` is a name."""
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    sockaddr: SockAddr = (str(ip), port)
    return Address.from_sockaddr(sockaddr)


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Order so that the families take turns, the first one's first; doubles go. RFC 8305 §4."""
    distinct = list(dict.fromkeys(addresses))
    if not distinct:
        return []
    first = distinct[0].family
    ours = [each for each in distinct if each.family == first]
    others = [each for each in distinct if each.family != first]
    return [each for each in chain(*zip_longest(ours, others)) if each is not None]
