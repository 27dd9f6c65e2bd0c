"""Attempts to reach the relay, side by side: the first that gets there wins. RFC 8305."""

import asyncio
from collections.abc import Callable

from relay.wire.address import Address

from ..endpoint import Endpoint, Way
from ..errors import PeersError, RelayUnreachable
from .connection import RelayConnection

Begin = Callable[[Way], RelayConnection]
"""Starts one attempt."""


class Race:
    """Runs attempts. What it opened it closes, but for the winner and its way."""

    def __init__(
        self,
        endpoint: Endpoint,
        begin: Begin,
        patience_s: float | None = None,
        first_s: float | None = None,
    ) -> None:
        """:param patience_s: an attempt ends when it is owed an answer for so long; None: never.
        :param first_s: the same for its first answer.
        """
        self._endpoint = endpoint
        self._begin = begin
        self._patience_s, self._first_s = patience_s, first_s
        self._running: dict[asyncio.Future[None], RelayConnection] = {}
        self.refused: PeersError | None = None
        """Why the first relay that answered is not ours, or cannot be judged."""
        self.failure: PeersError | None = None
        """Why the last attempt that failed did so."""
        self.is_to_begin_again = False
        """Whether one failed for a reason that another one will not meet again."""

    @property
    def running(self) -> int:
        """How many attempts are under way."""
        return len(self._running)

    def enter(self, way: Way) -> None:
        """Start an attempt by this way, which becomes the race's to close, unless it is in use."""
        connection = self._begin(way)
        self._running[connection.ready] = connection
        connection.end_if_silent(self._patience_s, self._first_s)

    def tries(self, way: Way) -> bool:
        """Whether an attempt by this way is under way."""
        return any(each.way is way for each in self._running.values())

    def tries_afresh(self, relay: Address, current: Way | None) -> bool:
        """Whether one to this address is, by another way than the current one."""
        ways = (each.way for each in self._running.values())
        return any(way.relay == relay and way is not current for way in ways)

    def is_answered(self, since: float) -> bool:
        """Whether one was answered since then."""
        return any((each.heard_at or 0.0) > since for each in self._running.values())

    async def next_winner(
        self, timeout_s: float, interrupt: asyncio.Future[None] | None = None
    ) -> RelayConnection | None:
        """Wait until an attempt succeeds; None: one failed, or the time is over, or `interrupt`.

        Untrusted relays and failures are noted. The winner and its way are now the caller's.
        """
        awaited = set(self._running) | ({interrupt} if interrupt is not None else set())
        if not awaited:
            await asyncio.sleep(max(timeout_s, 0.0))
            return None
        done, _ = await asyncio.wait(
            awaited, timeout=max(timeout_s, 0.0), return_when=asyncio.FIRST_COMPLETED
        )
        for ready in done & self._running.keys():
            connection = self._running.pop(ready)
            error = ready.exception()
            if error is None and not connection.ended.done():
                return connection
            self._note(error)
            self.is_to_begin_again |= connection.is_to_begin_again
            self._endpoint.release(connection.way)
        return None

    def stop(self) -> None:
        """End all attempts that are still under way."""
        while self._running:
            _, connection = self._running.popitem()
            connection.close()
            self._endpoint.release(connection.way)

    def _note(self, error: BaseException | None) -> None:
        if isinstance(error, RelayUnreachable):
            self.failure = error
        elif isinstance(error, PeersError):
            self.refused = self.refused or error
        else:
            self.failure = RelayUnreachable("the relay closed the connection at once")
