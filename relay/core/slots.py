"""Slots: where two peers who know nothing of each other exchange a few messages. protocol.md §11.

One peer opens a slot and is told its number, another claims that number; then each reads what the
other sends. What the messages mean is theirs. Each end is named by a token of its own choosing, so
that a request which was cut off can be made again. A slot ends once, for one reason, which is kept
for a while so that both can be told; its number rests, so that nobody who comes late with it meets
a stranger.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from relay.wire.slots import MAX_MESSAGES, MAX_NUMBER, End, Received

NUMBERS_PER_GUESS = 20
"""How many numbers there are at least for each recent guess: who tries one number after another,
to use up the codes of others, finds few."""


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """What the slots of one relay may take: some 50 MB at the very most."""

    lifetime_s: float = 600.0
    """Seconds from the opening to the end, if nobody claims it."""
    claimed_s: float = 60.0
    """Seconds from the claim to the end: no person has to do anything meanwhile."""
    silence_s: float = 60.0
    """Seconds after which an opener that waits no more is taken for gone, and the slot ends."""
    remembered_s: float = 60.0
    """Seconds for which both ends of an ended slot can ask for the reason."""
    rest_s: float = 600.0
    """Seconds for which the number of an ended slot is not given away again."""
    max_slots: int = 4096
    """In all, with those that are only remembered."""
    max_slots_per_source: int = 64
    """Opened or claimed by one IPv4 address or IPv6 /64, and not forgotten yet."""
    max_bytes: int = 6144
    """Of all messages of one end of a slot together."""
    retry_after_s: float = 30.0
    """What a refused client is told to wait, in seconds."""


class Refusal(StrEnum):
    """Why something was refused. The value is its name in every report."""

    UNKNOWN_NUMBER = "unknown_number"
    """Mistyped, expired, or guessed."""
    UNKNOWN_TOKEN = "unknown_token"
    TOKEN_IN_USE = "token_in_use"
    ALREADY_CLAIMED = "already_claimed"
    NOT_CLAIMED = "not_claimed"
    OVER = "over"
    """A message came after the end."""
    WRONG_NUMBER = "wrong_number"
    """A message that is not the next one, or one too many."""
    TOO_LONG = "too_long"
    SLOTS_FULL = "slots_full"
    SLOTS_OF_SOURCE_FULL = "slots_of_source_full"


class SlotRefused(Exception):
    """The relay does not do it; the text says why."""


class NoSuchSlot(SlotRefused):
    """There is none of that number or token: it never was, or it is forgotten."""


class SlotConflict(SlotRefused):
    """Somebody else has it, it is over, or something else was said before."""


class SlotsFull(SlotRefused):
    """A limit is reached; `retry_after_s` says when to try again, in seconds."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Place:
    """One end of a slot."""

    token: str
    source: str
    messages: list[bytes] = field(default_factory=list)
    """What this end has sent."""


@dataclass(slots=True)
class _Slot:
    number: int
    opener: _Place
    opened_at: float
    heard_at: float
    """When the opener last asked for something."""
    claimer: _Place | None = None
    claimed_at: float = 0.0  # meaningless without a claimer
    end: End | None = None
    ended_at: float = 0.0  # meaningless without an end

    def other(self, place: _Place) -> _Place | None:
        return self.claimer if place is self.opener else self.opener


