"""What happens to registrations, for whoever watches the relay. Pure.

Events are told as they happen, and kept for a while, so that a watcher who was away for a moment
can go on where he was. Nobody is waited for: a watcher who is too slow loses events, and is told
how many.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

BACKLOG = 1_000
"""Events that are kept, 300 bytes each."""
MAX_WAITING = 256
"""Events that wait for one watcher; more are lost to it."""
MAX_WATCHERS = 32
REFUSALS_PER_S = 50
"""Refused requests that are told one by one: hostile clients make any number. The others are told
as a number, with the next one."""


class EventKind(StrEnum):
    """The value is its name in the stream and in metrics."""

    CREATED = "created"
    """There is a new registration."""
    RENEWED = "renewed"
    """Its key was shown again."""
    MOVED = "moved"
    """It is reached at another address now."""
    IDLE = "idle"
    """Nothing was forwarded for it for a while, after something had been."""
    REFUSED = "refused"
    """A request to register was refused."""
    CLOSED = "closed"
    """It has ended."""


class Cause(StrEnum):
    """Why a registration has ended. The value is its name in every report."""

    EXPIRED = "expired"
    """Nobody held it and its lease was over, or its token was."""
    DELETED = "deleted"
    """The peer said so."""
    OPERATOR = "ended_by_operator"
    REVOKED = "token_revoked"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; what does not apply is None."""

    kind: EventKind
    at: float
    """Seconds since 1970."""
    registration: str | None = None
    """The registration's name: 32 hexadecimal digits."""
    address: str | None = None
    """Where it is, or was; of a refusal: where the request came from."""
    subject: str | None = None
    """Whose token it came by."""
    reason: str | None = None
    """Of an end or a refusal."""
    before: str | None = None
    """Of a move: the earlier address."""
    more: int | None = None
    """Of a refusal: so many others since the last that was told."""

    def to_json(self) -> dict[str, object]:
        """What applies, by name."""
        values: dict[str, object] = {"kind": self.kind.value, "at": round(self.at, 3)}
        for name in ("registration", "address", "subject", "reason", "before", "more"):
            value = getattr(self, name)
            if value is not None:
                values[name] = value
        return values


@dataclass(frozen=True, slots=True)
class Told:
    """An event with its place in the order of all."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class Lost:
    """So many events are missing here: the watcher was too slow, or away for too long."""

    count: int


class TooManyWatchers(Exception):
    """Nobody else is let in until one of them leaves."""


class Watcher:
    """What waits for one who watches. Made by `EventHub.watch`."""

    def __init__(
        self, kinds: Collection[EventKind], wake: Callable[[], None], at_most: int
    ) -> None:
        self._kinds = frozenset(kinds)
        self._wake = wake
        self._at_most = at_most
        self._waiting: list[Told | Lost] = []
        self._lost = 0

    def begin(self, missed: int, kept: Iterable[Told]) -> None:
        """Called by the hub: begin with these, however many they are, after so many lost ones."""
        self._waiting = [Lost(missed)] if missed else []
        self._waiting += [told for told in kept if told.event.kind in self._kinds]
        if self._waiting:
            self._wake()

    def offer(self, told: Told) -> bool:
        """Called by the hub; returns False if this one is lost."""
        if told.event.kind not in self._kinds:
            return True
        if len(self._waiting) >= self._at_most:
            self._lost += 1
            return False
        if self._lost:
            self._waiting.append(Lost(self._lost))
            self._lost = 0
        self._waiting.append(told)
        self._wake()
        return True

    def take(self) -> list[Told | Lost]:
        """What waits, in order."""
        waiting, self._waiting = self._waiting, []
        if self._lost:
            waiting.append(Lost(self._lost))
            self._lost = 0
        return waiting


class EventHub:
    """Tells events to all who watch."""

    def __init__(
        self,
        backlog: int = BACKLOG,
        max_waiting: int = MAX_WAITING,
        max_watchers: int = MAX_WATCHERS,
    ) -> None:
        self._kept: deque[Told] = deque(maxlen=backlog)
        self._max_waiting = max_waiting
        self._max_watchers = max_watchers
        self._watchers: set[Watcher] = set()
        self._number = 0
        self._counts = Counter[EventKind]()
        self._second = 0.0
        self._refused_in_second = 0
        self._refusals_untold = 0
        self.lost = 0
        """Events that slow watchers have lost."""

    @property
    def counts(self) -> Mapping[EventKind, int]:
        """How many there were of each kind, told or not."""
        return {kind: self._counts[kind] for kind in EventKind}

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def publish(self, event: Event) -> None:
        """Tell everybody; takes microseconds for each who watches, whatever they do."""
        self._counts[event.kind] += 1
        self._number += 1
        told = Told(self._number, event)
        self._kept.append(told)
        for watcher in self._watchers:
            if not watcher.offer(told):
                self.lost += 1

    def refuse(self, reason: str, address: str | None, subject: str | None, now: float) -> bool:
        """A request was refused; returns whether it is told, for only so many a second are.

        :param now: seconds since 1970.
        """
        if not 0.0 <= now - self._second < 1.0:
            self._second, self._refused_in_second = now, 0
        if self._refused_in_second >= REFUSALS_PER_S:
            self._counts[EventKind.REFUSED] += 1
            self._refusals_untold += 1
            return False
        self._refused_in_second += 1
        more, self._refusals_untold = self._refusals_untold or None, 0
        self.publish(
            Event(EventKind.REFUSED, now, None, address, subject, reason=reason, more=more)
        )
        return True

    def watch(
        self,
        kinds: Collection[EventKind],
        wake: Callable[[], None],
        *,
        after: int | None = None,
        backlog: int = 0,
    ) -> Watcher:
        """Begin to watch; `leave` ends it.

        :param wake: called when something waits; must return at once.
        :param after: the number of the last event that this one has heard of before; what it has
            missed since waits for it at once, as far as it is kept, and the rest counts as lost.
            A number that there was not yet is of an earlier run: then all that is kept waits.
        :param backlog: without `after`: so many of the last events wait at once.
        :raises TooManyWatchers: there are.
        """
        if len(self._watchers) >= self._max_watchers:
            raise TooManyWatchers
        kept, missed = list(self._kept), 0
        if after is None:
            kept = kept[-backlog:] if backlog else []
        elif after <= self._number:
            missed = max(0, self._number - len(kept) - after)
            kept = [told for told in kept if told.number > after]
        self.lost += missed
        watcher = Watcher(kinds, wake, self._max_waiting)
        watcher.begin(missed, kept)
        self._watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """It does not watch any more."""
        self._watchers.discard(watcher)
