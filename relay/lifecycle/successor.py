"""The side of the process that leaves: it gives its sockets and registrations to its successor.

The successor asks over the control socket. It gets the sockets at once, then every registration
and every change of one, while it starts its workers; this process forwards and serves meanwhile.
When the successor is prepared, nothing is registered any more, it hears the last changes, and its
workers begin to read the same sockets. When it says that it serves, this process ends. Until then
any failure of the successor leaves everything as it was.

    successor   {"command": "hand-over", "version": 1, "listen": ["0.0.0.0:4433", ...]}
    this        {"listener": "0.0.0.0:4433", "asked": ..., "sockets": 2}      with descriptors
    this        {"offered": 1}
    this        {"set": record} | {"end": owner} ...
    successor   {"prepared": true}
    this        {"set": record} ... {"final": true}
    successor   {"serving": true}
    this        {"released": true}

At any time this process may say {"error": text}: then it goes on, and the successor ends.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Protocol

from relay.core.leases import Registrations
from relay.core.table import Change
from relay.forwarding.sockets import Listener
from relay.lifecycle import records
from relay.lifecycle.local_socket import ClientGone, LocalConnection, Message, encode

logger = logging.getLogger(__name__)

VERSION = 1

PREPARE_PATIENCE_S = 60.0
"""Seconds for the successor to load and start its workers; the pipes go on meanwhile."""
SERVE_PATIENCE_S = 5.0
"""Seconds between its last word of registrations and its forwarding; then this process goes on."""

_OWNERS_PER_TURN = 200
"""Told in one turn of the event loop: three milliseconds."""
_MAX_ADDRESSES = 64
_DESCRIPTORS_PER_MESSAGE = 64


class Departing(Protocol):
    """The relay that leaves."""

    def freeze(self) -> None:
        """Change no registration any more; forward as before."""

    def thaw(self) -> None:
        """Nothing has come of it: go on as before."""

    async def leave(self, successor: int | None) -> None:
        """The successor (a process) forwards: let go of everything. Never raises."""

    def gone(self) -> None:
        """The successor knows: end."""


class HandOver:
    """A `relay.control.Forwarder` too, so that it hears of changes while a successor prepares."""

    def __init__(
        self, listeners: Sequence[Listener], registrations: Registrations, relay: Departing
    ) -> None:
        """`listeners` stay the caller's."""
        self._listeners = listeners
        self._addresses = [listener.address for listener in listeners]
        self._registrations = registrations
        self._relay = relay
        self._untold: dict[int, None] | None = None  # None: there is no successor
        self._wake = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether there is a successor already."""
        return self._untold is not None

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the registry."""
        if self._untold is not None:
            self._untold.update(dict.fromkeys(change.owner for change in changes))
            self._wake.set()

    async def serve(self, request: Message, connection: LocalConnection) -> None:
        """Answer a successor's request.

        :raises ClientGone: it is gone before it served; nothing has changed.
        """
        if (refusal := self._refusal(request)) is not None:
            await connection.send(refusal)
            return
        self._untold = dict.fromkeys(self._registrations.owners())
        logger.info("process %s is to go on with this relay's work", connection.pid)
        try:
            await self._offer(self._matching(request["listen"]), connection)
            await self._tell_until_prepared(connection)
            self._relay.freeze()
            try:
                await self._finish(connection)
            except BaseException:
                self._relay.thaw()
                raise
        except ClientGone:
            logger.warning("the process that was to go on did not; this one does")
            raise
        finally:
            self._untold = None
        await self._relay.leave(connection.pid)
        try:
            await connection.send({"released": True})
        finally:
            self._relay.gone()

    def _refusal(self, request: Message) -> Message | None:
        wanted = request.get("listen")
        if not isinstance(wanted, list) or len(wanted) > _MAX_ADDRESSES:
            return {"error": "the request names no addresses"}
        if request.get("version") != VERSION:
            return {
                "error": f"it hands over by version {VERSION}, and we take over by "
                f"{request.get('version')}: stop it first"
            }
        if self._untold is not None:
            return {"error": "another process takes over just now"}
        if not self._matching(wanted):
            return {"other": [str(address) for address in self._addresses]}
        return None

    def _matching(self, wanted: Collection[object]) -> list[Listener]:
        return [
            listener
            for listener in self._listeners
            if str(listener.asked) in wanted or str(listener.address) in wanted
        ]

    async def _offer(self, listeners: Iterable[Listener], connection: LocalConnection) -> None:
        for listener in listeners:
            about = {"listener": str(listener.address), "asked": str(listener.asked)}
            for start in range(0, len(listener.sockets), _DESCRIPTORS_PER_MESSAGE):
                part = listener.sockets[start : start + _DESCRIPTORS_PER_MESSAGE]
                descriptors = [each.fileno() for each in part]
                await connection.send_descriptors({**about, "sockets": len(part)}, descriptors)
        await connection.send({"offered": len(self._addresses)})

    async def _tell_until_prepared(self, connection: LocalConnection) -> None:
        prepared = asyncio.ensure_future(connection.receive(PREPARE_PATIENCE_S))
        try:
            while not prepared.done():
                self._wake.clear()
                if self._untold:
                    await connection.send_bytes(self._next_messages())
                    continue
                woken = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({prepared, woken}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        finally:
            prepared.cancel()
            await asyncio.wait({prepared})
        if prepared.cancelled() or "prepared" not in prepared.result():
            raise ClientGone

    async def _finish(self, connection: LocalConnection) -> None:
        while self._untold:
            await connection.send_bytes(self._next_messages())
        await connection.send({"final": True})
        try:
            answer = await connection.receive(SERVE_PATIENCE_S)
        except ClientGone:
            # If it only hangs, it must not go on when it wakes up.
            await connection.send({"error": "it took too long; the earlier relay goes on"})
            raise
        if "serving" not in answer:
            raise ClientGone

    def _next_messages(self) -> bytes:
        """Of some owners that it has not heard of."""
        now = asyncio.get_running_loop().time()
        messages = []
        untold = self._untold or {}
        for owner in list(islice(untold, _OWNERS_PER_TURN)):
            del untold[owner]
            record = self._registrations.record(owner, now)
            if record is None:
                messages.append(encode({"end": owner}))
            else:
                messages.append(encode({"set": records.encode(record, self._addresses)}))
        return b"".join(messages)
