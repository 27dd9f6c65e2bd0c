"""A router that maps ports by PCP and NAT-PMP, or does not, as a test wants it."""

import asyncio
import ipaddress
import struct
from dataclasses import dataclass, field

from peers.nat import natpmp, pcp
from peers.nat.gateway import Speaks

CLIENT, ROUTER = "192.168.1.7", "192.168.1.1"
OUTSIDE = "203.0.113.5"


@dataclass
class Router:
    """Serves port 5351; what it grants it notes."""

    speaks: set[Speaks] = field(default_factory=lambda: {Speaks.PCP, Speaks.NAT_PMP})
    code: int = 0
    lifetime_s: int | None = None
    """None: as asked for."""
    external_port: int | None = None
    requests: list[tuple[float, str, int]] = field(default_factory=list)
    """When, by which protocol, for how many seconds."""

    def answers(self, datagram: bytes) -> list[bytes]:
        """To one datagram."""
        if datagram[0] == pcp.VERSION:
            if Speaks.PCP not in self.speaks:
                refusal = struct.pack("!BBHI", 0, 0x80 | datagram[1], 1, 9)
                return [refusal] if Speaks.NAT_PMP in self.speaks else []
            return [self._by_pcp(datagram)]
        return [self._by_nat_pmp(datagram)] if Speaks.NAT_PMP in self.speaks else []

    def _by_pcp(self, datagram: bytes) -> bytes:
        seconds, client = struct.unpack_from("!I16s", datagram, 4)
        assert client[12:] == ipaddress.IPv4Address(CLIENT).packed
        if datagram[1] == 0:
            return struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 9)
        self._note("PCP", seconds)
        granted = seconds if self.lifetime_s is None or not seconds else self.lifetime_s
        header = struct.pack("!BBBBII12x", 2, 0x81, 0, self.code, granted, 9)
        nonce, internal = datagram[24:36], datagram[40:42]
        external = struct.pack("!H", self.external_port or struct.unpack("!H", internal)[0])
        outside = bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(OUTSIDE).packed
        return header + nonce + bytes((17, 0, 0, 0)) + internal + external + outside

    def _by_nat_pmp(self, datagram: bytes) -> bytes:
        if datagram == natpmp.encode_outside_request():
            packed = ipaddress.IPv4Address(OUTSIDE).packed
            return struct.pack("!BBHI4s", 0, 128, 0, 9, packed)
        internal, external, seconds = struct.unpack("!HHI", datagram[4:])
        self._note("NAT-PMP", seconds)
        granted = seconds if self.lifetime_s is None or not seconds else self.lifetime_s
        port = self.external_port or external
        return struct.pack("!BBHIHHI", 0, 129, self.code, 9, internal, port, granted)

    def _note(self, protocol: str, seconds: int) -> None:
        self.requests.append((asyncio.get_running_loop().time(), protocol, seconds))
