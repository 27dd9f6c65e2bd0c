"""The parts of an agent, and what they do when time passes."""

import random

from relay.wire.address import Address

from ..nat.outlook import Mapping
from .authentic import AuthenticSources, Key
from .birthday import BirthdayPermits, BirthdayProbing, Phase
from .candidate import LocalView, SocketId
from .checklist import FIRST_ROUND, LATER_ROUND, Checklist
from .inbox import Inbox
from .knowledge import Knowledge, announcement
from .message import Candidates, Message, Punch, Relayed, encode
from .pair import Pair
from .path import Action, PathPolicy, SendMessage
from .probe import LARGE, SMALL
from .prober import Prober
from .report import PairState
from .search import Search
from .selection import Selection, keep_up, standby_due
from .usage import Usage

LONGEST_LEAD_S = 0.5
"""Seconds that the side which begins a round waits at the most for its word to arrive."""
UNKNOWN_LEAD_S = 0.05

FRESH_ROUNDS = 2
"""Rounds after a change in which pairs are probed often."""

NEVER = float("inf")


class Engine:
    """Times are in seconds. What is to be done is appended to `actions`."""

    def __init__(
        self,
        *,
        is_dialer: bool,
        now: float,
        policy: PathPolicy,
        permits: BirthdayPermits,
        chance: random.Random,
    ) -> None:
        self.is_dialer = is_dialer
        self.actions: list[Action] = []
        self.knowledge = Knowledge(relay_only=policy is PathPolicy.RELAY_ONLY)
        self.prober = Prober(chance, self.actions)
        self.checklist = Checklist()
        self.search = Search(now, leads=is_dialer)
        self.usage = Usage(now, self.actions)
        self.birthday = BirthdayProbing(self.prober, self.actions, permits, chance)
        self.inbox = Inbox()
        self.authentic = AuthenticSources()
        self.target: Key | None = None
        """What the dialer uses: the accepter follows. None: not known, or given up."""
        self._target_number = 0  # of the probe that named it
        self._selection = Selection()
        self._told_at = now  # when the other end was told our addresses
        self._birthday_tried_at: float | None = None  # `Search.changed_at` of then

    def tell(self, message: Message) -> None:
        """Say something to the other end."""
        self.actions.append(SendMessage(encode(message)))

    def set_view(self, view: LocalView, now: float) -> None:
        """Our network is like this now."""
        self.knowledge.view = view
        told = announcement(view)
        if told != self.knowledge.announced:
            self.knowledge.announced = told
            self.tell(told)
            self._told_at = now
            self.search.change(now)
        self._form(now)

    def run(self, now: float) -> None:
        """Do what is due."""
        named = self.inbox.take_candidates(now)
        if named is not None:
            self._take_candidates(named, now)
        self.prober.expire(now)
        self._run_birthday(now)
        if self.knowledge.can_search:
            self._run_rounds(now)
        self.checklist.run(self.prober, self._name_favourite(now), now)
        self._run_watch(now)
        self._select(now)
        for pair in keep_up(self.checklist.valid(), self.usage.pair, now):
            self.prober.request(pair, SMALL, now)
        for pair in self._selection.to_compare(self.usage.pair, now):
            self.prober.request(pair, SMALL, now)
        self._plan_rounds(now)
        self.authentic.expire(now, self._is_alive)
        self.prober.sync_if_needed()

    def next_due(self, now: float) -> float:
        """When to `run` again; `NEVER`: when something happens."""
        dues: list[float | None] = [
            self.prober.next_expiry(),
            self.checklist.next_due(),
            self.birthday.next_due(),
            self._selection.next_due(),
            standby_due(self.checklist.valid(), self.usage.pair),
            self.inbox.next_due(now),
        ]
        if self.usage.watch is not None:
            dues.append(self.usage.watch.next_due())
        if self.knowledge.can_search:
            dues.append(self.search.next_due(is_held=self.birthday.is_active))
        return min((each for each in dues if each is not None), default=NEVER)

    def begin_round(self, number: int, now: float) -> None:
        """The other end begins a round: so do we, at once."""
        current = self.search.round
        if not self.knowledge.can_search:
            return
        if current is not None and not current.has_begun:
            current.starts_at = now  # both said it at the same time
        elif current is None or now - current.starts_at > LONGEST_LEAD_S:
            self.search.begin(now, number)

    def fall_back(self, why: str, now: float, *, tell: bool = True) -> None:
        """To the relay, at once: the direct path is dead, or the other end says so."""
        usage = self.usage
        if usage.pair is None:
            return
        usage.pair.fail(f"worked, then: {why}", now)
        for pair in self.checklist.valid():
            pair.doubt(now)
        if self.target == (usage.pair.socket, usage.pair.address):
            self.target = None  # else the dialer is elsewhere already, and it is being proved
        if tell:
            self.tell(Relayed(self.search.number))
        self.search.lost(now - usage.since, now)
        self._birthday_tried_at = None
        self._take(None, why, now)

    def follow(self, key: Key, number: int) -> None:
        """The dialer says in the probe of this number that it uses this path.

        An earlier probe that comes later, by a longer path, says nothing any more.
        """
        if not self.is_dialer and number > self._target_number:
            self.target, self._target_number = key, number

    def pair_of(self, socket: SocketId, source: Address) -> Pair | None:
        """The pair of an address from which something authentic came; None: it is refused."""
        return self.checklist.reflexive(socket, source, self.knowledge.admission())

    # What both ends know

    def _take_candidates(self, named: Candidates, now: float) -> None:
        if named != self.knowledge.named:
            self.knowledge.named = named
            self._form(now)
            self.search.change(now)

    def _form(self, now: float) -> None:
        view, named = self.knowledge.view, self.knowledge.named
        if view is not None and named is not None:
            new = self.checklist.form(view, named.candidates, now)
            if self.search.round is not None and self.search.round.has_begun:
                for pair in new:
                    pair.plan(now, FIRST_ROUND)
        self._drop_sockets(now)

    def _drop_sockets(self, now: float) -> None:
        self.checklist.drop_sockets(self._is_alive)
        self.authentic.expire(now, self._is_alive)
        pair = self.usage.pair
        if pair is not None and not self._is_alive(pair.socket):
            self.fall_back("its socket is closed", now)

    def _is_alive(self, socket: SocketId) -> bool:
        view = self.knowledge.view
        return socket in self.birthday.sockets or (view is not None and socket in view.sockets)

    # Rounds

    def _run_rounds(self, now: float) -> None:
        search = self.search
        lead = self.usage.relay_round_trip_s
        lead = UNKNOWN_LEAD_S if lead is None else min(lead / 2, LONGEST_LEAD_S)
        if search.number == 0:
            # The first one needs no word: both begin when both have the other's addresses.
            search.begin(max(now, self._told_at + lead))
        elif search.is_due(now) and not self.birthday.is_active:
            self.tell(Punch(search.begin(now + lead).number))
        current = search.round
        if current is None:
            return
        if not current.has_begun and now >= current.starts_at:
            current.has_begun = True
            is_fresh = search.rounds_since <= FRESH_ROUNDS
            self.checklist.start_round(FIRST_ROUND if is_fresh else LATER_ROUND, now)
        elif current.has_begun and now >= current.ends_at:
            search.end(now)
            if not self._has_path:
                self._offer_birthday(now)

    def _plan_rounds(self, now: float) -> None:
        """Nothing works, and nothing is under way: try again, some time."""
        if self.knowledge.can_search and not self._has_path and not self.birthday.is_active:
            self.search.plan(is_hopeless=self.knowledge.is_hopeless, now=now)

    @property
    def _has_path(self) -> bool:
        return self.usage.is_direct or bool(self.checklist.valid())

    def _offer_birthday(self, now: float) -> None:
        ends = self.knowledge.birthday_ends(Mapping.DEPENDENT, Mapping.INDEPENDENT)
        is_new = self._birthday_tried_at != self.search.changed_at
        if ends is not None and is_new and self.birthday.offer(ends[1], now):
            self._birthday_tried_at = self.search.changed_at

    def _run_birthday(self, now: float) -> None:
        birthday = self.birthday
        was_active = birthday.is_active
        if was_active and self.usage.is_direct:
            birthday.end(Phase.ENDED)
        birthday.poll(now)
        if birthday.sockets and not birthday.is_active:
            birthday.keep_only(self._useful_sockets())
            self._drop_sockets(now)

    def _useful_sockets(self) -> set[SocketId]:
        """Those of birthday probing that may still carry a path."""
        if self.usage.pair is not None:
            return {self.usage.pair.socket}
        if self.search.gave_up:
            return set()
        hopeful = (PairState.PROBING, PairState.ANSWERED, PairState.VALID)
        pairs = self.checklist.pairs.values()
        return {each.socket for each in pairs if each.has_worked or each.state in hopeful}

    # The path in use

    def _run_watch(self, now: float) -> None:
        usage = self.usage
        if usage.watch is None or usage.pair is None:
            return
        if usage.watch.poll(now):
            size = LARGE if usage.watch.wants_large else SMALL
            self.prober.request(usage.pair, size, now, use=self.is_dialer)
        why = usage.watch.is_dead(now)
        if why:
            self.fall_back(why, now)

    def _select(self, now: float) -> None:
        usage = self.usage
        if not self.is_dialer:
            pair = self.checklist.pairs.get(self.target) if self.target else None
            if pair is not None and pair.is_valid and pair is not usage.pair:
                self._take(pair, "proved both ways, and the dialer uses it", now)
            return
        chosen = self._selection.choose(
            self.checklist.valid(), usage.pair, usage.relay_round_trip_s, now
        )
        if chosen is not None:
            pair, reason = chosen
            if pair is None:
                self.tell(Relayed(self.search.number))
            self._take(pair, reason, now)

    def _name_favourite(self, now: float) -> Pair | None:
        """The pair that the dialer will take if it proves valid: the accepter may know already."""
        if not self.is_dialer or self.usage.is_direct:
            return None
        return self._selection.name_favourite(
            self.checklist.answered(), self.usage.relay_round_trip_s, now
        )

    def _take(self, pair: Pair | None, reason: str, now: float) -> None:
        self._selection.forget()
        self.usage.take(pair, reason, self.search.number, now)
        if pair is not None:
            self.search.found()
            self._run_watch(now)
            self._run_birthday(now)
