"""What the senders of one worker may have forwarded: their buckets, by their addresses.

It costs nothing where nobody is charged: the loops look whether `payers` is empty, and that is all.
"""

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from relay.core.bucket import Bucket, Charge, Used
from relay.core.owner_index import OwnerIndex

K = TypeVar("K")

_NOBODY: tuple[Bucket, ...] = ()


class Meter(Generic[K]):
    """Takes addresses as the loop has them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds, and does not go back."""
        self.clock = clock
        self.payers: dict[K, tuple[Bucket, ...]] = {}
        """Whose packets are charged to what."""
        self._buckets: dict[int, Bucket] = {}
        self._owners: dict[int, int] = {}  # by bucket: how many are charged to it
        self._charged: dict[int, tuple[K, tuple[int, ...]]] = {}  # by owner
        self._owners_at = OwnerIndex[K]()
        self._unreported: list[int] = []

    def charge(self, owner: int, at: K, charges: Sequence[Charge]) -> None:
        """From now on these pay for what this owner sends; he is at that address."""
        for charge in charges:
            self._owners[charge.bucket] = self._owners.get(charge.bucket, 0) + 1
            if charge.bucket not in self._buckets:
                bucket = self._buckets[charge.bucket] = Bucket()
                bucket.set_rate(charge.bytes_per_s, charge.packets_per_s)
        self.remove(owner)
        if charges:
            self._charged[owner] = at, tuple(charge.bucket for charge in charges)
            self._owners_at.add(at, owner)
            self._settle(at)

    def move(self, owner: int, at: K) -> None:
        """He is there now."""
        before = self._charged.get(owner)
        if before is not None and before[0] != at:
            self._charged[owner] = at, before[1]
            self._owners_at.discard(before[0], owner)
            self._owners_at.add(at, owner)
            self._settle(before[0])
            self._settle(at)

    def remove(self, owner: int) -> None:
        """He is gone, or pays no longer; one who never paid is ignored."""
        before = self._charged.pop(owner, None)
        if before is None:
            return
        at, numbers = before
        self._owners_at.discard(at, owner)
        self._settle(at)
        for number in numbers:
            self._owners[number] -= 1
            if not self._owners[number]:
                del self._owners[number]
                del self._buckets[number]

    def set_rates(self, charges: Sequence[Charge]) -> None:
        """Fill these buckets so from now on; those that are not here are ignored."""
        for charge in charges:
            bucket = self._buckets.get(charge.bucket)
            if bucket is not None:
                bucket.set_rate(charge.bytes_per_s, charge.packets_per_s)

    def take_all(self, sources: Sequence[K], sizes: Sequence[int]) -> bool:
        """Charge packets of these senders, each of its size; False: some of them must perhaps not
        pass, and nothing is charged."""
        first = sources[0]
        sums: dict[K, list[int]] = {}
        if sources.count(first) == len(sources):
            sums[first] = [len(sizes), sum(sizes)]
        else:
            for source, size in zip(sources, sizes, strict=True):
                entry = sums.get(source)
                if entry is None:
                    sums[source] = [1, size]
                else:
                    entry[0] += 1
                    entry[1] += size
        now = self.clock()
        wanted: dict[int, tuple[Bucket, int, int]] = {}
        for source, (packets, size) in sums.items():
            for bucket in self.payers.get(source, _NOBODY):
                _, more, larger = wanted.get(id(bucket), (bucket, 0, 0))
                wanted[id(bucket)] = bucket, packets + more, size + larger
        if not all(bucket.has_all(more, size, now) for bucket, more, size in wanted.values()):
            return False
        for bucket, packets, size in wanted.values():
            bucket.take(packets, size, now)
        return True

    def take(self, source: K, packets: int, size: int) -> Bucket | None:
        """Charge so many packets, of `size` bytes together, if the first of them may pass; else
        returns the bucket that forbids it."""
        buckets = self.payers.get(source, _NOBODY)
        now = self.clock()
        for bucket in buckets:
            if not bucket.has(now):
                bucket.drop(packets, size)
                return bucket
        for bucket in buckets:
            bucket.take(packets, size, now)
        return None

    def take_used(self, at_most: int) -> list[Used]:
        """What was taken from the buckets since each was last returned.

        All of them have their turn before one comes again.
        """
        if not self._unreported:
            self._unreported = list(self._buckets)
        used: list[Used] = []
        while self._unreported and len(used) < at_most:
            number = self._unreported.pop()
            bucket = self._buckets.get(number)
            if bucket is not None and (bucket.packets or bucket.dropped_packets):
                used.append(bucket.take_used(number))
        return used

    def _settle(self, at: K) -> None:
        """See who pays for this address."""
        owners = self._owners_at.get(at)
        if owners:
            numbers = self._charged[min(owners)][1]
            self.payers[at] = tuple(self._buckets[number] for number in numbers)
        else:
            self.payers.pop(at, None)
