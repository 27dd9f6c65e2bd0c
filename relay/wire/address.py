"""Canonical socket addresses: one peer address has one spelling, whatever socket it came by."""

import ipaddress
import socket
from typing import NamedTuple, Self

SockAddr = tuple[str, int] | tuple[str, int, int, int]
"""What Python's socket module gives for AF_INET and AF_INET6."""


class Address(NamedTuple):
    """An IP address and UDP port. IPv4-mapped IPv6 never occurs: it is written as IPv4."""

    host: str
    """IPv4 dotted quad, or compressed lower-case IPv6; a link-local one ends in `%interface`."""
    port: int

    @classmethod
    def from_sockaddr(cls, sockaddr: SockAddr) -> Self:
        """Canonicalise what `recvmsg` or `getsockname` gave."""
        host = sockaddr[0]
        if ":" not in host:
            return cls(host, sockaddr[1])
        ip = ipaddress.IPv6Address(host)
        return cls(str(ip.ipv4_mapped or ip), sockaddr[1])

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
