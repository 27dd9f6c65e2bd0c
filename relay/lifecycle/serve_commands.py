"""What the commands of relay/lifecycle/commands.py ask a running relay, and its answers."""

import asyncio
import math
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from relay.lifecycle.local_socket import LocalConnection, Message
from relay.lifecycle.notify import without_manager
from relay.lifecycle.reload import Reload, ReloadFailed
from relay.lifecycle.start import is_first_process, successor_command
from relay.lifecycle.successor import HandOver

_TICK_S = 0.5
"""Between two answers to a command that waits."""
_UPGRADE_PATIENCE_S = 90.0
_MAX_DEADLINE_S = 366 * 86_400.0


class Commanded(Protocol):
    """The relay."""

    def status(self) -> Mapping[str, object]:
        """What it does."""

    def reload(self) -> Reload:
        """:raises ReloadFailed: and nothing has changed."""

    def drain(self, deadline_s: float | None) -> None:
        """Take nothing new, and end when nothing is left, or after so many seconds."""

    def stop_draining(self) -> None:
        """Take new registrations again."""

    @property
    def registrations(self) -> int:
        """How many there are."""

    end: "asyncio.Future[None]"
    """Done when the relay ends."""

    has_left: bool
    """Whether a successor goes on with its work."""


class LocalCommands:
    """Answers one request after the other, each on a connection of its own."""

    def __init__(self, relay: Commanded, hand_over: HandOver) -> None:
        self._relay = relay
        self._hand_over = hand_over
        self._commands: dict[str, Callable[[Message, LocalConnection], Awaitable[None]]] = {
            "status": self._status,
            "reload": self._reload,
            "drain": self._drain,
            "upgrade": self._upgrade,
            "hand-over": hand_over.serve,
        }

    async def handle(self, request: Message, connection: LocalConnection) -> None:
        """See `relay.lifecycle.local_socket.Handler`."""
        command = self._commands.get(str(request.get("command")))
        if command is None:
            known = ", ".join(self._commands)
            await connection.send({"error": f"there is no such command; there are {known}"})
            return
        await command(request, connection)

    async def _status(self, request: Message, connection: LocalConnection) -> None:
        await connection.send({"status": self._relay.status()})

    async def _reload(self, request: Message, connection: LocalConnection) -> None:
        try:
            done = self._relay.reload()
        except ReloadFailed as error:
            await connection.send({"error": str(error)})
        else:
            await connection.send({"reloaded": str(done)})

    async def _drain(self, request: Message, connection: LocalConnection) -> None:
        if request.get("cancel") is True:
            self._relay.stop_draining()
            await connection.send({"draining": False})
            return
        deadline_s = request.get("deadline_s")
        if deadline_s is not None and not _is_time(deadline_s):
            await connection.send({"error": "the deadline is no number of seconds"})
            return
        self._relay.drain(deadline_s)
        await connection.send({"draining": True, "registrations": self._relay.registrations})
        if request.get("wait") is True:
            while not self._relay.end.done():
                await asyncio.wait([self._relay.end], timeout=_TICK_S)
                await connection.send({"registrations": self._relay.registrations})
            await connection.send({"ended": True, "registrations": self._relay.registrations})

    async def _upgrade(self, request: Message, connection: LocalConnection) -> None:
        """Start the same command again: it finds this relay, and takes over."""
        refusal = None
        if is_first_process():
            refusal = "this relay is a container's first process: start another container instead"
        elif self._hand_over.is_busy:
            refusal = "another process takes over just now"
        if refusal is not None:
            await connection.send({"error": refusal})
            return
        try:
            successor = _start_successor()
        except OSError as error:
            await connection.send({"error": f"no process can be started: {error.strerror}"})
            return
        await connection.send({"started": successor.pid})
        deadline = asyncio.get_running_loop().time() + _UPGRADE_PATIENCE_S
        while asyncio.get_running_loop().time() < deadline:
            if self._relay.has_left:
                await connection.send({"upgraded": successor.pid})
                return
            if (code := successor.poll()) is not None:
                await connection.send(
                    {
                        "error": f"the new process ended with code {code}, as the relay's log says;"
                        " this relay goes on as before"
                    }
                )
                return
            await asyncio.sleep(0.05)
        successor.kill()
        successor.wait()
        await connection.send({"error": "the new process took too long; this relay goes on"})


def _start_successor() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        successor_command(sys.orig_argv, sys.executable),
        env=without_manager(os.environ),
        stdin=subprocess.DEVNULL,
    )


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 <= value <= _MAX_DEADLINE_S
    )
