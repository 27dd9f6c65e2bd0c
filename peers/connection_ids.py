"""Connection IDs in the order in which they may be issued (docs/protocol.md §2, §3.1)."""

import os

from relay.wire.connection_id import KEY_LENGTHS, MAX_COUNTER, Derivation, Towards, derive


class ConnectionIdSource:
    """Gives the connection IDs of one key, each once, but none that is not registered yet.

    One source serves all connections that share a key. "Register first, then issue": the relay
    drops what it does not know, so `take` stops at the registered ones until `registered` grows.
    """

    def __init__(
        self,
        key: bytes,
        derivation: Derivation,
        towards: Towards = Towards.PEER,
        *,
        registered: int = 0,
    ) -> None:
        self._key = key
        self._derivation = derivation
        self._towards = towards
        self._registered = registered
        self._taken = 0

    @classmethod
    def towards_http3(cls) -> "ConnectionIdSource":
        """A source for a connection to the relay itself: a fresh key, nothing to register."""
        key = os.urandom(KEY_LENGTHS[Derivation.BLAKE3].start)
        return cls(key, Derivation.BLAKE3, Towards.HTTP3, registered=MAX_COUNTER)

    @property
    def registered(self) -> int:
        """How many are registered: numbers 1 to `registered` may be taken."""
        return self._registered

    @property
    def taken(self) -> int:
        """How many were taken; the next one has number `taken + 1`."""
        return self._taken

    @property
    def remaining(self) -> int:
        """How many can be taken before more have to be registered."""
        return self._registered - self._taken

    def allow(self, registered: int) -> None:
        """The relay now holds numbers 1 to `registered`. A smaller number changes nothing."""
        self._registered = max(self._registered, min(registered, MAX_COUNTER))

    def take(self) -> bytes | None:
        """The next connection ID, 12 bytes; None if no more are registered."""
        if self._taken >= self._registered:
            return None
        self._taken += 1
        return derive(self._key, self._taken, self._derivation, self._towards)
