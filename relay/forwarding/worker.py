"""A forwarding process: `python -m relay.forwarding.worker`; supervisor.py starts it.

Here is the shell around the loop: it reads commands, writes reports, and ends when told to or when
the control process is gone. What forwards is a `ForwardingLoop`: plain_loop.py is one in plain
Python, batch_loop.py a quicker one. It has to do five things, and none of them concerns this
module's bytes:

- `apply(command)`: follow `OwnerMoved`, `ConnectionIdsAdded`, `ConnectionIdsRemoved` and
  `OwnerRemoved`, as relay/core/table.py defines them, before the next datagram is read;
- `forward(until)`: serve its sockets; return when the clock says so, or when one of the `wake`
  descriptors that it was made with is readable. Those are looked at before the sockets;
- `counters()`: each datagram that was read in exactly one outcome;
- `take_used(at_most)`, while it `is_metered`: what was taken from the senders' buckets;
- `take_sent(at_most)`, after the command `SendersCounted`: what each registered sender has had
  forwarded since it was last returned;
- `take_heard(at_most)`: registered sources of any datagram, forwarded or not. One that goes on
  sending may be left out until all others have been returned.

Nothing is imported that the loop does not need: a worker is replaced while its datagrams wait.
"""

import contextlib
import ctypes
import gc
import math
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from relay.core.bucket import Used
from relay.forwarding.channel import (
    ChannelError,
    Command,
    Counters,
    Forwarded,
    FrameReader,
    Heard,
    Loaded,
    Sent,
    Sync,
    Synced,
    Taken,
    encode_report,
)
from relay.forwarding.loops import make_loop
from relay.wire.address import Address

_READ_SIZE = 16_384
"""Bytes of commands that are followed before datagrams get their turn: a millisecond or two."""
_HEARD_EACH = 128
"""Sources in one report: that takes half a millisecond, in which nothing is forwarded."""
_HEARD_PAUSE_S = 0.005
_HEARD_REST_S = 0.0002
"""Between two rounds of reports there is so much time for each source that was told: ten seconds
for 50,000, so that they never take more than a few hundredths of a core."""
USED_INTERVAL_S = 0.1
"""Between two reports of what was charged: so soon a rate can be shared otherwise."""
_USED_EACH = 8_192
_FAREWELL_S = 0.2
"""Seconds for which a worker that ends waits for its last report to be taken."""
_PR_SET_PDEATHSIG = 1


class ForwardingLoop(Protocol):
    """What forwards; see the module's text."""

    def apply(self, command: Command) -> None: ...
    def forward(self, until: float) -> None: ...
    def counters(self) -> Counters: ...
    def take_heard(self, at_most: int) -> list[Address]: ...
    def take_sent(self, at_most: int) -> list[Sent]: ...
    def take_used(self, at_most: int) -> list[Used]: ...

    @property
    def is_metered(self) -> bool: ...


MakeLoop = Callable[[Sequence[socket.socket], socket.socket, Sequence[int]], ForwardingLoop]
"""Takes the sockets by listener, the way up, and the descriptors that wake it."""


