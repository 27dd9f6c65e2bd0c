"""The local control socket: how commands of the same user, and a successor, talk to the relay.

An AF_UNIX stream socket, mode 0600. A client sends one JSON object on a line, its request, and
gets answers of the same form; some carry descriptors. What it sends is bounded, and so is how long
it may take.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MAX_LINE = 4 * 2**20
"""Bytes of one message; a successor gets registrations, which may have many connection IDs."""
MAX_REQUEST = 65_536
"""Bytes of a client's message."""
MAX_CLIENTS = 16
REQUEST_PATIENCE_S = 5.0
"""Seconds for a client to say what it wants."""
SEND_PATIENCE_S = 10.0
"""Seconds for a client to take an answer."""
MAX_PATH = 107
"""Bytes of the path: what a socket address holds (unix(7))."""

_READ_SIZE = 65_536
_LAST_WORD_S = 0.2
_CREDENTIALS = struct.Struct("@3i")

Message = dict[str, Any]


class ControlSocketError(Exception):
    """There can be no such socket; one line for the operator."""


class ClientGone(Exception):
    """The other end closed the connection, sent nonsense, or was too slow."""


class LocalConnection:
    """One end of a connection within the relay's event loop."""

    def __init__(
        self, connection: socket.socket, at_most: int = MAX_REQUEST, received: bytes = b""
    ) -> None:
        """`connection` is non-blocking. `at_most` bytes are taken in one message.

        :param received: what was read from it before.
        """
        self._socket = connection
        self._at_most = at_most
        self._buffer = bytearray(received)
        self._loop = asyncio.get_running_loop()

    @property
    def pid(self) -> int | None:
        """The process at the other end; None where the system does not tell."""
        return credentials(self._socket)[0]

    async def send(self, message: Mapping[str, object]) -> None:
        """Send a message.

        :raises ClientGone: it could not be sent.
        """
        await self.send_bytes(encode(message))

    async def send_bytes(self, data: bytes) -> None:
        """Send messages that are encoded already.

        :raises ClientGone: they could not be sent.
        """
        try:
            async with asyncio.timeout(SEND_PATIENCE_S):
                await self._loop.sock_sendall(self._socket, data)
        except (OSError, TimeoutError):
            raise ClientGone from None

    async def send_descriptors(self, message: Mapping[str, object], given: Sequence[int]) -> None:
        """Send a message that carries descriptors, some hundred at the most.

        :raises ClientGone: it could not be sent.
        """
        data = encode(message)
        try:
            async with asyncio.timeout(SEND_PATIENCE_S):
                while True:
                    try:
                        sent = socket.send_fds(self._socket, [data], given)
                        break
                    except BlockingIOError:
                        await self._writable()
                await self._loop.sock_sendall(self._socket, data[sent:])
        except (OSError, TimeoutError):
            raise ClientGone from None

    async def receive(self, patience_s: float) -> Message:
        """The next message.

        :raises ClientGone: there is none within `patience_s` seconds, or it is none.
        """
        try:
            async with asyncio.timeout(patience_s):
                while (end := self._buffer.find(b"\n")) < 0:
                    if len(self._buffer) > self._at_most:
                        raise ClientGone
                    data = await self._loop.sock_recv(self._socket, _READ_SIZE)
                    if not data:
                        raise ClientGone
                    self._buffer += data
        except (OSError, TimeoutError):
            raise ClientGone from None
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        message = decode(line)
        if message is None:
            raise ClientGone
        return message

    async def _writable(self) -> None:
        writable = asyncio.Event()
        self._loop.add_writer(self._socket, writable.set)
        try:
            await writable.wait()
        finally:
            self._loop.remove_writer(self._socket)


Handler = Callable[[Message, LocalConnection], Awaitable[None]]
"""Answers a request. What it raises, but `ClientGone`, is logged."""


class LocalServer:
    """Listens on the control socket."""

    def __init__(self, path: Path, handle: Handler) -> None:
        """Nothing is touched before `open`."""
        self._path = path
        self._handle = handle
        self._listening: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen there, in place of whatever socket was there before: see `find_relay` first.

        :raises ControlSocketError: it cannot be.
        """
        check_path(self._path)
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_path(unfinished)
            unfinished.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                listening.bind(os.fspath(unfinished))
            finally:
                os.umask(before)
            listening.listen(MAX_CLIENTS)
            listening.setblocking(False)
            unfinished.rename(self._path)
        except OSError as error:
            listening.close()
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise ControlSocketError(
                f"{self._path}: no control socket can be made here: {error.strerror or error}"
            ) from None
        self._listening = listening
        self._identity = _identity(self._path)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listening))

    async def close(self) -> None:
        """End, and remove the socket unless a successor has put its own there."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        others = self._clients - {asyncio.current_task()}
        if others:  # they may have a last word
            await asyncio.wait(others, timeout=_LAST_WORD_S)
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            if self._identity is not None and self._identity == _identity(self._path):
                with contextlib.suppress(OSError):
                    self._path.unlink()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptors are left: some will be again
                logger.warning("the control socket: %s", error.strerror or error)
                await asyncio.sleep(1.0)
                continue
            client.setblocking(False)
            uid = credentials(client)[1]
            if len(self._clients) >= MAX_CLIENTS or uid not in (None, 0, os.geteuid()):
                client.close()
                continue
            task = loop.create_task(self._serve(client))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _serve(self, client: socket.socket) -> None:
        with client:
            connection = LocalConnection(client)
            try:
                request = await connection.receive(REQUEST_PATIENCE_S)
                await self._handle(request, connection)
            except ClientGone:
                pass
            except Exception:  # the relay forwards on, whatever a command did
                logger.exception("a command failed")
                with contextlib.suppress(ClientGone):
                    await connection.send({"error": "the relay failed; its log says more"})


def encode(message: Mapping[str, object]) -> bytes:
    """As it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """Read a line; None if it is no message."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def check_path(path: Path) -> None:
    """See whether the system can have a socket of that name.

    :raises ControlSocketError: it cannot.
    """
    size = len(os.fsencode(path))
    if size > MAX_PATH:
        raise ControlSocketError(
            f"{path}: the path of a socket has at most {MAX_PATH} bytes, and this one {size}; "
            "choose a shorter one with --control-socket"
        )


def credentials(connection: socket.socket) -> tuple[int | None, int | None]:
    """Process and user at the other end; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None, None
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None
