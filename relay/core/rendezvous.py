"""Who waits at the relay under which fingerprint and name, and the invites for them.

docs/protocol.md §10. A listener has proved that it holds the key of its certificate; the proof is
checked elsewhere (proof.py). Here is what follows from it: one mailbox for each fingerprint, with
the invites that nobody has acknowledged yet. A listener lives while it polls and for the grace time
after that, so that one whose connection broke misses nothing.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from .limits import RateLimiter, RateLimits

_KNOCKS = RateLimits(per_minute=30.0, burst=32)


@dataclass(frozen=True, slots=True)
class RendezvousLimits:
    """How much one relay keeps for peers that meet there."""

    max_listeners: int = 10_000
    """In all; one costs about 1 kB, besides its connection and its poll."""
    max_listeners_per_source: int = 1_000
    """Of one IPv4 address or IPv6 /64, which may be a whole site behind its NAT."""
    max_invites: int = 4_096
    """Waiting in all; one takes up to 4 kB."""
    max_invites_per_listener: int = 32
    max_invites_per_source: int = 64
    """Waiting from dialers of one source, whomever they are for."""
    invites_of_source_to_listener: RateLimits = _KNOCKS
    """Each costs the listener a registration, of which it may make 120 a minute itself: no stranger
    is to use them up alone."""
    grace_s: float = 30.0
    """Seconds for which a listener that does not poll is still there."""
    invite_lifetime_s: float = 60.0
    """Seconds for which an invite waits."""
    retry_after_s: float = 5.0
    """What a refused client is told to wait: invites go all the time."""


class RendezvousRefused(Exception):
    """The relay does not do it; the text is for people."""


class NobodyListens(RendezvousRefused):
    """Nobody waits under that fingerprint or name."""


class NameTaken(RendezvousRefused):
    """Another listener has that name, as long as it listens."""


class UnknownListener(RendezvousRefused):
    """There is no listener of that id: it has ended, or the relay was restarted."""


class ListenerReplaced(RendezvousRefused):
    """The same fingerprint has listened again since: the newer one has the mailbox."""


class RendezvousFull(RendezvousRefused):
    """A bound is reached; `retry_after_s` says when to try again, in seconds."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class Refusal(StrEnum):
    """Why something was refused or dropped. The value is its name in every report."""

    NOBODY_LISTENS = "nobody_listens"
    NAME_TAKEN = "name_taken"
    UNKNOWN_LISTENER = "unknown_listener"
    LISTENER_REPLACED = "listener_replaced"
    LISTENERS_FULL = "listeners_full"
    LISTENERS_OF_SOURCE_FULL = "listeners_of_source_full"
    INVITES_FULL = "invites_full"
    INVITES_OF_LISTENER_FULL = "invites_of_listener_full"
    INVITES_OF_SOURCE_FULL = "invites_of_source_full"
    INVITES_TOO_OFTEN = "invites_too_often"
    """From one source to one listener."""
    INVITE_DISPLACED = "invite_displaced"
    """There was no more room, and its source had more waiting than another one that came."""
    INVITE_EXPIRED = "invite_expired"
    """It waited for `invite_lifetime_s`, and nobody acknowledged it."""
    INVITE_ORPHANED = "invite_orphaned"
    """Its listener ended."""


@dataclass(slots=True, eq=False)
class WaitingInvite:
    """One that no poll has acknowledged yet."""

    number: int
    """Counts from 1 in its mailbox: the cursor of the polls."""
    content: str
    """The JSON object, as it will be handed on."""
    source: str
    due: float
    """When it dies, on the clock of `now`."""


class Listening(NamedTuple):
    """A mailbox is one's own."""

    id: str
    replaced: str | None
    """The id of the listener that had it until now: its poll is to be answered."""


@dataclass(slots=True, eq=False)
class _Listener:
    fingerprint: str
    source: str
    id: str = ""
    name: str | None = None
    polls: int = 0
    """Requests that wait for it now: meanwhile it does not age."""
    due: float = 0.0
    """When it dies unless it polls."""
    next_number: int = 1
    invites: deque[WaitingInvite] = field(default_factory=deque)


_MAX_REPLACED = 1_024
"""Ids remembered of listeners whose place was taken: so that two of them do not fight for it."""


