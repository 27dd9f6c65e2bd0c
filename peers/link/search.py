"""Finding the relay: at first, and again after it was lost. docs/protocol.md §3.4, RFC 8305."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from relay.wire.address import Address

from ..endpoint import Endpoint, Way
from ..errors import RelayUnreachable
from ..relay_name import RelayName
from ..trust import RelayTrust
from .connection import RelayConnection
from .liveness import AttemptSchedule
from .race import Race

CONNECT_TIMEOUT_S = 10.0
"""Seconds to reach the relay at first."""
STAGGER_S = 0.25
"""Seconds between the first attempts at two addresses (RFC 8305 §5)."""
FIRST_ANSWER_S = 3.0
"""Seconds without any answer after which an attempt to reconnect is given up, and made anew: its
probe timeout has backed off."""
SILENT_ATTEMPT_S = 4.0
"""The same once the relay has answered: then it is busy, as all look for it that it had."""
ANSWERED_S = 2.0
"""Seconds since an attempt's last answer for which no others are made besides: each costs the relay
a handshake, and a relay that was restarted has enough of them."""
RESOLVE_INTERVAL_S = 5.0
"""Seconds between two resolutions of the relay's name."""
SHORT_LIFE_S = 5.0
SHORT_LIVES = 3
"""A relay that was found so often in a row, and lost again within so many seconds, is not looked
for at once any more: one that ends every connection must not keep us busy with handshakes."""
FIRST_REST_S = 0.5
LONGEST_REST_S = 15.0
"""Seconds until then, twice as many each time."""
CLOCK_S = 0.001
"""Seconds by which a timer may come early."""
LOOK_S = 1.0
"""Seconds between two looks at our own addresses and router while the relay is lost: with a network
that is back, or another one, it is tried at once."""
FRESH_ADDRESSES = 4
"""How many of the relay's addresses one attempt goes to at a time, each from a fresh socket."""

Settle = Callable[[RelayConnection], Awaitable[bool]]
"""Puts a new connection to use; False: it is no good, and was closed."""


class RelaySearch:
    """Knows the relay's name and addresses, and what makes it trustworthy."""

    def __init__(self, endpoint: Endpoint, name: RelayName, trust: RelayTrust) -> None:
        self._endpoint = endpoint
        self._name = name
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._addresses: list[Address] = []  # as last resolved
        self._resolving: asyncio.Task[None] | None = None
        self._resolve_at = 0.0  # not again before
        self._found_at = -math.inf
        self._short_lives = 0  # in a row

    def stop(self) -> None:
        """Stop what may still be running beside a search."""
        if self._resolving is not None:
            self._resolving.cancel()

    async def first(self) -> RelayConnection:
        """Resolve, and try all addresses in turn, `STAGGER_S` apart: the first to answer wins.

        :raises RelayUnreachable: no address, or no answer in `CONNECT_TIMEOUT_S`.
        :raises RelayUntrusted: an answer, but none that can be trusted.
        """
        self._addresses = await self._endpoint.network.resolve(self._name.host, self._name.port)
        race = Race(self._endpoint, self._begin)
        waiting = list(self._addresses)
        deadline = self._loop.time() + CONNECT_TIMEOUT_S
        try:
            while (left := deadline - self._loop.time()) > 0:
                while waiting and not self._enter(race, waiting.pop(0)):
                    pass
                if not race.running and not waiting:
                    if not race.is_to_begin_again:
                        break
                    race.is_to_begin_again = False
                    await asyncio.sleep(STAGGER_S)
                    waiting = list(self._addresses)
                    continue
                winner = await race.next_winner(min(left, STAGGER_S) if waiting else left)
                if winner is not None:
                    return winner
                if race.refused is not None:
                    raise race.refused
        finally:
            race.stop()
        raise RelayUnreachable(
            f"the relay {self._name} does not answer"
            f" ({race.failure or f'nothing came back within {CONNECT_TIMEOUT_S:.0f} s'}):"
            " is that its name and port, does it run, and does UDP reach it?"
        )

    async def again(
        self, recovered: asyncio.Future[None], settle: Settle
    ) -> RelayConnection | None:
        """Try until it works, however long that takes.

        :param recovered: done as soon as the old connection works after all: then None is returned.
        """
        schedule = AttemptSchedule(self._loop.time() + self._rest())
        race = Race(self._endpoint, self._begin, SILENT_ATTEMPT_S, FIRST_ANSWER_S)
        afresh_at = math.inf
        place = self._place()
        try:
            while not recovered.done():
                now = self._loop.time() + CLOCK_S
                former, place = place, self._place()
                if place != former:
                    schedule.begin_anew(now)
                if now >= schedule.next_at:
                    current = self._endpoint.current
                    if current is not None and not race.tries(current):
                        race.enter(current)
                    schedule.attempted(now)
                    afresh_at = now + STAGGER_S
                elif now >= afresh_at:
                    if not race.is_answered(now - ANSWERED_S):
                        self._attempt_afresh(race)
                    afresh_at = math.inf
                left = min(schedule.next_at, afresh_at, now + LOOK_S) - self._loop.time()
                winner = await race.next_winner(left, recovered)
                if winner is not None and await settle(winner):
                    self._found_at = self._loop.time()
                    return winner
            return None
        finally:
            race.stop()

    def _place(self) -> tuple[object, ...]:
        """What of our own network can be seen at once. A cable that is pulled leaves addresses."""
        network = self._endpoint.network
        return network.interfaces(), network.gateway()

    def _rest(self) -> float:
        """Seconds until the relay, which was just lost, is looked for."""
        is_short = self._loop.time() - self._found_at < SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if is_short else 0
        doublings = self._short_lives - SHORT_LIVES
        return min(FIRST_REST_S * 2.0 ** min(doublings, 10), LONGEST_REST_S) if doublings > 0 else 0

    def _attempt_afresh(self, race: Race) -> None:
        """Try all addresses, from fresh sockets: ours, or the relay's, may be of no use any more.

        A little after the way that we know, which is to win if it can: NATs need not learn of us.
        """
        now = self._loop.time()
        if self._resolving is None and now >= self._resolve_at:
            self._resolve_at = now + RESOLVE_INTERVAL_S
            self._resolving = self._loop.create_task(self._resolve_again())
        for address in self._addresses[:FRESH_ADDRESSES]:
            if not race.tries_afresh(address, self._endpoint.current):
                self._enter(race, address)
        rest = self._addresses[FRESH_ADDRESSES:]
        self._addresses = rest + self._addresses[:FRESH_ADDRESSES]  # each has its turn

    async def _resolve_again(self) -> None:
        # Beside the attempts, not before them: without a network the resolver may hang for long.
        try:
            self._addresses = await self._endpoint.network.resolve(self._name.host, self._name.port)
        except RelayUnreachable:
            pass  # those that we know may still be right
        finally:
            self._resolving = None

    def _begin(self, way: Way) -> RelayConnection:
        def check(chain: list[bytes]) -> None:
            self._trust.check(chain, self._name.host, way.relay, datetime.now(UTC))

        return RelayConnection(self._endpoint, way, self._name.host, check, self._trust.token)

    def _enter(self, race: Race, address: Address) -> bool:
        """Start an attempt on a fresh socket; False: this machine has none for that family."""
        try:
            way = self._endpoint.open(address)
        except OSError as error:
            race.failure = RelayUnreachable(f"no socket for {address}: {error.strerror or error}")
            return False
        race.enter(way)
        return True
