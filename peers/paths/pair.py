"""A pair: one of our sockets and an address of the other end, and what is proved of it.

It is valid once a request of ours with 1,200 bytes was answered with as many, and a request of
theirs came by it: both directions then carry what a QUIC packet needs (RFC 9000 §8.2, §14).
"""

from collections import deque
from collections.abc import Iterable

from relay.wire.address import Address

from .candidate import Kind, SocketId
from .probe import LARGE, SMALL
from .report import PairReport, PairState

ANSWER_S = 1.0
"""Seconds after the last small probe in which an answer may come."""

LARGE_TRIES = 5
LARGE_INTERVAL_S = 0.1
"""The least pause before a large probe is repeated; it is one and a half round trips otherwise, and
doubles twice."""

FIRST_CHECK_S, CHECK_S = 2.0, 15.0
"""Seconds after which a valid pair that is not in use is probed again; a NAT forgets after 30 s at
the earliest, as a rule."""

TRIGGERED = (0.0, 0.05, 0.15, 0.4)
"""When to probe an address from which an authentic request came (RFC 8445 §7.3.1.4)."""

_GAIN = 1 / 8
"""Of the smoothed round-trip time (RFC 9002 §5.3) and of the loss."""


class Pair:
    """See the module's text. All times are in seconds."""

    def __init__(self, socket: SocketId, address: Address, kind: Kind) -> None:
        self.socket = socket
        self.address = address
        self.kind = kind
        self.state = PairState.WAITING
        self.why = ""
        """How it failed last."""
        self.sent = 0
        self.received = 0
        self.answers = 0
        """Requests of ours that were answered, ever."""
        self.loss = 0.0
        self.round_trip_s: float | None = None
        self.answered_at: float | None = None
        """When a request of ours was answered last; None: not since it failed."""
        self.heard_at: float | None = None
        """When a request of theirs came last; None: not since it failed."""
        self.has_worked = False
        self.check_at = 0.0
        """When a valid pair that is not in use is to be probed again."""
        self.misses = 0
        """Requests in a row that were not answered in time."""
        self._recent: deque[float] = deque(maxlen=8)
        self._failed_at = float("-inf")
        self._proved = False  # a large request was answered
        self._plan: deque[float] = deque()  # when small probes are due
        self._large_at: float | None = None
        self._large_tries = 0
        self._patience_ends: float | None = None

    @property
    def is_valid(self) -> bool:
        """Whether it may be used."""
        return self.state is PairState.VALID

    @property
    def is_answered(self) -> bool:
        """Whether it can perhaps be used soon: the proof of it is under way."""
        return self.state is PairState.ANSWERED

    @property
    def best_round_trip_s(self) -> float | None:
        """The smallest of the latest samples: a queue that we fill ourselves does not count."""
        return min(self._recent, default=None)

    def plan(self, now: float, offsets: Iterable[float]) -> None:
        """Send small probes at these seconds from now, in place of what was planned."""
        self._plan = deque(now + each for each in offsets)
        self._patience_ends = (self._plan[-1] if self._plan else now) + ANSWER_S
        if self.state in (PairState.WAITING, PairState.FAILED):
            self.state = PairState.PROBING

    def request_came(self, now: float) -> None:
        """Theirs reach us. If ours is not answered yet, try now: their NAT is open.

        An address that nobody has named is sent nothing but answers, which are requests, too.
        """
        self.received += 1
        self.heard_at = now
        may_ask = self.kind is not Kind.REFLEXIVE or self.has_worked
        if self.state in (PairState.WAITING, PairState.FAILED):
            self.plan(now, TRIGGERED if may_ask else ())
        elif self.state is PairState.PROBING and may_ask and self._left_for(now) > TRIGGERED[1]:
            self._plan.appendleft(now)
        self._settle(now)

    def answer_came(self, size: int, sent_at: float, now: float) -> None:
        """Ours of that size, sent then, came there, and theirs back."""
        self.received += 1
        if sent_at < self._failed_at:
            return  # it says nothing of what came after
        round_trip_s = max(0.0, now - sent_at)
        self.misses = 0
        self.answers += 1
        self.loss -= self.loss * _GAIN
        self.answered_at = now
        self.check_at = now + CHECK_S
        self._recent.append(round_trip_s)
        former = self.round_trip_s
        self.round_trip_s = (
            round_trip_s if former is None else former + (round_trip_s - former) * _GAIN
        )
        if self.state is not PairState.VALID:
            if self.state is not PairState.ANSWERED:
                self.state = PairState.ANSWERED
                self._plan.clear()
                self._large_at, self._large_tries = now, 0
                self._patience_ends = None
            if size >= LARGE:
                self._proved, self._large_at = True, None
                self._patience_ends = now + ANSWER_S
        self._settle(now)

    def unanswered(self, now: float) -> None:
        """A request was not answered in time."""
        self.check_at = min(self.check_at, now)
        self.misses += 1
        if self.is_valid:  # what was lost before says more of the NATs than of the path
            self.loss += (1 - self.loss) * _GAIN

    def doubt(self, now: float) -> None:
        """Another path died, and this one may have died with it: prove it anew."""
        if self.is_valid:
            self.state, self._proved = PairState.ANSWERED, False
            self._failed_at = now
            self._large_at, self._large_tries = now, 0

    def fail(self, why: str, now: float) -> None:
        """It is no longer, or cannot be, valid. All proof is void."""
        self.state, self.why = PairState.FAILED, why
        self._failed_at = now
        self.loss, self.misses = 0.0, 0  # of an outage: it says nothing of the path that returns
        self.answered_at = self.heard_at = None
        self._proved = False
        self._plan.clear()
        self._large_at = self._patience_ends = None
        self._recent.clear()

    def due(self, now: float) -> int | None:
        """The size of the request that is due now; None: none is. It counts as sent."""
        if self._large_at is not None and self._large_at <= now:
            if self._large_tries >= LARGE_TRIES:
                self.fail("small probes pass, 1,200 bytes do not", now)
                return None
            pause = max(LARGE_INTERVAL_S, 1.5 * (self.round_trip_s or 0.0))
            self._large_at = now + pause * min(2**self._large_tries, 4)
            self._large_tries += 1
            return LARGE
        if self._plan and self._plan[0] <= now:
            self._plan.popleft()
            return SMALL
        if self._patience_ends is not None and self._patience_ends <= now:
            why = self._lacks() or "no answer"
            self.fail(f"worked before; now: {why}" if self.has_worked else why, now)
        return None

    def next_due(self) -> float | None:
        """When `due` has something to do; None: nothing is planned."""
        dues = [self._large_at, self._patience_ends, self._plan[0] if self._plan else None]
        return min((each for each in dues if each is not None), default=None)

    def report(self) -> PairReport:
        """A snapshot."""
        return PairReport(
            socket=self.socket,
            remote=self.address,
            kind=self.kind,
            state=self.state,
            why=self._explain(),
            round_trip_s=self.round_trip_s,
            loss=self.loss,
            probes_sent=self.sent,
            probes_received=self.received,
        )

    def _settle(self, now: float) -> None:
        if self.state is PairState.ANSWERED and self._proved and self.heard_at is not None:
            self.state, self.why = PairState.VALID, ""
            self.has_worked = True
            self._patience_ends = None
            self.check_at = now + FIRST_CHECK_S

    def _left_for(self, now: float) -> float:
        """Seconds until the next planned probe."""
        return self._plan[0] - now if self._plan else float("inf")

    def _explain(self) -> str:
        if self.state is PairState.FAILED:
            return self.why
        before = f"before: {self.why}" if self.why else ""
        return "; ".join(filter(None, (self._lacks(), before)))

    def _lacks(self) -> str:
        if self.state in (PairState.VALID, PairState.WAITING):
            return ""
        if self.answered_at is None:
            return "theirs come, ours are not answered" if self.heard_at is not None else ""
        return "" if self.heard_at is not None else "ours are answered, none of theirs came"
