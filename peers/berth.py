"""What one pipe lives on: its registration, its connection IDs, its place at the endpoint."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

from relay.wire.connection_id import KEY_LENGTHS, Derivation

from .auth import Authentication
from .connection_ids import ConnectionIdSource
from .endpoint import Attachment
from .errors import RelayError
from .link.link import RelayLink
from .link.registration import Registration
from .paths.path import PathPolicy
from .pipe import Pipe
from .quic.connection import PeerConnection

CONNECTION_IDS = 16
"""How many are registered at a time; a pipe issues eight to begin with."""
FEW = 4
"""When no more than so many are left to issue, more are registered."""
HANDSHAKE_TIMEOUT_S = 30.0
"""Seconds from the first authentic packet of the other end until the pipe is open."""

_DERIVATION = Derivation.BLAKE3


class Berth:
    """Made before the relay is reached; `moor` registers it. It implements the pipe's `Routes`.

    Connection IDs may be taken from `source` before they are registered, but nothing is sent with
    them: there is no place at any endpoint yet.
    """

    def __init__(self) -> None:
        self._key = os.urandom(KEY_LENGTHS[_DERIVATION].start)
        self.source = ConnectionIdSource(self._key, _DERIVATION, registered=CONNECTION_IDS)
        self._link: RelayLink | None = None
        self._registration: Registration | None = None
        self._place: Attachment | None = None
        self._pipe: Pipe | None = None
        self._extending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._at_end: Callable[[], Awaitable[None]] = self._end_registration

    @property
    def place(self) -> Attachment:
        """At the endpoint.

        :raises RuntimeError: before `moor`.
        """
        if self._place is None:
            raise RuntimeError("a berth that is not moored has no place")
        return self._place

    async def moor(self, link: RelayLink) -> None:
        """Register the connection IDs, and take a place at the link's endpoint.

        :raises RegistrationFailed: the relay refuses.
        """
        self._link = link
        self._registration = await link.register(self._key, _DERIVATION, CONNECTION_IDS)
        self._place = link.endpoint.place()

    def host(
        self,
        quic: PeerConnection,
        auth: Authentication,
        at_end: Callable[[], Awaitable[None]] | None = None,
        path_policy: PathPolicy = PathPolicy.ANY,
    ) -> Pipe:
        """Drive a connection whose IDs come from `source`; when the pipe ends, give all up.

        :param at_end: does so, and is awaited by `Pipe.close`; None: the registration ends.
        """
        if self._link is None:
            raise RuntimeError("a berth that is not moored can host nobody")
        place = self.place
        pipe = Pipe(quic, place.schedule, self, auth)
        # The original's peers know of no other path than the relay's.
        pipe.find_paths(place, self._link, path_policy if auth.kind else PathPolicy.RELAY_ONLY)
        self._pipe = pipe
        self._at_end = at_end or self._end_registration
        place.prober = pipe
        place.attach(pipe.connection)
        pipe.on_close(self.leave)
        self._watching = asyncio.get_running_loop().create_task(self._watch(pipe))
        return pipe

    async def leave(self) -> None:
        """Give everything up, once: all who call it wait until that is done."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._leave())
        # Whoever waits may be cancelled; that must not keep us from leaving.
        await asyncio.shield(self._leaving)

    # `Routes`, for the connection

    def add(self, connection_id: bytes) -> None:
        """The connection has issued this one: see to it that there are more when it needs them."""
        self.place.add(connection_id)
        if self.source.remaining <= FEW and self._extending is None and self._pipe is not None:
            self._extending = asyncio.get_running_loop().create_task(self._extend())

    def discard(self, connection_id: bytes) -> None:
        """The connection has retired this one."""
        self.place.discard(connection_id)

    # Own

    async def _extend(self) -> None:
        """Register first, then issue: the relay drops what it does not know."""
        if self._link is None or self._registration is None or self._pipe is None:
            return
        try:
            with suppress(RelayError):  # the next connection ID that is issued tries again
                await self._link.extend(self._registration, self.source.registered + CONNECTION_IDS)
                self.source.allow(self._registration.count)
        finally:
            self._extending = None
        self._pipe.issue_connection_ids()

    async def _watch(self, pipe: Pipe) -> None:
        """Clean up after pipes that nobody closes: the other end did, or it was lost."""
        await pipe.wait_closed()
        await pipe.close()

    async def _leave(self) -> None:
        for task in (self._extending, self._watching):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        try:
            await self._at_end()
        finally:
            if self._place is not None:
                self._place.detach()

    async def _end_registration(self) -> None:
        if self._link is not None and self._registration is not None:
            await self._link.end(self._registration)
