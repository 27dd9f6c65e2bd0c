"""All registrations of a link: made again over every new connection. docs/protocol.md §3.4."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..endpoint import Endpoint
from ..errors import RegistrationFailed, RelayUnreachable
from ..token import TokenSource
from .connection import RelayConnection
from .registration import Registration, register

SETTLE_S = 5.0
"""Seconds for a new connection to take all registrations; else another one is tried."""
SILENT_SETTLE_S = 1.0
"""Seconds of silence, besides two round trips, after which it is of no use: a NAT may have given us
another address in the middle of its handshake. To wait `SETTLE_S` for each of several such, one
after the other, would take longer than a pipe lives."""
REFUSED_RETRY_S = 15.0
"""Seconds until a registration that the relay did not renew is tried again."""
TOKEN_INTERVAL_S = 30.0
"""Seconds between two looks whether our token was renewed."""
LONGEST_RETRY_S = 120.0
"""The same where the relay asks for more."""

_log = logging.getLogger(__name__)


class Renewals:
    """Which registrations there are, and the care that each is kept."""

    def __init__(
        self,
        endpoint: Endpoint,
        authority: str,
        current: Callable[[], RelayConnection | None],
        token: TokenSource | None = None,
    ) -> None:
        """:param current: gives the connection that is in use.
        :param token: when it changes, everything is registered again: what an old one has begun
            ends some time after it.
        """
        self._endpoint = endpoint
        self._authority = authority
        self._current = current
        self._loop = asyncio.get_running_loop()
        self._registrations: list[Registration] = []
        self._tasks: set[asyncio.Task[None]] = set()  # for those that are to be renewed by and by
        self._may_be_astray = False  # a connection that was given up may have taken them along
        self._token = token
        self._watching: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Registration]:
        return iter(list(self._registrations))

    def add(self, registration: Registration) -> None:
        """Keep it from now on."""
        self._registrations.append(registration)
        if self._token is not None and self._watching is None:
            self._watching = self._loop.create_task(self._watch(self._token))

    def remove(self, registration: Registration) -> None:
        """No longer; one that is not kept is ignored."""
        with suppress(ValueError):
            self._registrations.remove(registration)

    def stop(self) -> None:
        """Try nothing any more."""
        for task in self._tasks:
            task.cancel()
        if self._watching is not None:
            self._watching.cancel()

    async def renew_all(self, connection: RelayConnection) -> bool:
        """Register everything again over a new connection; False: the connection is no good."""
        connection.end_if_silent(SILENT_SETTLE_S + 2 * connection.round_trip_s)
        try:
            async with asyncio.timeout(SETTLE_S):
                for each in self:
                    try:
                        await register(connection, self._authority, each, 1, each.count)
                    except RegistrationFailed as error:
                        _log.warning("%s", error)
                        self._renew_later(each, error.retry_after_s)
        except (RelayUnreachable, TimeoutError):
            connection.close()
        self._may_be_astray = connection.ended.done()
        if self._may_be_astray:
            self._endpoint.release(connection.way)
        return not self._may_be_astray

    def reclaim(self) -> None:
        """The former connection goes on: should another one have registered anything, do so again.

        That the other one's answer did not come is no sign that its request did not get there.
        """
        if self._may_be_astray:
            self._may_be_astray = False
            self._renew_soon()

    async def _watch(self, token: TokenSource) -> None:
        shown = token()
        while True:
            await asyncio.sleep(TOKEN_INTERVAL_S)
            now = token()
            connection = self._current()
            if now != shown and connection is not None:
                shown = now
                self._renew_soon()

    def _renew_soon(self) -> None:
        for each in self:
            self._renew_later(each, 0.0)

    def _renew_later(self, registration: Registration, wait_s: float | None) -> None:
        delay_s = REFUSED_RETRY_S if wait_s is None else min(wait_s, LONGEST_RETRY_S)
        task = self._loop.create_task(self._renew(registration, delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self, registration: Registration, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        connection = self._current()
        if registration not in self._registrations or connection is None:
            return
        try:
            await register(connection, self._authority, registration, 1, registration.count)
        except RegistrationFailed as error:
            self._renew_later(registration, error.retry_after_s)
        except RelayUnreachable:
            pass  # the reconnection registers it
        else:
            self._endpoint.probe_pipes(self._loop.time())