class Slots:
    """All slots of one relay. Every call first ends and forgets what is due by `now` (seconds)."""

    def __init__(self, limits: SlotLimits, *, below: Callable[[int], int]) -> None:
        """:param below: gives a random number from 0 to less than its argument."""
        self._limits = limits
        self._below = below
        self._by_number: dict[int, _Slot] = {}  # for whoever claims; includes remembered ones
        self._by_token: dict[str, tuple[_Slot, _Place]] = {}  # for everything else
        self._by_source: Counter[str] = Counter()  # places of slots that are not forgotten
        self._resting: OrderedDict[int, float] = OrderedDict()  # number to when it is free again
        self._due: list[tuple[float, int]] = []  # a heap; never later than the slot's own time
        self._changed: set[str] = set()
        # Claims of unknown numbers and with wrong words, in this period and in the one before it.
        self._guesses = self._former_guesses = 0
        self._period_ends = 0.0
        self.refused: Counter[Refusal] = Counter()
        """What was refused since the start, by reason."""
        self.ended: Counter[End] = Counter()
        """How the slots ended since the start."""

    def __len__(self) -> int:
        """Those that are not forgotten."""
        return len(self._by_number)

    @property
    def lifetime_s(self) -> float:
        """Seconds for which a new slot waits to be claimed."""
        return self._limits.lifetime_s

    def open(self, token: str, source: str, now: float) -> int:
        """Open a slot; returns its number. The same token again: the same slot.

        :raises SlotConflict: the token is used for something else.
        :raises SlotsFull: a limit is reached.
        """
        self._expire(now)
        if token in self._by_token:
            slot, place = self._by_token[token]
            if place is not slot.opener:
                self.refused[Refusal.TOKEN_IN_USE] += 1
                raise SlotConflict("this token has claimed a slot: choose another one")
            return slot.number
        if len(self._by_number) >= self._limits.max_slots:
            self.refused[Refusal.SLOTS_FULL] += 1
            raise SlotsFull(
                f"this relay has no more than {self._limits.max_slots} codes under way at a time",
                self._limits.retry_after_s,
            )
        self._check_source(source)
        slot = _Slot(self._free_number(), _Place(token, source), now, now)
        self._by_number[slot.number] = slot
        self._add(slot, slot.opener)
        self._schedule(slot)
        return slot.number

    def claim(self, number: int, token: str, message: bytes, source: str, now: float) -> None:
        """Claim a slot, with the claimer's first message. The same token again changes nothing.

        :raises NoSuchSlot: there is none, or it is over.
        :raises SlotConflict: somebody else has claimed it, or the token is used for another slot.
        :raises SlotsFull: a limit is reached.
        """
        self._expire(now)
        slot = self._by_number.get(number)
        if slot is None or (slot.end is not None and slot.claimer is None):
            self.refused[Refusal.UNKNOWN_NUMBER] += 1
            self._guesses += 1
            raise NoSuchSlot(f"there is no code that begins with {number}, or its time is over")
        if token in self._by_token:
            if slot.claimer is not self._by_token[token][1]:
                self.refused[Refusal.TOKEN_IN_USE] += 1
                raise SlotConflict("this token is used for another slot: choose another one")
            return
        if slot.claimer is not None:
            self.refused[Refusal.ALREADY_CLAIMED] += 1
            raise SlotConflict(f"the code that begins with {number} was used by somebody already")
        self._check_source(source)
        slot.claimer = _Place(token, source, [message])
        slot.claimed_at = now
        self._add(slot, slot.claimer)
        self._schedule(slot)
        self._changed.add(slot.opener.token)

    def send(self, token: str, number: int, message: bytes, now: float) -> None:
        """Leave message `number` (from 0) for the other end. The same again changes nothing.

        :raises NoSuchSlot: there is none of that token.
        :raises SlotConflict: the slot is over or not claimed, a message is missing before this one,
            another one has this number, or they are too many or too long.
        """
        slot, place = self._find(token, now)
        other = slot.other(place)
        sent = place.messages
        if number < len(sent) and sent[number] == message:
            return
        if slot.end is not None:
            self.refused[Refusal.OVER] += 1
            raise SlotConflict(f"this code is over: {slot.end}")
        if other is None:
            self.refused[Refusal.NOT_CLAIMED] += 1
            raise SlotConflict("nobody has claimed this slot yet: wait for the other end")
        if number != len(sent) or number >= MAX_MESSAGES:
            self.refused[Refusal.WRONG_NUMBER] += 1
            raise SlotConflict(f"message {number} is not the next one of at most {MAX_MESSAGES}")
        if sum(map(len, sent)) + len(message) > self._limits.max_bytes:
            self.refused[Refusal.TOO_LONG] += 1
            raise SlotConflict(
                f"the messages of one end have at most {self._limits.max_bytes} bytes together"
            )
        sent.append(message)
        self._changed.add(other.token)

    def receive(self, token: str, number: int, now: float) -> Received | None:
        """The other end's message `number`, or how the slot ended; None: neither yet.

        A message that was sent before the end can still be read after it.

        :raises NoSuchSlot: there is none of that token.
        """
        slot, place = self._find(token, now)
        other = slot.other(place)
        if other is not None and number < len(other.messages):
            return Received(other.messages[number], None)
        return None if slot.end is None else Received(None, slot.end)

    def end(self, token: str, end: End, now: float) -> None:
        """End a slot; if it is over already nothing changes.

        :raises NoSuchSlot: there is none of that token.
        """
        slot, _ = self._find(token, now)
        if slot.end is None:
            self._end(slot, end, now)

    def take_changes(self) -> set[str]:
        """The tokens that may read something new since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def _expire(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, number = heapq.heappop(self._due)
            slot = self._by_number.get(number)
            if slot is None:
                continue  # an entry from before its last change
            if self._due_at(slot) > now:
                self._schedule(slot)
            elif slot.end is None:
                is_silent = slot.claimer is None and slot.heard_at + self._limits.silence_s <= now
                self._end(slot, End.LEFT if is_silent else End.EXPIRED, now)
            else:
                self._forget(slot)
        while self._resting and next(iter(self._resting.values())) <= now:
            self._resting.popitem(last=False)
        if now >= self._period_ends:
            is_next = now < self._period_ends + self._limits.lifetime_s
            self._former_guesses, self._guesses = self._guesses if is_next else 0, 0
            self._period_ends = now + self._limits.lifetime_s

    def _find(self, token: str, now: float) -> tuple[_Slot, _Place]:
        self._expire(now)
        found = self._by_token.get(token)
        if found is None:
            self.refused[Refusal.UNKNOWN_TOKEN] += 1
            raise NoSuchSlot("the relay does not know this code (any more)")
        slot, place = found
        if place is slot.opener:
            slot.heard_at = max(slot.heard_at, now)
        return found

    def _check_source(self, source: str) -> None:
        if self._by_source[source] >= self._limits.max_slots_per_source:
            self.refused[Refusal.SLOTS_OF_SOURCE_FULL] += 1
            raise SlotsFull(
                f"one address has at most {self._limits.max_slots_per_source} codes at a time",
                self._limits.retry_after_s,
            )

    def _free_number(self) -> int:
        """A random one of the shortest numbers, of which at least half are free.

        So nobody can tell which number comes next, and the first guess finds one soon.
        """
        taken = len(self._by_number) + len(self._resting)
        guesses = self._guesses + self._former_guesses
        count = 9
        while count < max(2 * taken, min(NUMBERS_PER_GUESS * guesses, MAX_NUMBER)):
            count = count * 10 + 9
        number = 1 + self._below(count)
        while number in self._by_number or number in self._resting:
            number = number % count + 1
        return number

    def _add(self, slot: _Slot, place: _Place) -> None:
        self._by_token[place.token] = slot, place
        self._by_source[place.source] += 1

    def _end(self, slot: _Slot, end: End, now: float) -> None:
        slot.end, slot.ended_at = end, now
        self.ended[end] += 1
        self._guesses += end is End.WRONG_CODE
        self._schedule(slot)
        self._changed.update(each.token for each in _places(slot))
        self._resting[slot.number] = now + self._limits.rest_s
        if len(self._resting) > self._limits.max_slots:
            self._resting.popitem(last=False)

    def _forget(self, slot: _Slot) -> None:
        del self._by_number[slot.number]
        for place in _places(slot):
            del self._by_token[place.token]
            self._by_source[place.source] -= 1
            if not self._by_source[place.source]:
                del self._by_source[place.source]

    def _due_at(self, slot: _Slot) -> float:
        limits = self._limits
        if slot.end is not None:
            return slot.ended_at + limits.remembered_s
        expiry = slot.opened_at + limits.lifetime_s
        if slot.claimer is not None:
            return min(expiry, slot.claimed_at + limits.claimed_s)
        return min(expiry, slot.heard_at + limits.silence_s)

    def _schedule(self, slot: _Slot) -> None:
        heapq.heappush(self._due, (self._due_at(slot), slot.number))


def _places(slot: _Slot) -> list[_Place]:
    return [slot.opener] if slot.claimer is None else [slot.opener, slot.claimer]
