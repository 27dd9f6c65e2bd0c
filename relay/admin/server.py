"""Serves the admin application over TCP, by hypercorn, within the relay's own event loop."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Sequence
from typing import cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.typing import ASGIFramework, LifespanState
from starlette.types import ASGIApp

from relay.wire.address import Address

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
IDLE_S = 20.0
"""Seconds for which a connection may ask for nothing, or take for the head of its request."""
SEND_PATIENCE_S = 10.0
"""Seconds for a client to take what is sent; then its connection is cut."""
MAX_HEAD = 16_384
"""Bytes of a request's head."""
_BACKLOG = 64
_STOP_S = 0.5
_BIND_PAUSE_S = 0.1


class AdminListenError(Exception):
    """There can be no such listener; one line for the operator."""


class AdminServer:
    """Listens on some addresses. Made and used in one event loop."""

    def __init__(self, app: ASGIApp, max_connections: int = MAX_CONNECTIONS) -> None:
        self._config = Config()
        self._config.errorlog = logging.getLogger(__name__)
        self._config.include_server_header = False
        self._config.keep_alive_timeout = IDLE_S
        self._config.h11_max_incomplete_size = MAX_HEAD
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._context = WorkerContext(max_requests=None)
        self._max_connections = max_connections
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.turned_away = 0
        """Connections that were too many."""

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, with the real ports."""
        return [
            Address.from_sockaddr(each.getsockname())
            for server in self._servers
            for each in server.sockets
        ]

    async def start(self, listen: Sequence[Address], patience_s: float = 0.0) -> None:
        """Listen.

        :param patience_s: for so long an address may be in use still, by a relay that ends.
        :raises AdminListenError: one of them is not to be had.
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        try:
            for address in listen:
                bound = await _bind(address, deadline)
                server = await asyncio.start_server(self._accept, sock=bound, backlog=_BACKLOG)
                self._servers.append(server)
        except AdminListenError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Listen no more, and end all connections; well within a second."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self._context.terminated.set()  # idle connections end by themselves
        if self._tasks:
            _, busy = await asyncio.wait(set(self._tasks), timeout=_STOP_S)
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= self._max_connections:
            self.turned_away += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        loop = asyncio.get_running_loop()
        connection = _Connection(
            self._app, loop, self._config, self._context, LifespanState(), reader, writer
        )
        try:
            await connection.run()
        except asyncio.CancelledError:  # by `stop`; nobody waits for more
            writer.transport.abort()
        except Exception:
            logger.exception("a connection to the admin listener failed")
            writer.transport.abort()


class _Connection(TCPServer):
    """Hypercorn's, but one that takes nothing is cut, and one that has ended is gone at once."""

    _has_ended = False

    async def protocol_send(self, event: Event) -> None:
        """See `TCPServer`."""
        if self._has_ended and isinstance(event, Updated):
            return  # it would be kept for `IDLE_S` after its end
        try:
            async with asyncio.timeout(SEND_PATIENCE_S):
                await super().protocol_send(event)
        except TimeoutError:
            self.writer.transport.abort()

    async def _read_data(self) -> None:
        await super()._read_data()
        self._has_ended = True
        await self.idle_task.stop()


async def _bind(address: Address, deadline: float) -> socket.socket:
    while True:
        try:
            return _listening(address)
        except OSError as error:
            is_in_use = error.errno == errno.EADDRINUSE
            if not is_in_use or asyncio.get_running_loop().time() >= deadline:
                raise AdminListenError(
                    f"the admin listener cannot listen on {address}: {error.strerror}"
                ) from None
        await asyncio.sleep(_BIND_PAUSE_S)


def _listening(address: Address) -> socket.socket:
    bound = socket.socket(address.family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(bound.close)
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family is socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address.sockaddr)
        bound.listen(_BACKLOG)
        undo.pop_all()
    return bound
