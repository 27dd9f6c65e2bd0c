"""A service manager for tests: the socket that NOTIFY_SOCKET names, as systemd has one."""

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 30.0


class Manager:
    """Listens. A message is a dictionary of its assignments."""

    def __init__(self, path: Path, *, abstract: bool = False) -> None:
        self.name = f"@{path}" if abstract else os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + os.fspath(path) if abstract else self.name)
        self.heard: list[dict[str, str]] = []

    def next(self, patience_s: float = PATIENCE_S) -> dict[str, str]:
        """The next message."""
        ready, _, _ = select.select([self._socket], [], [], patience_s)
        if not ready:
            raise TimeoutError(f"nothing more after {self.heard}")
        lines = self._socket.recv(65536).decode().split("\n")
        message = dict(line.split("=", 1) for line in lines)
        self.heard.append(message)
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
