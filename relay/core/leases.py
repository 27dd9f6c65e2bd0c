"""What a forwarder that outlives the relay wants to know of the registry."""

from collections.abc import Iterator
from typing import Protocol

from .registry import Record


class LeaseSource(Protocol):
    """The registry, as such a forwarder sees it."""

    def record(self, owner: int, now: float) -> Record | None: ...
    def lease_ends(self, now: float) -> Iterator[tuple[int, float]]: ...
