"""All pairs of a pipe: formed from what both ends know, probed as planned (RFC 8445 §6.1)."""

from collections import Counter
from collections.abc import Callable, Iterable

from relay.wire.address import Address

from .admission import MAX_CANDIDATES, Admission, Refusal, outside_of
from .allowance import Allowance
from .authentic import Key
from .candidate import Kind, LocalView, RemoteCandidate, SocketId
from .pair import Pair
from .prober import Prober

FIRST_ROUND = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds from its start at which a round probes each pair, while much may have changed."""
LATER_ROUND = (0.0, 0.05, 0.2, 0.6)

MAX_REFLEXIVE = 10
"""Pairs made for addresses from which authentic requests came."""

NEW_BURST, NEW_PER_S = 20, 1 / 6
"""Addresses never named before that the other end may name."""
MAX_KNOWN = 256
"""Addresses of which it is remembered that they were named."""


class Checklist:
    """See the module's text."""

    def __init__(self) -> None:
        self.pairs: dict[Key, Pair] = {}
        self.refused: Counter[str] = Counter()
        self._named: dict[Address, Kind] = {}  # those taken of the latest list
        self._unformed: set[Key] = set()  # the pairs that `reflexive` made
        self._known: dict[Address, None] = {}
        self._new = Allowance(NEW_BURST, NEW_PER_S)
        self._refused_now: dict[Address, Refusal] = {}  # each is counted once

    def form(self, view: LocalView, named: Iterable[RemoteCandidate], now: float) -> list[Pair]:
        """Make a pair of every socket and every candidate that is taken. Returns the new pairs.

        Pairs of addresses that are no longer named go, unless they work; so do those whose socket
        is no longer ours.
        """
        named = list(named)
        taken = self._admit(view, named, now)
        self._named = {address: each.kind for address, each in taken.items()}
        self._remove(lambda pair: self._is_over(pair, taken))
        new = []
        for candidate in sorted(taken.values(), key=_priority, reverse=True):
            for socket, family in view.sockets.items():
                if family is not candidate.address.family:
                    continue
                key = (socket, candidate.address)
                if key in self.pairs:
                    self.pairs[key].kind = candidate.kind
                    self._unformed.discard(key)
                else:
                    new.append(Pair(socket, candidate.address, candidate.kind))
                    self.pairs[key] = new[-1]
        return new

    def drop_sockets(self, alive: Callable[[SocketId], bool]) -> None:
        """Forget the pairs of sockets that are no more."""
        self._remove(lambda pair: not alive(pair.socket))

    def reflexive(self, socket: SocketId, source: Address, admission: Admission) -> Pair | None:
        """The pair of an address from which an authentic request came; None: it is refused.

        Where there are too many, the one that was heard longest ago makes room, unless it works.
        """
        found = self.pairs.get((socket, source))
        if found is not None:
            return found
        refusal = admission.refuse(source)
        if refusal is not None:
            self.refused[refusal] += 1
            return None
        others = [each for key, each in self.pairs.items() if key in self._unformed]
        if len(others) >= MAX_REFLEXIVE:
            idle = [each for each in others if not each.is_valid]
            if not idle:
                self.refused[Refusal.TOO_MANY] += 1
                return None
            oldest = min(idle, key=lambda each: each.heard_at or 0.0)
            self._remove(lambda pair: pair is oldest)
        # A named address may come to a socket that is opened for birthday probing.
        kind = self._named.get(source, Kind.REFLEXIVE)
        made = self.pairs[socket, source] = Pair(socket, source, kind)
        self._unformed.add((socket, source))
        return made

    def start_round(self, offsets: tuple[float, ...], now: float) -> None:
        """Probe everything: often what is not known to work, once what is, for the other end may
        have lost its proof of it."""
        for pair in self.pairs.values():
            if pair.is_valid:
                pair.check_at = now
            elif pair.answered_at is None and (pair.kind is not Kind.REFLEXIVE or pair.has_worked):
                pair.plan(now, offsets)

    def run(self, prober: Prober, favourite: Pair | None, now: float) -> None:
        """Send the requests that are due; those for the favourite say that it will be used."""
        for pair in self.pairs.values():
            while (size := pair.due(now)) is not None:
                prober.request(pair, size, now, use=pair is favourite)

    def answered(self) -> list[Pair]:
        """Those that can perhaps be used soon."""
        return [each for each in self.pairs.values() if each.is_answered]

    def valid(self) -> list[Pair]:
        """Those that can be used."""
        return [each for each in self.pairs.values() if each.is_valid]

    def next_due(self) -> float | None:
        """When `run` has something to do."""
        dues = [pair.next_due() for pair in self.pairs.values()]
        return min((each for each in dues if each is not None), default=None)

    def _admit(
        self, view: LocalView, named: list[RemoteCandidate], now: float
    ) -> dict[Address, RemoteCandidate]:
        admission = Admission(view, outside_of(named))
        taken: dict[Address, RemoteCandidate] = {}
        refused: dict[Address, Refusal] = {}
        for candidate in named:
            address = candidate.address
            refusal = admission.refuse(address)
            if refusal is None and address not in taken and len(taken) >= MAX_CANDIDATES:
                refusal = Refusal.TOO_MANY
            if refusal is None and address not in self._known and not self._new.take(now):
                refusal = Refusal.TOO_FAST
            if refusal is None:
                self._known[address] = None
                taken.setdefault(address, candidate)
            else:
                refused[address] = refusal
        for address, refusal in refused.items():
            if self._refused_now.get(address) is not refusal:
                self.refused[refusal] += 1
        self._refused_now = refused
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return taken

    @staticmethod
    def _is_over(pair: Pair, taken: dict[Address, RemoteCandidate]) -> bool:
        was_named = pair.kind is not Kind.REFLEXIVE
        return was_named and pair.address not in taken and not pair.is_valid

    def _remove(self, is_over: Callable[[Pair], bool]) -> None:
        for key in [key for key, pair in self.pairs.items() if is_over(pair)]:
            del self.pairs[key]
            self._unformed.discard(key)


def _priority(candidate: RemoteCandidate) -> tuple[int, int]:
    return candidate.kind, candidate.address.family
