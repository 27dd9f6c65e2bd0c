"""The state file's contents: lines, each with its checksum. Pure.

    <CRC-32, 8 hexadecimal digits> <JSON object>

The first says which format it is. `{"set": record}` is a registration as it is now, `{"end":
owner}` the end of one, `{"alive": clock}` says that the relay ran until then. Lines are only ever
appended, so that a crash can damage the last one at most; any damaged line is left out and counted.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

FORMAT = 1

MAX_LINE = 4 * 2**20
"""Bytes; a record of the largest registration has much less."""

_CRC_DIGITS = 8


class BadJournal(ValueError):
    """No state file of this program's, or of a version that we do not read."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A moment, by three clocks: one run of the machine has one `boot` and one monotonic clock."""

    boot: str
    """Identifies the run of the machine; empty: unknown."""
    monotonic: float
    wall: float
    """Seconds since 1970."""

    def since(self, earlier: "Clock") -> float:
        """Seconds since then; by the wall clock only if the machine has been started anew."""
        if self.boot and self.boot == earlier.boot:
            return max(0.0, self.monotonic - earlier.monotonic)
        return max(0.0, self.wall - earlier.wall)


@dataclass(slots=True)
class Journal:
    """What a state file says."""

    clock: Clock
    """When the relay last ran."""
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The registrations that there were, by owner; see relay/lifecycle/records.py."""
    damaged: int = 0
    """How many lines could not be read."""

    def lease_shift(self, now: Clock) -> float:
        """What must be added to a time in the file to have it by `now.monotonic`."""
        return now.monotonic - now.since(self.clock) - self.clock.monotonic


def first_line(clock: Clock) -> bytes:
    """How a file begins."""
    return _line({"format": FORMAT, "boot": clock.boot, **_encode_clock(clock)})


def set_line(entry: Mapping[str, object]) -> bytes:
    """A registration, as `records.encode` gives it."""
    return _line({"set": entry})


def end_line(owner: int) -> bytes:
    """There is no such owner any more."""
    return _line({"end": owner})


def alive_line(clock: Clock) -> bytes:
    """The relay ran until now."""
    return _line({"alive": _encode_clock(clock)})


def read(lines: Iterable[bytes]) -> Journal:
    """Read a file's lines, with their ends. Any bytes give a journal or `BadJournal`.

    :raises BadJournal: it does not begin as it should.
    """
    iterator = iter(lines)
    head = _parse(next(iterator, b""))
    if head is None or head.get("format") != FORMAT or not isinstance(head.get("boot"), str):
        raise BadJournal("it does not begin like a state file of this version")
    clock = _clock(head, head["boot"])
    if clock is None:
        raise BadJournal("its first line has no time")
    journal = Journal(clock)
    for line in iterator:
        if not _apply(journal, _parse(line)):
            journal.damaged += 1
    return journal


def _apply(journal: Journal, entry: dict[str, Any] | None) -> bool:
    match entry:
        case {"set": {"owner": int() as owner} as record}:
            journal.entries[owner] = record
        case {"end": int() as owner}:
            journal.entries.pop(owner, None)
        case {"alive": dict() as times}:
            clock = _clock(times, journal.clock.boot)
            if clock is None:
                return False
            journal.clock = clock
        case _:
            return False
    return True


def _line(entry: Mapping[str, object]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    if len(line) > MAX_LINE or not line.endswith(b"\n") or line[_CRC_DIGITS:][:1] != b" ":
        return None
    text = line[_CRC_DIGITS + 1 : -1]
    if line[:_CRC_DIGITS] != b"%08x" % zlib.crc32(text):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _encode_clock(clock: Clock) -> dict[str, object]:
    return {"monotonic": round(clock.monotonic, 3), "wall": round(clock.wall, 3)}


def _clock(entry: Mapping[str, Any], boot: str) -> Clock | None:
    monotonic, wall = entry.get("monotonic"), entry.get("wall")
    if not (_is_time(monotonic) and _is_time(wall)):
        return None
    return Clock(boot, float(monotonic), float(wall))


def _is_time(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 2**53  # which no NaN is
