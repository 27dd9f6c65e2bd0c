"""Remembering which invites were answered: one opens one pipe."""

from hashlib import blake2b

MAX_ENTRIES = 10_000
"""Invites remembered, about 150 bytes each. Beyond it the one that expires first is forgotten."""
UNKNOWN_LIFETIME_S = 24 * 3600.0
"""Seconds to remember an invite that does not say when it expires: the original's wait an hour."""


class ReplayCache:
    """Digests of packets, each until its invite expires. Times are seconds since 1970."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._expires: dict[bytes, float] = {}  # by digest

    def __len__(self) -> int:
        return len(self._expires)

    def add(self, packet: bytes, expires: float | None, now: float) -> bool:
        """Remember a packet; False: it is known already."""
        digest = blake2b(packet, digest_size=16).digest()
        if self._expires.get(digest, 0.0) > now:
            return False
        if len(self._expires) >= self._max_entries:
            self._make_room(now)
        self._expires[digest] = now + UNKNOWN_LIFETIME_S if expires is None else expires
        return True

    def _make_room(self, now: float) -> None:
        live = {digest: expires for digest, expires in self._expires.items() if expires > now}
        if len(live) >= self._max_entries:
            del live[min(live, key=live.__getitem__)]
        self._expires = live
