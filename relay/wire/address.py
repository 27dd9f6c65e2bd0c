"""Canonical socket addresses: one peer address has one spelling, whatever socket it came by."""

import ipaddress
import socket
from typing import NamedTuple, Self

SockAddr = tuple[str, int] | tuple[str, int, int, int]
"""What Python's socket module gives for AF_INET and AF_INET6."""

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
"""IPv4 inside IPv6, as a dual-stack socket sees it (RFC 4291 §2.5.5.2)."""


class Address(NamedTuple):
    """An IP address and UDP port. IPv4-mapped IPv6 never occurs: it is written as IPv4."""

    host: str
    """IPv4 dotted quad, or compressed lower-case IPv6; a link-local one ends in `%` and its
    interface (RFC 4007 §11.2), by number unless it was given by name."""
    port: int

    @classmethod
    def from_sockaddr(cls, sockaddr: SockAddr) -> Self:
        """Canonicalise what `recvmsg` or `getsockname` gave.

        :raises OSError: if it was not an address.
        """
        host, port = sockaddr[0], sockaddr[1]
        if ":" not in host:
            return cls(host, port)
        ip, _, interface = host.partition("%")
        scope = interface or (sockaddr[3] if len(sockaddr) == 4 else 0)
        return cls.from_packed(socket.inet_pton(socket.AF_INET6, ip), port, scope)

    @classmethod
    def from_packed(cls, ip: bytes, port: int, scope: int | str = 0) -> Self:
        """From 4 or 16 bytes in network order; `scope` is the interface of a link-local one.

        :raises ValueError: if `ip` has another length.
        """
        if len(ip) == 4:
            return cls(socket.inet_ntop(socket.AF_INET, ip), port)
        if ip[:12] == _MAPPED_PREFIX:
            return cls(socket.inet_ntop(socket.AF_INET, ip[12:]), port)
        host = socket.inet_ntop(socket.AF_INET6, ip)
        return cls(f"{host}%{scope}" if scope else host, port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` gives: `192.0.2.1:443`, `[2001:db8::1]:443`; port 0 is none.

        :raises ValueError: for anything else, names and scoped addresses among it.
        """
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        is_number = port.isascii() and port.isdigit() and len(port) <= 5
        if not is_number or not 0 < int(port) <= 65_535 or "%" in host:
            raise ValueError(f"'{text[:60]}' is no IP address with a port")
        if bracketed != (ip.version == 6):
            raise ValueError(f"'{text[:60]}': IPv6 addresses, and no others, stand in brackets")
        return cls.from_packed(ip.packed, int(port))

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def packed(self) -> bytes:
        """The IP address alone: 4 or 16 bytes in network order."""
        return socket.inet_pton(self.family, self.host.partition("%")[0])

    @property
    def scope(self) -> int:
        """The interface's number of a link-local address, else 0.

        :raises OSError: there is no interface of that name.
        """
        interface = self.host.partition("%")[2] or "0"
        return int(interface) if interface.isdecimal() else socket.if_nametoindex(interface)

    @property
    def sockaddr(self) -> SockAddr:
        """What `sendto` and `bind` take, and what `recvmsg` gives on a socket of that family."""
        if ":" not in self.host:
            return (self.host, self.port)
        return (self.host.partition("%")[0], self.port, 0, self.scope)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