class Rendezvous:
    """All listeners, names and waiting invites. Every call first buries what is dead by `now`."""

    def __init__(self, limits: RendezvousLimits, new_id: Callable[[], str]) -> None:
        """`new_id` gives 128 random bits as 32 hexadecimal digits."""
        self._limits = limits
        self._new_id = new_id
        self._by_fingerprint: dict[str, _Listener] = {}  # whom an invite is for
        self._by_name: dict[str, _Listener] = {}  # the same, by its label
        self._by_id: dict[str, _Listener] = {}  # polls name it so
        # What silent ones have left behind, by fingerprint: each has invites, which still live.
        self._left: dict[str, _Listener] = {}
        self._replaced: OrderedDict[str, None] = OrderedDict()  # oldest first
        self._listeners_by_source: Counter[str] = Counter()
        self._invites_by_source: Counter[str] = Counter()
        self._rates = RateLimiter(limits.invites_of_source_to_listener)
        # Those that do not poll, and all waiting invites: each in the order of their death.
        self._idle: OrderedDict[_Listener, None] = OrderedDict()
        self._invites: OrderedDict[WaitingInvite, _Listener] = OrderedDict()
        self.refused: Counter[Refusal] = Counter()
        """What was refused or dropped since the start, by reason."""

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._by_fingerprint)

    @property
    def invites(self) -> int:
        """How many wait."""
        return len(self._invites)

    def listen(self, fingerprint: str, name: str | None, source: str, now: float) -> Listening:
        """Have a mailbox: a new one, or that which this fingerprint has.

        Whoever listened under it before is replaced. The caller has checked the proof.

        :raises NameTaken: nothing changed.
        :raises RendezvousFull: nothing changed.
        """
        self._expire(now)
        namesake = self._by_name.get(name) if name is not None else None
        if namesake is not None and namesake.fingerprint != fingerprint:
            self.refused[Refusal.NAME_TAKEN] += 1
            raise NameTaken(
                f"somebody else listens as '{name}' here: choose another name, or listen without"
            )
        listener = self._by_fingerprint.get(fingerprint)
        if listener is None or listener.source != source:
            self._check_room_for_listener(source, is_new=listener is None)
        if listener is None:
            listener = self._left.pop(fingerprint, None) or _Listener(fingerprint, source)
            self._by_fingerprint[fingerprint] = listener
        replaced = self._replace(listener) if listener.id else None
        listener.source = source
        self._listeners_by_source[source] += 1
        listener.id = self._new_id()
        self._by_id[listener.id] = listener
        listener.name, listener.polls = name, 0
        if name is not None:
            self._by_name[name] = listener
        self._touch(listener, now)
        return Listening(listener.id, replaced)

    def begin_poll(self, listener_id: str, now: float) -> None:
        """A request of the listener begins to wait: until `end_poll` it does not age.

        :raises UnknownListener: and the listener is to listen again.
        :raises ListenerReplaced: and it is not.
        """
        self._expire(now)
        listener = self._find(listener_id)
        listener.polls += 1
        self._touch(listener, now)

    def end_poll(self, listener_id: str, now: float) -> None:
        """It waits no more, for whatever reason. Of one that was replaced there is nothing left."""
        listener = self._by_id.get(listener_id)
        if listener is not None:
            listener.polls -= 1
            self._touch(listener, now)

    def fetch(self, listener_id: str, after: int, most: int, now: float) -> list[WaitingInvite]:
        """The invites with numbers above `after`, oldest first; the others are acknowledged.

        :raises UnknownListener: and the listener is to listen again.
        :raises ListenerReplaced: and it is not.
        """
        self._expire(now)
        listener = self._find(listener_id)
        while listener.invites and listener.invites[0].number <= after:
            self._forget(listener.invites.popleft())
        self._touch(listener, now)
        return [listener.invites[n] for n in range(min(most, len(listener.invites)))]

    def post(self, to: str, content: str, source: str, now: float) -> str:
        """Leave an invite for whoever listens there; returns the listener's id, to wake its poll.

        The same invite once more, as long as the first one waits, is no other one.

        :param to: a fingerprint in its one form, or a name.
        :raises NobodyListens: there.
        :raises RendezvousFull: too many wait already.
        """
        self._expire(now)
        listener = self._by_fingerprint.get(to) or self._by_name.get(to)
        if listener is None:
            self.refused[Refusal.NOBODY_LISTENS] += 1
            raise NobodyListens(f"nobody listens as '{to}' here")
        if any(each.content == content for each in listener.invites):
            return listener.id
        self._make_room_for_invite(listener, source)
        wait_s = self._rates.take(f"{source} {listener.fingerprint}", now)
        if wait_s > 0:
            self.refused[Refusal.INVITES_TOO_OFTEN] += 1
            raise RendezvousFull("too many invites of your address for this listener", wait_s)
        due = now + self._limits.invite_lifetime_s
        invite = WaitingInvite(listener.next_number, content, source, due)
        listener.next_number += 1
        listener.invites.append(invite)
        self._invites[invite] = listener
        self._invites_by_source[source] += 1
        return listener.id

    def fingerprint_of(self, name: str, now: float) -> str:
        """Who listens under a name: a hint, and no proof of anything.

        :raises NobodyListens: there.
        """
        self._expire(now)
        listener = self._by_name.get(name)
        if listener is None:
            self.refused[Refusal.NOBODY_LISTENS] += 1
            raise NobodyListens(f"nobody listens as '{name}' here")
        return listener.fingerprint

    def end(self, listener_id: str, now: float) -> bool:
        """End a listener and its mailbox; whether there was one."""
        self._expire(now)
        listener = self._by_id.get(listener_id)
        if listener is None:
            return False
        self._bury(listener)
        return True

    def _find(self, listener_id: str) -> _Listener:
        listener = self._by_id.get(listener_id)
        if listener is not None:
            return listener
        if listener_id in self._replaced:
            self.refused[Refusal.LISTENER_REPLACED] += 1
            raise ListenerReplaced("somebody with the same identity listens here since")
        self.refused[Refusal.UNKNOWN_LISTENER] += 1
        raise UnknownListener("there is no listener of that id; listen again")

    def _check_room_for_listener(self, source: str, *, is_new: bool) -> None:
        limits = self._limits
        if is_new and len(self._by_fingerprint) >= limits.max_listeners:
            self.refused[Refusal.LISTENERS_FULL] += 1
            raise RendezvousFull("this relay has no room for listeners", limits.retry_after_s)
        if self._listeners_by_source[source] >= limits.max_listeners_per_source:
            self.refused[Refusal.LISTENERS_OF_SOURCE_FULL] += 1
            raise RendezvousFull("too many listeners of your address", limits.retry_after_s)

    def _make_room_for_invite(self, listener: _Listener, source: str) -> None:
        limits = self._limits
        if self._invites_by_source[source] >= limits.max_invites_per_source:
            self.refused[Refusal.INVITES_OF_SOURCE_FULL] += 1
            raise RendezvousFull("too many invites of your address wait", limits.retry_after_s)
        is_crowded = len(listener.invites) >= limits.max_invites_per_listener
        if is_crowded and not self._displace(listener.invites, source):
            self.refused[Refusal.INVITES_OF_LISTENER_FULL] += 1
            raise RendezvousFull("too many others wait for this listener", limits.retry_after_s)
        if len(self._invites) >= limits.max_invites and not self._displace(self._invites, source):
            self.refused[Refusal.INVITES_FULL] += 1
            raise RendezvousFull("this relay has no room for invites", limits.retry_after_s)

    def _displace(self, invites: Collection[WaitingInvite], source: str) -> bool:
        """Drop the newest invite of whoever has the most of these, if that is fairer; else False.

        So one that fills a mailbox keeps nobody else out.
        """
        counts = Counter(each.source for each in invites)
        greediest, most = counts.most_common(1)[0]
        if most < counts[source] + 2:
            return False
        dropped = [each for each in invites if each.source == greediest][-1]
        self._invites[dropped].invites.remove(dropped)
        self._forget(dropped)
        self.refused[Refusal.INVITE_DISPLACED] += 1
        return True

    def _replace(self, listener: _Listener) -> str:
        """Take away what belongs to the former owner of a mailbox, and not to the mailbox."""
        del self._by_id[listener.id]
        self._replaced[listener.id] = None
        if len(self._replaced) > _MAX_REPLACED:
            self._replaced.popitem(last=False)
        if listener.name is not None:
            del self._by_name[listener.name]
        _decrement(self._listeners_by_source, listener.source)
        return listener.id

    def _touch(self, listener: _Listener, now: float) -> None:
        listener.due = now + self._limits.grace_s
        self._idle.pop(listener, None)
        if not listener.polls:
            self._idle[listener] = None

    def _expire(self, now: float) -> None:
        while self._invites and (invite := next(iter(self._invites))).due <= now:
            self._invites[invite].invites.popleft()  # the oldest of all is the first of its mailbox
            self._forget(invite)
            self.refused[Refusal.INVITE_EXPIRED] += 1
        while self._idle and (listener := next(iter(self._idle))).due <= now:
            self._take_away(listener)
            if listener.invites:
                self._left[listener.fingerprint] = listener

    def _bury(self, listener: _Listener) -> None:
        self._take_away(listener)
        self.refused[Refusal.INVITE_ORPHANED] += len(listener.invites)
        while listener.invites:
            self._forget(listener.invites.popleft())

    def _take_away(self, listener: _Listener) -> None:
        """Nobody listens there any more; what waits still does."""
        del self._by_fingerprint[listener.fingerprint]
        del self._by_id[listener.id]
        if listener.name is not None:
            del self._by_name[listener.name]
        self._idle.pop(listener, None)
        _decrement(self._listeners_by_source, listener.source)
        listener.id, listener.name, listener.polls = "", None, 0

    def _forget(self, invite: WaitingInvite) -> None:
        listener = self._invites.pop(invite)
        if not listener.invites and self._left.get(listener.fingerprint) is listener:
            del self._left[listener.fingerprint]
        _decrement(self._invites_by_source, invite.source)


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
