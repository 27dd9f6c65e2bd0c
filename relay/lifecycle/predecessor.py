"""The side of the process that takes over: see relay/lifecycle/successor.py for the words."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relay.core.leases import Record
from relay.forwarding.sockets import ListenRequest, OpenSockets
from relay.lifecycle import records
from relay.lifecycle.ask import Asking, NoRelay, RelayGone
from relay.lifecycle.inherited import close_all
from relay.lifecycle.local_socket import MAX_LINE, ClientGone, LocalConnection, Message
from relay.lifecycle.records import BadRecord
from relay.lifecycle.successor import PREPARE_PATIENCE_S, SERVE_PATIENCE_S, VERSION
from relay.wire.address import Address

logger = logging.getLogger(__name__)

_ANSWER_PATIENCE_S = 5.0
_MAX_LISTENERS = 64


class HandOverFailed(Exception):
    """The relay that runs keeps on running, and this process must end; one line for people."""


class OtherRelay(Exception):
    """There is a relay, but it listens elsewhere: there is nothing to take over."""

    def __init__(self, pid: int | None, addresses: Sequence[str]) -> None:
        super().__init__(
            f"another relay (process {pid}), which listens on {' '.join(addresses)}, has it"
        )


class Predecessor:
    """A relay that runs, and whose work this process goes on with."""

    def __init__(self, asking: Asking, sockets: OpenSockets) -> None:
        """Use `find`."""
        self._asking = asking
        self.pid = asking.pid
        self.sockets = sockets
        """Its sockets, by the address as we asked for it; whoever uses one takes it out."""
        self._entries: dict[int, dict[str, Any]] = {}
        self._connection: LocalConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._final = asyncio.Event()
        self.is_complete = False
        """Whether it told all; else it has ended in the midst of it."""
        self._refused: str | None = None

    @classmethod
    def find(cls, path: Path, requests: Sequence[ListenRequest]) -> "Predecessor | None":
        """Ask whoever listens on the control socket for its sockets. None: nobody does.

        :raises OtherRelay: it listens elsewhere.
        :raises HandOverFailed: it cannot be taken over from.
        """
        try:
            asking = Asking(path, _ANSWER_PATIENCE_S)
        except NoRelay as error:
            logger.debug("%s", error)
            return None
        try:
            wanted = [str(request) for request in requests]
            asking.send({"command": "hand-over", "version": VERSION, "listen": wanted})
            return cls(asking, _receive_sockets(asking, wanted, requests))
        except RelayGone:
            asking.close()
            raise HandOverFailed(
                f"the relay that runs (process {asking.pid}) does not answer on {path}"
            ) from None
        except BaseException:
            asking.close()
            raise

    def follow(self) -> None:
        """Hear of its registrations from now on. To be called in the event loop."""
        self._asking.socket.setblocking(False)
        rest = self._asking.take_rest()
        self._connection = LocalConnection(self._asking.socket, MAX_LINE, rest)
        self._reading = asyncio.get_running_loop().create_task(self._read(self._connection))

    async def take_registrations(self, listeners: Sequence[Address]) -> list[Record]:
        """Say that this process is prepared; returns all registrations, for these listeners.

        :raises HandOverFailed: it goes on itself.
        """
        with contextlib.suppress(ClientGone):  # it has ended just now: what it told is there
            await self._connected().send({"prepared": True})
        try:
            async with asyncio.timeout(PREPARE_PATIENCE_S):
                await self._final.wait()
        except TimeoutError:
            self._refused = "it does not answer"
        if self._refused is not None:
            raise HandOverFailed(f"the relay that runs goes on: {self._refused}")
        return list(self._records(listeners))

    async def release(self) -> None:
        """This process forwards: let the other one go, and wait until it has let go of all."""
        connection = self._connected()
        try:
            await connection.send({"serving": True})
            answer = await connection.receive(SERVE_PATIENCE_S)
        except ClientGone:
            logger.warning("the relay before this one is gone already")
        else:
            if "error" in answer:
                raise HandOverFailed(f"the relay that runs goes on: {answer['error']}")
        finally:
            self.close()

    def close(self) -> None:
        """Have no more to do with it."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        close_all(self.sockets)
        self._asking.close()

    def _connected(self) -> LocalConnection:
        if self._connection is None:
            raise RuntimeError("follow() comes first")
        return self._connection

    async def _read(self, connection: LocalConnection) -> None:
        """Until the last word, or until it is gone: what it told by then is what there is."""
        try:
            while not self._final.is_set():
                self._hear(await connection.receive(PREPARE_PATIENCE_S))
        except ClientGone:
            logger.warning("the relay before this one has ended in the midst of the hand-over")
        finally:
            self._final.set()

    def _hear(self, message: Message) -> None:
        match message:
            case {"set": {"owner": int() as owner} as entry}:
                self._entries[owner] = entry
            case {"end": int() as owner}:
                self._entries.pop(owner, None)
            case {"error": str() as text}:
                self._refused = text
                self._final.set()
            case {"final": _}:
                self.is_complete = True
                self._final.set()

    def _records(self, listeners: Sequence[Address]) -> "list[Record]":
        found = []
        for entry in self._entries.values():
            try:
                found.append(records.decode(entry, listeners))
            except BadRecord as error:
                logger.debug("a registration is not taken over: %s", error)
        return found


def _receive_sockets(
    asking: Asking, wanted: Sequence[str], requests: Sequence[ListenRequest]
) -> OpenSockets:
    sockets: OpenSockets = {}
    try:
        for _ in range(2 * _MAX_LISTENERS):
            match asking.receive():
                case {"error": str() as text}:
                    raise HandOverFailed(
                        f"the relay that runs (process {asking.pid}) cannot be taken over from: "
                        f"{text}"
                    )
                case {"other": list() as addresses}:
                    raise OtherRelay(asking.pid, [str(each) for each in addresses])
                case {"listener": str() as address, "asked": str() as asked}:
                    opened = [socket.socket(fileno=each) for each in asking.take_descriptors()]
                    key = asked if asked in wanted else address
                    if key in wanted:
                        request = requests[wanted.index(key)]
                        sockets.setdefault(request.address, []).extend(opened)
                case {"offered": _}:
                    return sockets
        raise RelayGone
    except BaseException:
        close_all(sockets)
        raise
