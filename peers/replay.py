"""Remembering which invites were answered: one opens one pipe."""

from hashlib import blake2b

MAX_ENTRIES = 10_000
"""Invites remembered, about 150 bytes each. Beyond it the oldest is forgotten."""


class ReplayCache:
    """Digests of packets. Time does not count: nothing proves when an invite really expires."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._digests: dict[bytes, None] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, packet: bytes) -> bool:
        """Remember a packet, without what may follow it; False: it is known already."""
        digest = _digest(packet)
        if digest in self._digests:
            return False
        if len(self._digests) >= self._max_entries:
            del self._digests[next(iter(self._digests))]
        self._digests[digest] = None
        return True

    def forget(self, packet: bytes) -> None:
        """It was not answered after all."""
        self._digests.pop(_digest(packet), None)


def _digest(packet: bytes) -> bytes:
    return blake2b(packet, digest_size=16).digest()
