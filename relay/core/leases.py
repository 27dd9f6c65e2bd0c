"""What a forwarder that outlives the relay wants to know of the registry, to give it back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .admission import Grant
from .path import Path


@dataclass(frozen=True, slots=True)
class Record:
    """All that is needed to have a registration again after a restart."""

    owner: int
    id_hash: str
    """`registration.id_hash` of the id, which permits to end it."""
    key_digest: bytes
    """16 bytes: whoever shows the key again is the owner."""
    path: Path
    lease_end: float
    connection_ids: frozenset[bytes]
    grant: Grant | None = None
    """By which token it was registered, if that is known still."""
    valid_until: float = math.inf
    """When it ends whatever happens."""


class LeaseSource(Protocol):
    """The registry, as such a forwarder sees it."""

    def record(self, owner: int, now: float) -> Record | None:
        """What `Registry.restore` needs; None if there is no such owner."""

    def lease_ends(self, now: float) -> Iterator[tuple[int, float]]:
        """Every owner with the end of its lease."""


class Registrations(LeaseSource, Protocol):
    """All that a successor wants to know of the registry."""

    def owners(self) -> list[int]:
        """The numbers of all owners."""
