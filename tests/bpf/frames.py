"""Ethernet frames with QUIC datagrams in them, and every checksum computed from scratch."""

import socket
import struct
from dataclasses import dataclass

from relay.wire.address import Address

PEER_MAC = bytes.fromhex("020000000001")
OTHER_MAC = bytes.fromhex("020000000002")
OWN_MAC = bytes.fromhex("0200000000fe")

IPV4, IPV6 = 0x0800, 0x86DD
UDP = 17


@dataclass(frozen=True, slots=True)
class Frame:
    """A datagram in its wrapping; every field of the headers that matters to us."""

    payload: bytes
    source: tuple[str, int]
    destination: tuple[str, int]
    from_mac: bytes = PEER_MAC
    to_mac: bytes = OWN_MAC
    ttl: int = 64
    tos: int = 0
    """DSCP and ECN; over IPv6 the traffic class."""
    dont_fragment: bool = True
    checksum: str = "full"
    """`full`, `none`, or `partial`: over the pseudo-header alone, as veth and `lo` leave it."""

    def build(self) -> bytes:
        """The bytes on the wire, without the frame check sequence."""
        ipv6 = ":" in self.source[0]
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        source, destination = (
            socket.inet_pton(family, host) for host in (self.source[0], self.destination[0])
        )
        udp = self._udp(source, destination)
        if ipv6:
            first = 6 << 28 | self.tos << 20 | 0x12345
            ip = struct.pack("!IHBB", first, len(udp), UDP, self.ttl) + source + destination
        else:
            ip = self._ipv4(source, destination, len(udp))
        kind = struct.pack("!H", IPV6 if ipv6 else IPV4)
        return self.to_mac + self.from_mac + kind + ip + udp

    def _ipv4(self, source: bytes, destination: bytes, size: int) -> bytes:
        flags = 0x4000 if self.dont_fragment else 0

        def header(check: int) -> bytes:
            fields = (0x45, self.tos, 20 + size, 0x1D1E, flags, self.ttl, UDP, check)
            return struct.pack("!BBHHHBBH", *fields) + source + destination

        return header(~ones_sum(header(0)) & 0xFFFF)

    def _udp(self, source: bytes, destination: bytes) -> bytes:
        size = 8 + len(self.payload)
        ports = self.source[1], self.destination[1]
        pseudo = source + destination + struct.pack("!II", size, UDP)
        check = 0
        if self.checksum == "partial":
            check = ones_sum(pseudo)
        elif self.checksum == "full":
            header = struct.pack("!HHHH", *ports, size, 0)
            check = ~ones_sum(pseudo + header + self.payload) & 0xFFFF or 0xFFFF
        return struct.pack("!HHHH", *ports, size, check) + self.payload


@dataclass(frozen=True, slots=True)
class Received:
    """What a UDP socket would be given of a frame."""

    payload: bytes
    source: Address
    destination: Address


def receive(frame: bytes) -> Received | None:
    """Read a frame as a host does that is not interested in anything but plain UDP."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    ip = frame[14:]
    if kind == IPV4 and len(ip) >= 20 and ip[0] == 0x45 and ip[9] == UDP:
        (size, fragment) = struct.unpack_from("!H2xH", ip, 2)
        hosts, start = (ip[12:16], ip[16:20]), 20
        if fragment & 0x3FFF:
            return None
    elif kind == IPV6 and len(ip) >= 40 and ip[0] >> 4 == 6 and ip[6] == UDP:
        size = 40 + struct.unpack_from("!H", ip, 4)[0]
        hosts, start = (ip[8:24], ip[24:40]), 40
    else:
        return None
    if not start + 8 <= size <= len(ip):
        return None
    source_port, port, length, check = struct.unpack_from("!HHHH", ip, start)
    if length != size - start or (kind == IPV6 and check == 0):
        return None
    return Received(
        ip[start + 8 : size],
        Address.from_packed(hosts[0], source_port),
        Address.from_packed(hosts[1], port),
    )


def udp_residue(frame: bytes) -> int:
    """What the UDP checksum of a frame that `receive` takes comes to: 0xffff if it is right."""
    start, pseudo = _pseudo_header(frame)
    (size,) = struct.unpack_from("!H", frame, start + 4)
    return ones_sum(pseudo + frame[start : start + size])


def is_partial(frame: bytes) -> bool:
    """Whether the UDP checksum is over the pseudo-header alone."""
    start, pseudo = _pseudo_header(frame)
    return struct.unpack_from("!H", frame, start + 6) == (ones_sum(pseudo),)


def _pseudo_header(frame: bytes) -> tuple[int, bytes]:
    """Where UDP begins, and the pseudo-header."""
    ipv6 = frame[12:14] == b"\x86\xdd"
    addresses = frame[22:54] if ipv6 else frame[26:34]
    start = 54 if ipv6 else 34
    (size,) = struct.unpack_from("!H", frame, start + 4)
    return start, addresses + struct.pack("!II", size, UDP)


def ones_sum(data: bytes) -> int:
    """The 16-bit ones' complement sum (RFC 1071), not yet complemented; 0xffff rather than 0."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return (total - 1) % 0xFFFF + 1 if total else 0
