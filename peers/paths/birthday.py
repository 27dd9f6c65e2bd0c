"""Birthday probing: one NAT maps dependently, the other filters by port (docs/protocol.md §13.7).

The dependent side sends from 256 sockets, so that its NAT opens 256 ports of which nobody knows the
numbers. The other side sends to 1,150 ports at random. Of 64,512 ports some meet with a probability
of 1 - (1 - 256 / 64,512)^1,150 = 99 %. Both sides together send at most 1,406 such probes, and stop
as soon as a path is in use, after 15 s at the latest.
"""

import random
from collections.abc import Collection, Sequence
from enum import Enum
from socket import AF_INET

from relay.wire.address import Address

from .allowance import Allowance
from .candidate import SocketId
from .message import Birthday, Stage, encode
from .path import Action, CloseSockets, OpenSockets, SendMessage
from .probe import AHEAD, WIDEST
from .prober import Prober

SOCKETS = 256
PORTS = 1_150
LOWEST_PORT, HIGHEST_PORT = 1_024, 65_535
"""The ports among which a NAT chooses (RFC 4787 §4.2.1)."""

FEWEST_SOCKETS = 32
"""With fewer the chance is too small to be worth the probes."""

LASTS_S = 15.0
TICK_S = 0.02
SOCKETS_A_TICK = 10
PORTS_A_TICK = 5
"""The rates: 500 and 250 probes a second."""

ATTEMPTS, ATTEMPTS_PER_S = 2, 1 / 300
"""How often a pipe may try: it is the one thing that makes many packets to an address that the
other end names without proof."""

INDEPENDENT_WINDOW = SOCKETS + AHEAD
"""How far ahead the independent side expects probes."""


class Phase(Enum):
    """Where we are."""

    IDLE = "not tried"
    OPENING = "sockets are being opened"
    OFFERED = "offered to the other end"
    SENDING = "under way"
    WAITING = "all sent, an answer may still come"
    FAILED = "found nothing"
    ENDED = "ended"


