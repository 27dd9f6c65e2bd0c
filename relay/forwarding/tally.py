"""How much each sender of one worker has had forwarded, for whoever wants to see it.

It costs nothing until somebody does: the loops look whether there is a tally, and that is all.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

K = TypeVar("K")


class Tally(Generic[K]):
    """By senders as the loop names them. All of them are registered: the table bounds this one."""

    def __init__(self) -> None:
        self._counts: dict[K, list[int]] = {}
        self._to_report: dict[K, list[int]] = {}

    def add(self, source: K, packets: int, size: int) -> None:
        """So many packets of this one, of `size` bytes together."""
        count = self._counts.get(source)
        if count is None:
            self._counts[source] = [packets, size]
        else:
            count[0] += packets
            count[1] += size

    def add_all(self, sources: Sequence[K], sizes: Sequence[int]) -> None:
        """A packet of each of these, each of its size."""
        first = sources[0]
        if sources.count(first) == len(sources):
            self.add(first, len(sizes), sum(sizes))
            return
        for source, size in zip(sources, sizes, strict=True):
            self.add(source, 1, size)

    def take(self, at_most: int) -> list[tuple[K, int, int]]:
        """Sender, packets and bytes since each was last returned.

        All have their turn before one comes again, however much it sends.
        """
        if not self._to_report:
            self._to_report, self._counts = self._counts, {}
        taken: list[tuple[K, int, int]] = []
        while self._to_report and len(taken) < at_most:
            source, (packets, size) = self._to_report.popitem()
            taken.append((source, packets, size))
        return taken
