"""What the service manager is told: systemd's notification protocol (sd_notify(3)).

Without a manager that listens, every call does nothing. A message is one datagram to the socket
that NOTIFY_SOCKET names; that it could not be sent is no reason to stop forwarding.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)

SOCKET_VARIABLE = "NOTIFY_SOCKET"
_MAX_STATUS = 1000


class ServiceManager:
    """Whoever started the relay and wants to know how it is."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Nothing is sent before the first call."""
        self._address = _address(environment.get(SOCKET_VARIABLE, ""))
        self._watchdog_s = _watchdog_s(environment) if self._address else None

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often `alive` is to be called, in seconds; None: the manager does not watch."""
        return None if self._watchdog_s is None else self._watchdog_s / 2

    def ready(self, status: str = "") -> None:
        """The relay serves, or has done what a reload asked for."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins; `ready` says that it has ended."""
        # Type=notify-reload wants the time, to know this for the answer to its own signal.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """The relay ends."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for people: `systemctl status` shows it."""
        self._send(*_status(text))

    def alive(self) -> None:
        """See `watchdog_interval_s`."""
        self._send("WATCHDOG=1")

    def main_process(self, pid: int) -> None:
        """Another process goes on with this one's work: to be said by the one that leaves."""
        self._send(f"MAINPID={pid}")

    def _send(self, *assignments: str) -> None:
        if self._address is None or not assignments:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a manager that is stuck must not hold the relay up
                sender.connect(self._address)
                sender.send("\n".join(assignments).encode())
        except OSError as error:
            logger.debug("the service manager does not listen: %s", error)


def without_manager(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that is to know nothing of what was passed to this one."""
    passed = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
    return {name: value for name, value in environment.items() if name not in passed}


def _address(text: str) -> str | bytes | None:
    if text.startswith("@") and len(text) > 1:  # the abstract namespace
        return b"\0" + os.fsencode(text[1:])
    return text if text.startswith("/") else None


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())[:_MAX_STATUS]}"] if text else []


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    wanted, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (wanted.isascii() and wanted.isdecimal()) or len(wanted) > 15 or not int(wanted):
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(wanted) / 1e6
