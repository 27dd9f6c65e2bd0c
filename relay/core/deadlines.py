"""When registrations may end: a heap that stays small though they are extended all the time."""

import heapq
import math
from collections.abc import Mapping

from .registration import Registration

_FEW = 64
"""Entries of no use that are not worth a sweep."""


class Deadlines:
    """Each registration stands here at most once in earnest, at a time that may be too early: who
    is called looks what holds now, and puts it back."""

    def __init__(self, by_key: Mapping[bytes, Registration]) -> None:
        """`by_key`: all registrations that there are, by `key_digest`."""
        self._by_key = by_key
        self._heap: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, registration: Registration) -> None:
        """See to it that it is called when it is due, if ever."""
        due = registration.due
        if due >= registration.queued_at or due == math.inf:
            return
        registration.queued_at = due
        heapq.heappush(self._heap, (due, registration.key_digest))
        # Those of deleted registrations, and later times of others, stay in the heap: bound them.
        if len(self._heap) > 2 * len(self._by_key) + _FEW:
            self._heap = [entry for entry in self._heap if self._is_meant(*entry)]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """When `take` may next have something; None for never."""
        return self._heap[0][0] if self._heap else None

    def take(self) -> Registration | None:
        """Take out one whose time has come, if it still is in earnest.

        Call it while `next` is in the past.
        """
        time, key_digest = heapq.heappop(self._heap)
        if not self._is_meant(time, key_digest):
            return None
        registration = self._by_key[key_digest]
        registration.queued_at = math.inf
        return registration

    def _is_meant(self, time: float, key_digest: bytes) -> bool:
        registration = self._by_key.get(key_digest)
        return registration is not None and registration.queued_at == time
