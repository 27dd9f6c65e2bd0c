"""What somebody may have forwarded: a token bucket for bytes, and one for packets.

As two times, when each would be full again (the generic cell rate algorithm), just as the program
in the kernel does it (bpf/checks.h): a packet is let through unless the bucket was empty before it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

BURST_S = 0.25
"""How much of a rate may come at once, in seconds of it."""


class Charge(NamedTuple):
    """A bucket, and the rate at which one forwarder fills it."""

    bucket: int
    """Its number, from 1 on."""
    bytes_per_s: float
    """Of UDP payload. Infinity: no limit; 0: nothing passes any more, what was allowed is used."""
    packets_per_s: float
    """Infinity: no limit."""


class Used(NamedTuple):
    """What was taken from a bucket since the last report."""

    bucket: int
    bytes: int
    packets: int
    dropped_bytes: int
    dropped_packets: int


@dataclass(slots=True)
class Bucket:
    """One bucket at one forwarder. Times are in seconds of any clock that does not go back."""

    byte_cost_s: float = 0.0
    packet_cost_s: float = 0.0
    bytes_until: float = -math.inf
    packets_until: float = -math.inf
    is_shut: bool = False
    bytes: int = 0
    """Taken since `take_used`, as are the three that follow."""
    packets: int = 0
    dropped_bytes: int = 0
    dropped_packets: int = 0

    def set_rate(self, bytes_per_s: float, packets_per_s: float) -> None:
        """See `Charge`. What is owed already stays owed."""
        self.is_shut = bytes_per_s <= 0.0 or packets_per_s <= 0.0
        if not self.is_shut:
            self.byte_cost_s = 1.0 / bytes_per_s
            self.packet_cost_s = 1.0 / packets_per_s

    def has(self, now: float) -> bool:
        """Whether the next packet, of any size, may pass."""
        limit = now + BURST_S
        return not self.is_shut and self.bytes_until <= limit and self.packets_until <= limit

    def has_all(self, packets: int, bytes: int, now: float) -> bool:
        """Whether so many may certainly pass; if not, the first of them perhaps may."""
        limit = now + BURST_S
        return (
            not self.is_shut
            and max(self.bytes_until, now) + bytes * self.byte_cost_s <= limit
            and max(self.packets_until, now) + packets * self.packet_cost_s <= limit
        )

    def take(self, packets: int, bytes: int, now: float) -> None:
        """They pass."""
        self.bytes_until = max(self.bytes_until, now) + bytes * self.byte_cost_s
        self.packets_until = max(self.packets_until, now) + packets * self.packet_cost_s
        self.bytes += bytes
        self.packets += packets

    def drop(self, packets: int, bytes: int) -> None:
        """They do not."""
        self.dropped_bytes += bytes
        self.dropped_packets += packets

    def take_used(self, number: int) -> Used:
        """What it has counted since it was asked last."""
        used = Used(number, self.bytes, self.packets, self.dropped_bytes, self.dropped_packets)
        self.bytes = self.packets = self.dropped_bytes = self.dropped_packets = 0
        return used
