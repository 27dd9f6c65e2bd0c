"""What one worker is still to be told: first everything, then every change, in order. Pure.

A worker that starts gets a description of each owner, made only when there is room to send it, so
that a full registry holds nobody up. Changes go on meanwhile. One that concerns an owner whose
description is still to come is skipped, for that will contain it (be it of another owner, which has
got the number of one that is gone); any other takes its place in the queue.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from relay.core.table import Change
from relay.forwarding.channel import Sync, encode_command


class StateSource(Protocol):
    """Who knows the present state: the registry."""

    def owners(self) -> list[int]: ...
    def describe(self, owner: int) -> list[Change]: ...


@dataclass(frozen=True, slots=True)
class EncodedChange:
    """A change as bytes: encoded once for all workers."""

    owner: int
    frames: bytes


def encode_changes(changes: Iterable[Change]) -> list[EncodedChange]:
    """Encode for `Feed.change`."""
    return [EncodedChange(change.owner, encode_command(change)) for change in changes]


class Feed:
    """The bytes that wait for one worker."""

    def __init__(self, state: StateSource | None) -> None:
        """Begin with a description of all that `state` holds, then `Sync(0)`.

        Without a state nothing is sent before `begin`.
        """
        self._state = state
        self._undescribed = set(state.owners()) if state is not None else set()
        self._filled = False
        self._waiting = bytearray()
        self._after = bytearray()  # what must not be followed before the table is complete

    def __len__(self) -> int:
        """Bytes that wait; a description not yet made has none."""
        return len(self._waiting)

    def begin(self, state: StateSource) -> None:
        """Give the state for which this feed waited."""
        self._state = state
        self._undescribed = set(state.owners())

    def change(self, changes: Iterable[EncodedChange]) -> None:
        """Queue what changed. What changes before `begin` is in the description."""
        if self._state is None:
            return
        for each in changes:
            if each.owner not in self._undescribed:
                self._waiting += each.frames

    def append(self, frames: bytes) -> None:
        """Queue a `Sync`: after all changes so far, and after the description of everything."""
        if self._filled:
            self._waiting += frames
        else:
            self._after += frames

    def next_bytes(self, wanted: int) -> bytes:
        """The first bytes, at most about `wanted`, to be sent; empty when there is nothing."""
        while len(self._waiting) < wanted and not self._filled and self._state is not None:
            self._describe_next(self._state)
        return bytes(self._waiting[:wanted])

    def sent(self, count: int) -> None:
        """The first `count` bytes are on their way."""
        del self._waiting[:count]

    def _describe_next(self, state: StateSource) -> None:
        if self._undescribed:
            description = state.describe(self._undescribed.pop())
            self._waiting += b"".join(map(encode_command, description))
        else:
            self._filled = True
            self._waiting += encode_command(Sync(0)) + self._after
            self._after.clear()
