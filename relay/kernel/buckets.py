"""The buckets in the kernel's map, and who is charged to them. docs/kernel-path.md.

The relay writes a bucket's rate; the program counts what it takes from it.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bpf import layout
from bpf.pins import KernelMaps
from relay.core.bucket import BURST_S, Charge, Used

BYTE_COSTS_PER_NS = 1024
_MAX_COST = 2**32 - 1
_COUNTERS = slice(layout.BUCKET_COUNTERS, layout.BUCKET_COUNTERS + 4)


class KernelBuckets:
    """Number n of the relay is bucket n in the map."""

    def __init__(self, maps: KernelMaps) -> None:
        self._maps = maps
        self._charged: dict[int, tuple[int, ...]] = {}  # by owner
        self._owners: dict[int, int] = {}  # by bucket: how many are charged to it
        count = len(maps.buckets)
        self._told: NDArray[np.uint64] = np.zeros((count, 4), np.uint64)

    def charge(self, owner: int, charges: Sequence[Charge]) -> bool:
        """From now on these pay for what this owner sends; False: the map has no room for them, so
        that the kernel must not forward for him."""
        fits = all(charge.bucket < len(self._maps.buckets) for charge in charges)
        numbers = tuple(charge.bucket for charge in charges) if fits else ()
        for charge in charges if fits else ():
            if charge.bucket not in self._owners:
                self._begin(charge)
            self._owners[charge.bucket] = self._owners.get(charge.bucket, 0) + 1
        self.release(owner)
        self._charged[owner] = numbers
        self._maps.owners[owner].buckets[:] = (*numbers, 0, 0)[:2]
        return fits

    def release(self, owner: int) -> None:
        """He is gone, or pays no longer."""
        for number in self._charged.pop(owner, ()):
            self._owners[number] -= 1
            if not self._owners[number]:
                del self._owners[number]

    def set_rates(self, charges: Sequence[Charge]) -> None:
        """Fill these so from now on; those that nobody is charged to are ignored."""
        for charge in charges:
            if charge.bucket in self._owners:
                self._set(self._maps.buckets[charge.bucket], charge)

    def take_used(self) -> list[Used]:
        """What was taken from each since this was asked last."""
        if not self._owners:
            return []
        numbers = np.fromiter(self._owners, np.intp, len(self._owners))
        words = np.frombuffer(self._maps.bucket_words, np.uint64)
        now = words.reshape(-1, layout.BUCKET_WORDS)[numbers, _COUNTERS]
        more = now - self._told[numbers]
        self._told[numbers] = now
        used = np.flatnonzero(more.any(axis=1))
        return [
            Used(number, size, packets, dropped_size, dropped)
            for number, (packets, size, dropped, dropped_size) in zip(
                numbers[used].tolist(), more[used].tolist(), strict=True
            )
        ]

    def _begin(self, charge: Charge) -> None:
        """Nobody was charged to this one: what it says is another's."""
        bucket = self._maps.buckets[charge.bucket]
        ctypes.memset(ctypes.addressof(bucket), 0, ctypes.sizeof(bucket))
        self._told[charge.bucket] = 0
        self._set(bucket, charge)

    def _set(self, bucket: layout.Bucket, charge: Charge) -> None:
        bucket.shut = int(charge.bytes_per_s <= 0.0 or charge.packets_per_s <= 0.0)
        if not bucket.shut:
            bucket.packet_cost_ns = cost(1e9, charge.packets_per_s)
            bucket.byte_cost = cost(1e9 * BYTE_COSTS_PER_NS, charge.bytes_per_s)
            bucket.burst_ns = round(BURST_S * 1e9)


def cost(second: float, rate: float) -> int:
    """What one of so many in a second takes; 0 for a rate of 0 or infinity, which are no limit."""
    if not rate or rate == float("inf"):
        return 0
    return min(_MAX_COST, max(1, round(second / rate)))
