"""What one worker is still to be told: first everything, then every change, in order. Pure.

A worker that starts gets a description of each owner, made only when there is room to send it, so
that a full registry holds nobody up. Changes go on meanwhile. One that concerns an owner not yet
described is skipped, for the description will contain it; any other takes its place in the queue.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from relay.channel import Sync, encode_command
from relay.core.table import Change, OwnerRemoved


class StateSource(Protocol):
    """Who knows the present state: the registry."""

    def owners(self) -> list[int]: ...
    def describe(self, owner: int) -> list[Change]: ...


@dataclass(frozen=True, slots=True)
class EncodedChange:
    """A change as bytes: encoded once for all workers."""

    owner: int
    is_removal: bool
    frames: bytes


def encode_changes(changes: Iterable[Change]) -> list[EncodedChange]:
    """Encode for `Feed.change`."""
    return [
        EncodedChange(change.owner, isinstance(change, OwnerRemoved), encode_command(change))
        for change in changes
    ]


class Feed:
    """The bytes that wait for one worker."""

    def __init__(self, state: StateSource) -> None:
        """Begin with a description of all that `state` holds, then `Sync(0)`."""
        self._state = state
        self._order = state.owners()
        self._undescribed = set(self._order)
        self._filled = False
        self._waiting = bytearray()

    def __len__(self) -> int:
        """Bytes that wait; a description not yet made has none."""
        return len(self._waiting)

    def change(self, changes: Iterable[EncodedChange]) -> None:
        """Queue what changed."""
        for each in changes:
            if each.owner not in self._undescribed:
                self._waiting += each.frames
            elif each.is_removal:
                # Never told of; a new owner of the same number is told of as a change.
                self._undescribed.discard(each.owner)

    def append(self, frames: bytes) -> None:
        """Queue some other command."""
        self._waiting += frames

    def next_bytes(self, wanted: int) -> bytes:
        """The first bytes, at most about `wanted`, to be sent; empty when there is nothing."""
        while len(self._waiting) < wanted and not self._filled:
            self._describe_next()
        return bytes(self._waiting[:wanted])

    def sent(self, count: int) -> None:
        """The first `count` bytes are on their way."""
        del self._waiting[:count]

    def _describe_next(self) -> None:
        if not self._order:
            self._filled = True
            self._waiting += encode_command(Sync(0))
            return
        owner = self._order.pop()
        if owner in self._undescribed:
            self._undescribed.discard(owner)
            self._waiting += b"".join(map(encode_command, self._state.describe(owner)))
