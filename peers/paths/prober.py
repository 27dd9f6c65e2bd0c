"""Sends requests and responses, and knows which answers are awaited: all bounds are kept here."""

import random
from collections import Counter, OrderedDict
from dataclasses import dataclass

from relay.wire.address import Address

from .allowance import Allowance
from .candidate import SocketId
from .message import Sync, encode
from .pair import Pair
from .path import Action, SendMessage, SendProbe
from .probe import (
    AHEAD,
    KEY_LENGTH,
    LARGE,
    SMALL,
    TRANSACTION_LENGTH,
    Probe,
    ProbeDrop,
    ProbeKind,
    ProbeReceiver,
    ProbeSender,
)

UNPROVED_BURST = 24
UNPROVED_PER_S = 0.2
"""Small probes to one IP address that has not answered. A hostile peer can have us send so many to
whom it names, and no more."""
MAX_ADDRESSES = 64
"""IP addresses of which that is remembered."""

REQUESTS_BURST, REQUESTS_PER_S = 150, 50.0
"""Requests in all; birthday probing has its own bound."""
RESPONSES_BURST, RESPONSES_PER_S = 400, 200.0

AWAITED_S = 3.0
"""Seconds for which an answer is awaited."""
MISSED_S = 1.0
"""Seconds after which it counts as lost, unless it takes longer than three round trips."""
MAX_AWAITED = 256
MAX_SCATTERED = 1_500
"""Birthday requests whose answers are awaited."""


class Drop:
    """Further reasons for dropping what was authentic. They are keys of `Prober.dropped`."""

    UNAWAITED = "probe: an answer that nobody awaits"
    ELSEWHERE = "probe: an answer from another address"
    TOO_MANY = "probe: more requests than are answered"
    NO_CREDIT = "probe: not sent, the other end expects no more"


@dataclass(slots=True)
class Awaited:
    """A request under way."""

    pair: Pair | None
    """None: birthday probing."""
    socket: SocketId
    address: Address
    number: int
    size: int
    sent_at: float
    is_missed: bool = False

    @property
    def looked_at_next(self) -> float:
        """When it is lost, or, if it is counted as that, forgotten."""
        if self.is_missed:
            return self.sent_at + AWAITED_S
        round_trip_s = (self.pair and self.pair.round_trip_s) or 0.0
        return self.sent_at + min(AWAITED_S, max(MISSED_S, 3 * round_trip_s))


