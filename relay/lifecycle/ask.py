"""A command's end of the control socket: plain, blocking."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from relay.lifecycle.local_socket import (
    MAX_LINE,
    ControlSocketError,
    Message,
    check_path,
    credentials,
    decode,
    encode,
)

_READ_SIZE = 65_536
_MAX_DESCRIPTORS = 253
"""In one message: the kernel's own bound (SCM_MAX_FD)."""


class NoRelay(Exception):
    """Nobody listens there; one line for the user."""


class RelayGone(Exception):
    """The relay closed the connection, or did not answer in time."""


class Asking:
    """One connection to a running relay. A context manager."""

    def __init__(self, path: Path, patience_s: float) -> None:
        """Connect.

        :param patience_s: seconds for each answer, unless `receive` is told otherwise.
        :raises NoRelay: nobody listens there, or not to us.
        """
        self._patience_s = patience_s
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        try:
            check_path(path)
        except ControlSocketError as error:
            raise NoRelay(str(error)) from None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(patience_s)
        try:
            self.socket.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            self.socket.close()
            raise NoRelay(f"no relay runs here: nobody listens on {path}") from None
        except PermissionError:
            self.socket.close()
            raise NoRelay(f"{path}: no permission; run this as the relay's user, or root") from None
        except OSError as error:
            self.socket.close()
            raise NoRelay(f"{path}: {error.strerror or error}") from None
        self.pid = credentials(self.socket)[0]
        """The relay's process; None where the system does not tell."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, message: Message) -> None:
        """Send a message.

        :raises RelayGone: it could not be sent.
        """
        try:
            self.socket.sendall(encode(message))
        except OSError:
            raise RelayGone from None

    def receive(self, patience_s: float | None = None) -> Message:
        """The next message; descriptors that it carried are in `take_descriptors`.

        :raises RelayGone: there is none, or it is none.
        """
        self.socket.settimeout(self._patience_s if patience_s is None else patience_s)
        while (end := self._buffer.find(b"\n")) < 0:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, _READ_SIZE, _MAX_DESCRIPTORS)
            except OSError:
                raise RelayGone from None
            self._descriptors += descriptors
            if not data or len(self._buffer) > MAX_LINE:
                raise RelayGone
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        message = decode(line)
        if message is None:
            raise RelayGone
        return message

    def receive_all(self, patience_s: float | None = None) -> Iterator[Message]:
        """All messages until the relay closes the connection."""
        while True:
            try:
                yield self.receive(patience_s)
            except RelayGone:
                return

    def take_descriptors(self) -> list[int]:
        """What came with the messages so far; the caller closes them."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def take_rest(self) -> bytes:
        """What was received and not yet read, for whoever goes on with the socket."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def close(self) -> None:
        """End it; what nobody took is closed, too."""
        for each in self.take_descriptors():
            os.close(each)
        self.socket.close()
