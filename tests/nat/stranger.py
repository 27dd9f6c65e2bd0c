"""A stranger who sees a wire and can send from any address: what he sees he replays and forges."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from relay.wire.address import Address

from .wires import Wire, recorded
from .world import Site, World

_ETHERNET, _UDP = 14, 17
_ETHERTYPE_IPV4 = b"\x08\x00"
_FASTEST_HOP_S = 0.001


@dataclass(frozen=True, slots=True)
class Seen:
    """One UDP datagram over IPv4."""

    source: Address
    destination: Address
    payload: bytes

    @property
    def reflected(self) -> "Seen":
        """The same, back to whoever sent it."""
        return replace(self, source=self.destination, destination=self.source)

    def forged(self, bit: int) -> "Seen":
        """With another bit somewhere."""
        changed = bytearray(self.payload)
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        return replace(self, payload=bytes(changed))


class Stranger:
    """A host of his own at the internet, with a wire that is faster than everybody's."""

    def __init__(self, world: World) -> None:
        """For one world. He may claim any source address: nobody filters here."""
        self.site: Site = world.server()
        self.site.wire.set(delay_s=_FASTEST_HOP_S)
        self.socket = self.site.host.udp(self.site.ipv4)
        with self.site.host.entered():
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def send(self, seen: Seen) -> None:
        """As himself."""
        self.socket.sendto(seen.payload, tuple(seen.destination))

    def send_as(self, seen: Seen, source: Address) -> None:
        """With a source address that is not his."""
        self._raw.sendto(_packet(replace(seen, source=source)), (seen.destination.host, 0))

    def sent_and_received(self) -> tuple[int, int]:
        """Bytes, with all headers, that went out of his host and into it so far."""
        out, into = self.site.wire.counts()
        return out.bytes, into.bytes

    def close(self) -> None:
        self._raw.close()


class Rush:
    """A thread that does something to each datagram as soon as it enters a wire."""

    def __init__(self, wire: Wire, file: Path, act: Callable[[Seen], None]) -> None:
        """Begin. `file` is a new one, for the recording."""
        self._wire, self._file, self._act = wire, file, act
        self._running = True
        self.count = 0
        wire.record(file)
        self._thread = threading.Thread(target=self._run, name="rush", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        done = 0
        while self._running:
            seen = datagrams(self._file)
            for each in seen[done:]:
                self._act(each)
            self.count = done = len(seen)
            time.sleep(0.002)

    def close(self) -> None:
        """End both the thread and the recording."""
        self._running = False
        self._thread.join(10)
        self._wire.record(None)


def datagrams(file: Path) -> list[Seen]:
    """Those in a recording, in their order."""
    found = (_parse(frame) for _, frame in recorded(file))
    return [each for each in found if each is not None]


def between(seen: Iterable[Seen], hosts: set[str]) -> list[Seen]:
    """Those that go from one of two hosts to the other."""
    return [each for each in seen if {each.source.host, each.destination.host} == hosts]


def _parse(frame: bytes) -> Seen | None:
    if frame[12:14] != _ETHERTYPE_IPV4 or frame[_ETHERNET + 9] != _UDP:
        return None
    hosts = [socket.inet_ntoa(frame[at : at + 4]) for at in (_ETHERNET + 12, _ETHERNET + 16)]
    at = _ETHERNET + 4 * (frame[_ETHERNET] & 15)
    *ports, length, _ = struct.unpack_from("!HHHH", frame, at)
    source, destination = (Address(*each) for each in zip(hosts, ports, strict=True))
    return Seen(source, destination, frame[at + 8 : at + length])


def _packet(seen: Seen) -> bytes:
    """IPv4 and UDP headers (RFC 791 §3.1, RFC 768); the kernel fills in the first's checksum."""
    addresses = socket.inet_aton(seen.source.host) + socket.inet_aton(seen.destination.host)
    length = 8 + len(seen.payload)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, _UDP, 0) + addresses
    ports = seen.source.port, seen.destination.port, length
    pseudo_header = addresses + struct.pack("!HH", _UDP, length)
    checksum = _checksum(pseudo_header + struct.pack("!HHH", *ports) + seen.payload)
    return ip + struct.pack("!HHHH", *ports, checksum) + seen.payload


def _checksum(data: bytes) -> int:
    """RFC 1071. A 0 would say that there is none."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF or 0xFFFF
