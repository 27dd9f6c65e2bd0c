"""Those who follow the registry, and one that joins them when there is much to follow already."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

from relay.core.table import Change
from relay.forwarding.feed import StateSource

_OWNERS_PER_TURN = 500
"""Told to a forwarder that joins, in one turn of the event loop: a few milliseconds."""


class Forwarder(Protocol):
    """Whoever forwards: the workers, the kernel, a table in a test."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the changes, in order; return at once and never raise."""


class Joining:
    """Stands before a forwarder that has not yet heard of everything."""

    def __init__(self, forwarder: Forwarder, state: StateSource) -> None:
        self._forwarder = forwarder
        self._state = state
        self._untold = dict.fromkeys(state.owners())

    def apply(self, changes: Sequence[Change]) -> None:
        """Pass on what concerns owners of whom it was told; the others' descriptions have it."""
        self._forwarder.apply([each for each in changes if each.owner not in self._untold])

    def rounds(self) -> Iterator[None]:
        """Describe some owners in each round, until all are described."""
        while some := list(islice(self._untold, _OWNERS_PER_TURN)):
            for owner in some:
                del self._untold[owner]
            self._forwarder.apply([each for owner in some for each in self._state.describe(owner)])
            yield