class Worker:
    """Pairs a loop with the control process."""

    def __init__(
        self, stream: socket.socket, stop: socket.socket, loop: ForwardingLoop, interval_s: float
    ) -> None:
        """All sockets are non-blocking.

        :param stream: commands in, reports out.
        :param stop: readable when a signal says that this is the end.
        :param interval_s: seconds between reports.
        """
        self._stream = stream
        self._stop = stop
        self._loop = loop
        self._interval_s = interval_s
        self._frames = FrameReader()
        self._filled = False
        self._ended = False
        self._reported = Counters.zero()
        self._unsent = bytearray()
        self._next_used = math.inf
        self._told = 0
        """Sources that were told of in this round of reports."""

    def run(self) -> None:
        """Work until the stream ends or a signal comes.

        :raises ChannelError: the control process talks nonsense.
        """
        commands = select.poll()
        for each in (self._stream, self._stop):
            commands.register(each, select.POLLIN)
        self._unsent += encode_report(Loaded())
        self._flush()
        while not self._filled and not self._ended:
            # Until the table is complete, datagrams wait in their sockets: an unknown connection
            # ID may be one that we have not been told yet.
            commands.poll()
            self._turn()
        next_counters = next_heard = time.monotonic() + self._interval_s
        while not self._ended:
            self._loop.forward(min(next_counters, next_heard, self._next_used))
            self._turn()
            now = time.monotonic()
            self._report_used(now)
            if now >= next_counters:
                next_counters = now + self._interval_s
                if not self._unsent:  # else the control process is behind: totals can wait
                    self._report_counters()
                    self._flush()
            if now >= next_heard:
                next_heard = now + self._report_heard()
        self._say_farewell()

    def _turn(self) -> None:
        self._flush()
        with contextlib.suppress(BlockingIOError):
            self._stop.recv(1)
            self._ended = True
        try:
            data = self._stream.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._ended = True
        for command in self._frames.commands(data):
            if isinstance(command, Sync):
                self._synchronise(command.number)
            else:
                self._loop.apply(command)

    def _synchronise(self, number: int) -> None:
        self._filled = True
        self._report_counters()
        self._unsent += encode_report(Synced(number))
        self._flush()

    def _report_heard(self) -> float:
        """Tell of some sources; returns in how many seconds to go on."""
        if self._unsent:
            return self._interval_s  # the control process is behind; sources can wait
        sources = self._loop.take_heard(_HEARD_EACH)
        sent = self._loop.take_sent(_HEARD_EACH)
        if sources:
            self._unsent += encode_report(Heard(tuple(sources)))
        if sent:
            self._unsent += encode_report(Forwarded(tuple(sent)))
        self._flush()
        self._told += max(len(sources), len(sent))
        if _HEARD_EACH in (len(sources), len(sent)):
            return _HEARD_PAUSE_S
        told, self._told = self._told, 0
        return max(self._interval_s, told * _HEARD_REST_S)

    def _report_used(self, now: float) -> None:
        """Tell what the senders were charged, if any are."""
        if now < self._next_used < math.inf:
            return
        is_metered = self._loop.is_metered
        self._next_used = now + USED_INTERVAL_S if is_metered else math.inf
        if is_metered and not self._unsent:  # else it is told together with what follows
            used = self._loop.take_used(_USED_EACH)
            if used:
                self._unsent += encode_report(Taken(tuple(used)))
                self._flush()

    def _report_counters(self) -> None:
        counters = self._loop.counters()
        if counters != self._reported:
            self._reported = counters
            self._unsent += encode_report(counters)

    def _flush(self) -> None:
        if not self._unsent:
            return
        try:
            del self._unsent[: self._stream.send(self._unsent)]
        except BlockingIOError:
            return
        except ConnectionError:  # nobody reads any more
            self._unsent.clear()
            self._ended = True

    def _say_farewell(self) -> None:
        self._report_counters()
        self._stream.settimeout(_FAREWELL_S)
        with contextlib.suppress(OSError):
            self._stream.sendall(self._unsent)


def run_worker(arguments: Sequence[str], make_loop: MakeLoop) -> int:
    """Take over inherited descriptors and work; returns the exit code.

    :param arguments: report interval in seconds, then descriptors: stream, way up, and the UDP
        sockets by listener.
    """
    try:
        interval_s = float(arguments[0])
        stream, up, *udp = (_inherit(int(each)) for each in arguments[1:])
    except (ValueError, IndexError, OSError):
        sys.stderr.write("relay.forwarding.worker: quicpipe-relay starts it; it is no use alone\n")
        return 2
    stop = _catch_signals()
    # Nothing here makes cycles, and to look for some stops the forwarding.
    gc.disable()
    loop = make_loop(udp, up, [stream.fileno(), stop.fileno()])
    try:
        Worker(stream, stop, loop, interval_s).run()
    except ChannelError as error:
        sys.stderr.write(f"relay.forwarding.worker: {error}\n")
        return 1
    return 0


def _inherit(descriptor: int) -> socket.socket:
    inherited = socket.socket(fileno=descriptor)
    inherited.setblocking(False)
    return inherited


def _catch_signals() -> socket.socket:
    """SIGTERM makes the returned socket readable. A terminal's signals are the control process's.

    The kernel ends this process when the control process dies, should the end of the stream go
    unnoticed.
    """
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    readable, writable = socket.socketpair()
    readable.setblocking(False)
    writable.setblocking(False)

    def end(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            writable.send(b".")

    signal.signal(signal.SIGTERM, end)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return readable


if __name__ == "__main__":
    sys.exit(run_worker(sys.argv[1:], make_loop))
