"""What travels beside a datagram through `recvmsg` and `sendmsg`: ECN bits and the local address.

RFC 3168 for the two ECN bits; ip(7) and ipv6(7) for the structures. A platform that lacks an option
does without: then ECN is lost, or the system chooses the source address of a wildcard listener.
"""

import socket
import struct
import sys
from collections.abc import Iterable

from relay.wire.address import Address

Ancillary = tuple[int, int, bytes]
"""Level, type, data: one control message."""

# linux/in.h; Python's socket module names these two from 3.14 on.
IP_PKTINFO: int | None = 8 if sys.platform == "linux" else None
IP_RECVTOS: int | None = getattr(socket, "IP_RECVTOS", None)
IPV6_RECVTCLASS: int | None = getattr(socket, "IPV6_RECVTCLASS", None)
IPV6_TCLASS: int | None = getattr(socket, "IPV6_TCLASS", None)
IPV6_RECVPKTINFO: int | None = getattr(socket, "IPV6_RECVPKTINFO", None)
IPV6_PKTINFO: int | None = getattr(socket, "IPV6_PKTINFO", None)

ECN_MASK = 0b11

_INT = struct.Struct("@i")
_IN_PKTINFO = struct.Struct("@i4s4s")
"""struct in_pktinfo: interface, the local address that was sent to, the header's destination."""
_IN6_PKTINFO = struct.Struct("@16sI")
"""struct in6_pktinfo: address, interface."""
_LINK_LOCAL = b"\xfe\x80"

RECEIVE_SIZE = socket.CMSG_SPACE(_INT.size) + socket.CMSG_SPACE(_IN6_PKTINFO.size)
"""Bytes for the control messages of one datagram, of either family."""

# Linux answers IP_RECVTOS with messages of type IP_TOS, other systems with its own number.
_TOS = socket.IP_TOS if sys.platform == "linux" else IP_RECVTOS

_FAMILY_BY_LEVEL = {
    socket.IPPROTO_IP: socket.AF_INET,
    socket.IPPROTO_IPV6: socket.AF_INET6,
}

ECN_PLACES: dict[socket.AddressFamily, tuple[int | None, int]] = {
    socket.AF_INET: (_TOS, 0),
    socket.AF_INET6: (IPV6_TCLASS, 0 if sys.byteorder == "little" else _INT.size - 1),
}
"""By the receiving socket's family: the type of the message that has the ECN bits, and the index of
the byte whose lowest two they are. For loops to which a call of `read_ecn` is too slow."""


def read_ecn(messages: Iterable[Ancillary]) -> int:
    """The ECN bits of a received datagram; 0 if the system did not tell."""
    for level, kind, data in messages:
        family = _FAMILY_BY_LEVEL.get(level)
        if family is not None:
            wanted, at = ECN_PLACES[family]
            if kind == wanted and len(data) > at:
                return data[at] & ECN_MASK
    return 0


def read_local(messages: Iterable[Ancillary]) -> str | None:
    """The relay's address that a datagram was sent to, as in `Path.local`; None if not told."""
    for level, kind, data in messages:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= _IN_PKTINFO.size:
            return Address.from_packed(_IN_PKTINFO.unpack_from(data)[1], 0).host
        if level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO and len(data) >= _IN6_PKTINFO.size:
            ip, interface = _IN6_PKTINFO.unpack_from(data)
            return Address.from_packed(ip, 0, interface if ip[:2] == _LINK_LOCAL else 0).host
    return None


def to_send(local: str, *, ecn: int, choose_source: bool) -> list[Ancillary]:
    """Control messages for a datagram that leaves from `local`, the relay's own IP address.

    :param choose_source: the socket is bound to a wildcard, so the source must be named.
    """
    address = Address(local, 0)
    is_v4 = address.family is socket.AF_INET
    messages: list[Ancillary] = []
    if choose_source and is_v4 and IP_PKTINFO is not None:
        data = _IN_PKTINFO.pack(0, address.packed, bytes(4))
        messages.append((socket.IPPROTO_IP, IP_PKTINFO, data))
    elif choose_source and not is_v4 and IPV6_PKTINFO is not None:
        data = _IN6_PKTINFO.pack(address.packed, address.scope)
        messages.append((socket.IPPROTO_IPV6, IPV6_PKTINFO, data))
    if ecn and is_v4:
        messages.append((socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(ecn)))
    elif ecn and IPV6_TCLASS is not None:
        messages.append((socket.IPPROTO_IPV6, IPV6_TCLASS, _INT.pack(ecn)))
    return messages
