"""A process that stands in for long wires: it passes frames between interfaces, later.

    python -m tests.nat.shim

It runs in a namespace of its own, where each wire has two interfaces (one end of a veth pair each).
Commands come as lines of JSON on stdin, and each is answered with one line on stdout; see
`wires.py` for the other side. It ends at the end of stdin.
"""

import contextlib
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

MAX_QUEUED = 20_000
"""Frames under way in one direction; what comes beyond it is dropped, as a router would."""

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_IGNORE_OUTGOING, _PACKET_QDISC_BYPASS = 263, 23, 20
_SO_RCVBUFFORCE = 33
_BUFFER = 2**24
_LARGEST_FRAME = 65_550
_BATCH = 64
_PATIENCE_S = 1.0


@dataclass(slots=True)
class Direction:
    """Frames that go one way through a wire."""

    wire: "Wire"
    exit: socket.socket
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    frames: int = 0
    bytes: int = 0
    dropped: int = 0


@dataclass(slots=True)
class Wire:
    """What both directions have in common."""

    delay_s: float
    loss: float = 0.0
    cut: bool = False
    record: BinaryIO | None = None
    """Every frame that enters goes here, too: its direction (1 byte), length (4), bytes."""
    directions: list[Direction] = field(default_factory=list)


class Shim:
    """All wires, and the loop that serves them."""

    def __init__(self) -> None:
        self._wires: dict[str, Wire] = {}
        self._entries: dict[int, tuple[socket.socket, Direction]] = {}
        self._poll = select.epoll()
        self._random = random.Random(1)
        self._commands = b""

    def run(self) -> None:
        """Serve until stdin ends."""
        commands = sys.stdin.fileno()
        self._poll.register(commands, select.EPOLLIN)
        while True:
            for descriptor, _ in self._poll.poll(self._send_due()):
                if descriptor != commands:
                    self._take(*self._entries[descriptor])
                elif not self._obey():
                    return

    def _take(self, entry: socket.socket, direction: Direction) -> None:
        wire, queue = direction.wire, direction.queue
        with contextlib.suppress(BlockingIOError, OSError):  # nothing more; interface went down
            for _ in range(_BATCH):
                frame = entry.recv(_LARGEST_FRAME)
                if wire.record:
                    side = wire.directions.index(direction)
                    wire.record.write(struct.pack("!BI", side, len(frame)) + frame)
                    wire.record.flush()
                lost = wire.cut or (wire.loss and self._random.random() < wire.loss)
                if lost or len(queue) >= MAX_QUEUED:
                    direction.dropped += 1
                    continue
                direction.frames += 1
                direction.bytes += len(frame)
                queue.append((time.monotonic() + wire.delay_s, frame))

    def _send_due(self) -> float:
        """Send what is due; returns in how many seconds to come again."""
        now = time.monotonic()
        patience = _PATIENCE_S
        for _, direction in self._entries.values():
            queue = direction.queue
            while queue and queue[0][0] <= now:
                with contextlib.suppress(OSError):  # the interface is down: the cable was pulled
                    direction.exit.send(queue[0][1])
                queue.popleft()
            if queue:
                patience = min(patience, queue[0][0] - now)
        return patience

    def _obey(self) -> bool:
        chunk = os.read(sys.stdin.fileno(), 65_536)
        *lines, self._commands = (self._commands + chunk).split(b"\n")
        for line in lines:
            command = json.loads(line)
            answer = getattr(self, "do_" + command.pop("do"))(**command)
            print(json.dumps(answer), flush=True)
        return bool(chunk)

    def do_wire(self, name: str, ends: tuple[str, str], delay_s: float) -> None:
        """Begin to serve a wire between two interfaces."""
        wire = self._wires[name] = Wire(delay_s)
        a, b = (_open(each) for each in ends)
        for entry, leave in ((a, b), (b, a)):
            direction = Direction(wire, leave)
            wire.directions.append(direction)
            self._entries[entry.fileno()] = (entry, direction)
            self._poll.register(entry.fileno(), select.EPOLLIN)

    def do_set(self, name: str, **values: float) -> None:
        """Change `delay_s`, `loss` or `cut`."""
        for key, value in values.items():
            setattr(self._wires[name], key, value)

    def do_record(self, name: str, file: str | None) -> None:
        """Begin to record what enters a wire, or end it."""
        wire = self._wires[name]
        if wire.record:
            wire.record.close()
        wire.record = Path(file).open("wb") if file else None  # noqa: SIM115  # stays open

    def do_counts(self, name: str) -> list[dict[str, int]]:
        """What went through each direction since the start, headers of the link included."""
        return [
            {"frames": each.frames, "bytes": each.bytes, "dropped": each.dropped}
            for each in self._wires[name].directions
        ]


def _open(interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    opened.bind((interface, _ETH_P_ALL))
    return opened


if __name__ == "__main__":
    Shim().run()