class BirthdayPermits:
    """How many pipes of one endpoint may be in birthday probing at a time. Share one of these."""

    def __init__(self, limit: int = 4) -> None:
        self._free = limit

    def take(self) -> bool:
        """One, if there is one."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        """It is free again."""
        self._free += 1


class BirthdayProbing:
    """One pipe's. Times are in seconds."""

    def __init__(
        self,
        prober: Prober,
        actions: list[Action],
        permits: BirthdayPermits,
        chance: random.Random,
    ) -> None:
        self.phase = Phase.IDLE
        self.sent = 0
        """Probes of all attempts."""
        self.sockets: set[SocketId] = set()
        """Those that were opened for it and not yet closed."""
        self.is_dependent = False
        """Whether ours is the dependent side, in the latest attempt."""
        self._prober = prober
        self._actions = actions
        self._permits = permits
        self._chance = chance
        self._attempts = Allowance(ATTEMPTS, ATTEMPTS_PER_S)
        self._has_permit = False
        self._ends_at = 0.0
        self._next_tick = 0.0
        self._target = Address("0.0.0.0", 0)
        self._socket: SocketId = -1
        self._to_send: list[SocketId] = []  # sockets, or ports: from the end

    @property
    def is_active(self) -> bool:
        """Whether an attempt is under way."""
        return self._has_permit

    def offer(self, target: Address, now: float) -> bool:
        """Begin as the dependent side. False: not now, a bound says no.

        :param target: the other end's outside address.
        """
        if not self._begin(now):
            return False
        self.is_dependent = True
        self._target = target
        self.phase = Phase.OPENING
        self._close_all_but(())
        self._actions.append(OpenSockets(SOCKETS, AF_INET))
        return True

    def opened(self, sockets: Sequence[SocketId], now: float) -> None:
        """Our sockets are there."""
        self.sockets.update(sockets)
        if self.phase is not Phase.OPENING or not self.is_active:
            self._close_all_but(())
        elif len(sockets) < FEWEST_SOCKETS:
            self.end(Phase.FAILED)
        else:
            self.phase = Phase.OFFERED
            self._to_send = list(sockets)[:SOCKETS]
            self._prober.receiver.widen(WIDEST)
            self._tell(Stage.OFFER, WIDEST)

    def accept(self, socket: SocketId, target: Address, window: int, now: float) -> bool:
        """Begin as the independent side. False: not now; the other end is told.

        :param target: the other end's outside address; its port does not matter.
        """
        if self.is_active or not self._begin(now):
            self._tell(Stage.END, AHEAD)
            return False
        self.is_dependent = False
        self.phase = Phase.OFFERED
        self._socket, self._target = socket, target
        ports = range(LOWEST_PORT, HIGHEST_PORT + 1)
        self._to_send = self._chance.sample(ports, PORTS)
        self._prober.receiver.widen(INDEPENDENT_WINDOW)
        if self._prober.sender is not None:
            self._prober.sender.widen(window)
        self._tell(Stage.ACCEPT, INDEPENDENT_WINDOW)
        return True

    def receive(self, message: Birthday, now: float) -> None:
        """What the other end says of an attempt; an offer is for `accept`."""
        if not self.is_active or self._prober.sender is None:
            return
        if message.stage is Stage.END:
            self._prober.sender.widen(AHEAD)
            self.end(Phase.ENDED, tell=False)
        elif self.phase is not Phase.OFFERED:
            return
        elif message.stage is Stage.ACCEPT and self.is_dependent:
            self._prober.sender.widen(message.window)
            self._start_sending(now)
        elif message.stage is Stage.READY and not self.is_dependent:
            self._start_sending(now)

    def poll(self, now: float) -> None:
        """Send what is due; end in time."""
        if not self.is_active:
            return
        if now >= self._ends_at:
            self.end(Phase.FAILED)
        elif self.phase is Phase.SENDING and now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._send_some(now)

    def end(self, phase: Phase, *, tell: bool = True) -> None:
        """Stop: a path is in use, or time is over. Then `keep_only` the sockets that are of use."""
        if not self.is_active:
            return
        self.phase = phase
        self._has_permit = False
        self._permits.give_back()
        self._to_send = []
        self._prober.gather()
        self._prober.receiver.widen(AHEAD)
        if tell:
            self._tell(Stage.END, AHEAD)
            if self._prober.sender is not None:
                self._prober.sender.widen(AHEAD)

    def keep_only(self, sockets: Collection[SocketId]) -> None:
        """Close all sockets but those, unless an attempt is under way."""
        if not self.is_active:
            self._close_all_but(sockets)

    def next_due(self) -> float | None:
        """When to `poll`."""
        if not self.is_active:
            return None
        if self.phase is Phase.SENDING:
            return min(self._next_tick, self._ends_at)
        return self._ends_at

    def _begin(self, now: float) -> bool:
        if self.is_active or not self._attempts.left(now) >= 1 or not self._permits.take():
            return False
        self._attempts.take(now)
        self._has_permit = True
        self._ends_at = now + LASTS_S
        return True

    def _start_sending(self, now: float) -> None:
        self.phase = Phase.SENDING
        self._next_tick = now

    def _send_some(self, now: float) -> None:
        for _ in range(SOCKETS_A_TICK if self.is_dependent else PORTS_A_TICK):
            if not self._to_send:
                self.phase = Phase.WAITING
                if self.is_dependent:
                    self._tell(Stage.READY, WIDEST)
                return
            number = self._to_send[-1]
            if self.is_dependent:
                done = self._prober.scatter(number, self._target, now)
            else:
                target = Address(self._target.host, number)
                done = self._prober.scatter(self._socket, target, now)
            if not done:
                return
            self._to_send.pop()
            self.sent += 1

    def _tell(self, stage: Stage, window: int) -> None:
        self._actions.append(SendMessage(encode(Birthday(stage, window))))

    def _close_all_but(self, sockets: Collection[SocketId]) -> None:
        closing = tuple(sorted(self.sockets.difference(sockets)))
        if closing:
            self.sockets.difference_update(closing)
            self._actions.append(CloseSockets(closing))