class Prober:
    """For one pipe."""

    def __init__(self, chance: random.Random, actions: list[Action]) -> None:
        self.receiver = ProbeReceiver(chance.randbytes(KEY_LENGTH))
        self.sender: ProbeSender | None = None
        """None until the other end's key has come."""
        self.sent = 0
        self.received = 0
        self.dropped: Counter[str] = Counter()
        self._chance = chance
        self._actions = actions
        self._awaited: OrderedDict[bytes, Awaited] = OrderedDict()  # by transaction
        self._scattered: OrderedDict[bytes, Awaited] = OrderedDict()
        self._unproved: OrderedDict[str, Allowance] = OrderedDict()  # by IP address
        self._requests = Allowance(REQUESTS_BURST, REQUESTS_PER_S)
        self._responses = Allowance(RESPONSES_BURST, RESPONSES_PER_S)
        self._sync_number: int | None = None  # told, and not yet confirmed

    def request(self, pair: Pair, size: int, now: float, *, use: bool = False) -> bool:
        """Send a request. False: not now, a bound says no.

        More than 72 bytes go only to an address that has answered, and so has asked for them.
        """
        if pair.answered_at is None:
            size = min(size, SMALL)
            if not self._take_unproved(pair.address.host, now):
                return False
        if not self._requests.take(now):
            return False
        awaited = Awaited(pair, pair.socket, pair.address, 0, size, now)
        if not self._send_request(awaited, self._awaited, MAX_AWAITED, use=use):
            return False
        pair.sent += 1
        return True

    def scatter(self, socket: SocketId, address: Address, now: float) -> bool:
        """Send a birthday request. False: the other end expects no more."""
        awaited = Awaited(None, socket, address, 0, SMALL, now)
        return self._send_request(awaited, self._scattered, MAX_SCATTERED, use=False)

    def gather(self) -> None:
        """Birthday probing is over: await no more of its answers."""
        self._scattered.clear()

    def respond(
        self, request: Probe, socket: SocketId, source: Address, pair: Pair | None, now: float
    ) -> None:
        """Answer, with as many bytes as came, to where they came from.

        Unless the pair is proved, the answer is a request, too: so an address that only we have
        seen is proved without a byte more than it sent.
        """
        challenge = b""
        if pair is not None and not pair.is_valid:
            challenge = self._chance.randbytes(TRANSACTION_LENGTH)
        number = self._answer(request, socket, source, challenge, now)
        if challenge and number is not None:
            # Its loss is not counted: often the other end's request was not for us alone.
            awaited = Awaited(pair, socket, source, number, request.size, now, is_missed=True)
            self._await(challenge, awaited, self._awaited, MAX_AWAITED)

    def answer_challenge(
        self, response: Probe, socket: SocketId, source: Address, now: float
    ) -> None:
        """Answer the request in an answer that we awaited."""
        request = Probe(ProbeKind.REQUEST, response.challenge, size=response.size)
        self._answer(request, socket, source, b"", now)

    def open(self, datagram: bytes) -> Probe | None:
        """What is inside a datagram; None: dropped, and counted."""
        found = self.receiver.open(datagram)
        if isinstance(found, ProbeDrop):
            self.dropped[found] += 1
            return None
        if not SMALL <= found.size <= LARGE:  # a shorter answer would not hold an address
            self.dropped[ProbeDrop.MALFORMED] += 1
            return None
        self.received += 1
        return found

    def match(self, response: Probe, socket: SocketId, source: Address) -> Awaited | None:
        """The request that this answers; None: dropped, and counted.

        It must come to where the request left, from where the request went (RFC 8445 §7.2.5.2.1).
        """
        waiting = self._awaited
        if response.transaction in self._scattered:
            waiting = self._scattered
        awaited = waiting.get(response.transaction)
        if awaited is None or awaited.size != response.size:
            self.dropped[Drop.UNAWAITED] += 1
            return None
        if (awaited.socket, awaited.address) != (socket, source):
            self.dropped[Drop.ELSEWHERE] += 1
            return None
        del waiting[response.transaction]
        if self.sender is not None:
            self.sender.arrived(awaited.number)
        self._unproved.pop(source.host, None)
        return awaited

    def expire(self, now: float) -> None:
        """Count what was not answered in time, and forget what is too old."""
        for transaction, awaited in list(self._awaited.items()):
            if not awaited.is_missed and now >= awaited.looked_at_next:
                awaited.is_missed = True
                if awaited.pair is not None:
                    awaited.pair.unanswered(now)
            if now >= awaited.sent_at + AWAITED_S:
                del self._awaited[transaction]

    def next_expiry(self) -> float | None:
        """When `expire` has something to do."""
        return min((each.looked_at_next for each in self._awaited.values()), default=None)

    def synced(self, number: int) -> None:
        """The other end now expects numbers from this one on."""
        if self.sender is not None and number == self._sync_number:
            self._sync_number = None
            self.sender.arrived(number - 1)

    def sync_if_needed(self) -> None:
        """Tell the other end our number, if too many were lost on the way there."""
        sender = self.sender
        if sender is not None and self._sync_number is None and sender.credit <= AHEAD // 2:
            self._sync_number = sender.next_number
            self._actions.append(SendMessage(encode(Sync(sender.next_number))))

    def _take_unproved(self, host: str, now: float) -> bool:
        allowance = self._unproved.get(host)
        if allowance is None:
            allowance = self._unproved[host] = Allowance(UNPROVED_BURST, UNPROVED_PER_S)
            while len(self._unproved) > MAX_ADDRESSES:
                self._unproved.popitem(last=False)
        return allowance.take(now)

    def _send_request(
        self, awaited: Awaited, waiting: OrderedDict[bytes, Awaited], limit: int, *, use: bool
    ) -> bool:
        transaction = self._chance.randbytes(TRANSACTION_LENGTH)
        probe = Probe(ProbeKind.REQUEST, transaction, use=use, size=awaited.size)
        number = self._send(probe, awaited.socket, awaited.address)
        if number is None:
            return False
        awaited.number = number
        self._await(transaction, awaited, waiting, limit)
        return True

    @staticmethod
    def _await(
        transaction: bytes, awaited: Awaited, waiting: OrderedDict[bytes, Awaited], limit: int
    ) -> None:
        waiting[transaction] = awaited
        while len(waiting) > limit:
            waiting.popitem(last=False)

    def _answer(
        self, request: Probe, socket: SocketId, source: Address, challenge: bytes, now: float
    ) -> int | None:
        if not self._responses.take(now):
            self.dropped[Drop.TOO_MANY] += 1
            return None
        response = Probe(
            ProbeKind.RESPONSE,
            request.transaction,
            seen=source,
            challenge=challenge,
            size=request.size,
        )
        return self._send(response, socket, source)

    def _send(self, probe: Probe, socket: SocketId, destination: Address) -> int | None:
        if self.sender is None or self.sender.credit <= 0:
            self.dropped[Drop.NO_CREDIT] += 1
            return None
        number, datagram = self.sender.seal(probe, self._chance.getrandbits(6))
        self.sent += 1
        self._actions.append(SendProbe(datagram, socket, destination))
        return number
