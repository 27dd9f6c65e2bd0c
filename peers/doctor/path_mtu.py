"""The largest datagram that gets to the relay whole.

A probe is a QUIC packet of a version that nobody speaks (RFC 9000 §15): whoever speaks QUIC answers
such a one with a short Version Negotiation packet (RFC 8999 §6), keeps no state for it, and does so
for packets of at least 1,200 bytes only. Sockets set "don't fragment"; so what comes back says that
the probe got through whole. It says nothing of the way back.
"""

import asyncio
import os
import socket

from relay.wire.address import Address

from ..network import DatagramSocket
from .taps import TappedNetwork

BASE = 1200
"""Bytes of payload that every path of QUIC carries (RFC 9000 §14)."""
LARGEST_IP = 1500
"""Bytes of the largest IP packet that is tried: Ethernet's."""
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Bytes of the IP and UDP headers."""
TRIES = 3
SHORTEST_WAIT_S = 0.2
"""Seconds for one try; three round trips if those are longer."""

_VERSION = 0x1A2A3A4A
_CID = 16
_LONG = 0xC0


def encode_probe(destination: bytes, source: bytes, size: int) -> bytes:
    """A long header with two connection IDs of 16 bytes, and zeros up to `size` (RFC 8999 §5.1)."""
    header = bytes((_LONG,)) + _VERSION.to_bytes(4, "big")
    header += bytes((_CID,)) + destination + bytes((_CID,)) + source
    return header + bytes(size - len(header))


def is_answer(datagram: bytes, destination: bytes, source: bytes) -> bool:
    """Whether it is the Version Negotiation packet for that probe: the IDs have changed sides."""
    expected = bytes((_CID,)) + source + bytes((_CID,)) + destination
    begin = 1 + 4
    return (
        len(datagram) >= begin + len(expected)
        and datagram[0] & 0x80 != 0
        and datagram[1:begin] == bytes(4)
        and datagram[begin : begin + len(expected)] == expected
    )


class MtuSearch:
    """Which size to try next. Pure."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self._headers = HEADERS[family]
        self._passed: int | None = None  # None: not even the base has
        self._failed = LARGEST_IP - self._headers + 1
        self._next: int | None = LARGEST_IP - self._headers

    @property
    def next_size(self) -> int | None:
        """Bytes of payload to try; None: it is known."""
        return self._next

    @property
    def mtu(self) -> int | None:
        """Bytes of the largest IP packet that passed; None: none did."""
        return None if self._passed is None else self._passed + self._headers

    def tried(self, *, passed: bool) -> None:
        """What came of `next_size`."""
        if self._next is None:
            return
        if passed:
            self._passed = self._next
        else:
            self._failed = self._next
        if self._passed is None:
            self._next = BASE if self._failed > BASE else None
        elif self._failed - self._passed <= 1:
            self._next = None
        else:
            self._next = (self._passed + self._failed) // 2


async def path_mtu(
    network: TappedNetwork, way: DatagramSocket, relay: Address, round_trip_s: float
) -> int | None:
    """Bytes of the largest IP packet that gets to the relay from that socket, up to `LARGEST_IP`.

    None: not even 1,200 bytes were answered: it speaks QUIC in a way of its own, or drops them.
    """
    wait_s = max(SHORTEST_WAIT_S, 3 * round_trip_s)
    search = MtuSearch(relay.family)
    while (size := search.next_size) is not None:
        search.tried(passed=await _passes(network, way, relay, size, wait_s))
    return search.mtu


async def _passes(
    network: TappedNetwork, way: DatagramSocket, relay: Address, size: int, wait_s: float
) -> bool:
    destination, source = os.urandom(_CID), os.urandom(_CID)
    answered = asyncio.Event()

    def take(datagram: bytes, _: Address) -> bool:
        if is_answer(datagram, destination, source):
            answered.set()
            return True
        return False

    network.takers.append(take)
    try:
        for _ in range(TRIES):
            way.send([encode_probe(destination, source, size)], relay)
            try:
                async with asyncio.timeout(wait_s):
                    await answered.wait()
                    return True
            except TimeoutError:
                continue
        return False
    finally:
        network.takers.remove(take)
