"""A service manager for tests: the socket that NOTIFY_SOCKET names, as systemd has one."""

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 30.0
_CREDENTIALS = struct.Struct("@3i")


class Manager:
    """Listens. A message is a dictionary of its assignments."""

    def __init__(self, path: Path, *, abstract: bool = False) -> None:
        self.name = f"@{path}" if abstract else os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + os.fspath(path) if abstract else self.name)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.heard: list[dict[str, str]] = []
        self.senders: list[int] = []
        """The process that sent each of them."""

    def next(self, patience_s: float = PATIENCE_S) -> dict[str, str]:
        """The next message."""
        ready, _, _ = select.select([self._socket], [], [], patience_s)
        if not ready:
            raise TimeoutError(f"nothing more after {self.heard}")
        data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(_CREDENTIALS.size))
        lines = data.decode().split("\n")
        message = dict(line.split("=", 1) for line in lines)
        self.heard.append(message)
        ((_, _, credentials),) = ancillary
        self.senders.append(_CREDENTIALS.unpack(credentials)[0])
        return message

    def until(self, is_it: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The next message of which this is so."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if is_it(message := self.next()):
                return message
        raise TimeoutError(f"not in {self.heard}")

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
