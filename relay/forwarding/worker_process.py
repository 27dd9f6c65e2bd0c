"""One worker as the control process sees it: its process, its two channels, its last report."""

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from relay.core.bucket import Charge, Used
from relay.forwarding.channel import (
    MAX_UP_DATAGRAM,
    UP_HEADER_SIZE,
    ChannelError,
    Counters,
    Forwarded,
    FrameReader,
    Heard,
    Loaded,
    RatesSet,
    SendersCounted,
    Sent,
    Sync,
    Synced,
    Taken,
    UpMessage,
    decode_up,
    encode_command,
)
from relay.forwarding.feed import EncodedChange, Feed, StateSource
from relay.wire.address import Address

logger = logging.getLogger(__name__)

UP_BUFFER = 2**20
"""Bytes, as the system counts them, of datagrams for HTTP/3 that wait for the control process."""

MAX_USED = 100_000
"""Reports of buckets that wait until somebody asks for them; more are thrown away."""

MAX_WAITING = 32 * 2**20
"""Bytes of commands that wait for a worker; one that is further behind is replaced."""

_WRITE_SIZE = 65_536
_READ_SIZE = 65_536
_UP_BATCH = 64
"""Datagrams that one worker passes up before the event loop turns to something else."""
_REAP_PAUSE_S = 0.005
_EXIT_PATIENCE_S = 0.3
"""Seconds between the end of a worker's stream and the end of its process; then it is killed."""

_PACKAGE_PARENT = FilePath(__file__).resolve().parents[2]
"""Where `python -m relay.forwarding.worker` finds the same code, wherever the relay was started."""


@dataclass(frozen=True, slots=True)
class WorkerEvents:
    """What a worker process tells its supervisor. None of these may raise."""

    passed_up: Callable[[UpMessage], None]
    heard: Callable[[Iterable[Address]], None]
    synced: Callable[["WorkerProcess", int], None]
    """It has followed all commands before the `Sync` of this number; 0: it forwards now."""
    loaded: Callable[[], None]
    """It has all that it needs but its table."""
    forwarded: Callable[[Iterable[Sent]], None]
    """Senders have had so much more forwarded; only if they are to be counted."""
    ended: Callable[["WorkerProcess"], None]
    """It has ended, or is of no use any more. Nothing follows."""


class WorkerProcess:
    """Starts one worker, feeds it, and reads what it reports. Made and used in an event loop."""

    def __init__(
        self,
        index: int,
        command: Sequence[str],
        sockets: Sequence[socket.socket],
        feed: Feed,
        events: WorkerEvents,
    ) -> None:
        """Start it: the numbers of its descriptors are appended to `command`.

        :raises OSError: the system could not.
        """
        self.index = index
        self.counters = Counters.zero()
        """What it last reported."""
        self._used: list[Used] = []
        self.answered = -1
        """The number of the last `Sync` that it has answered."""
        self.is_loaded = False
        """Whether it has all that it needs but its table."""
        self._asked = 0
        self._progress_at = asyncio.get_running_loop().time()
        self._feed = feed
        self._events = events
        self._frames = FrameReader()
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._stream, stream = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._up, up = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with stream, up:
            try:
                up.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UP_BUFFER)
                self._process = _start(command, (stream, up, *sockets))
            except BaseException:
                self._stream.close()
                self._up.close()
                raise
        for each in (self._stream, self._up):
            each.setblocking(False)
        self._loop.add_reader(self._stream, self._read_reports)
        self._loop.add_reader(self._up, self._read_up)
        self._loop.add_writer(self._stream, self._write)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def change(self, changes: Iterable[EncodedChange]) -> None:
        """Tell it what changed; never blocks."""
        if not self._ended:
            self._feed.change(changes)
            self._wrote_more()

    def begin(self, state: StateSource) -> None:
        """Fill it, if its feed had no state."""
        if not self._ended:
            self._feed.begin(state)
            self._wrote_more()

    def set_rates(self, charges: Sequence[Charge]) -> None:
        """Tell it how fast its buckets are filled; never blocks."""
        if not self._ended:
            self._feed.append(encode_command(RatesSet(tuple(charges))))
            self._wrote_more()

    def count_senders(self) -> None:
        """Let it report what each sender has had forwarded."""
        if not self._ended:
            self._feed.append(encode_command(SendersCounted()))
            self._wrote_more()

    def take_used(self) -> list[Used]:
        """What it has reported of its buckets since it was asked last."""
        used, self._used = self._used, []
        return used

    def _keep(self, used: Sequence[Used]) -> None:
        if len(self._used) < MAX_USED:  # else nobody asks
            self._used.extend(used)

    def ask(self) -> int:
        """Send a `Sync`; returns its number."""
        if self.answered == self._asked:
            self._progress_at = self._loop.time()
        self._asked += 1
        if not self._ended:
            self._feed.append(encode_command(Sync(self._asked)))
            self._wrote_more()
        return self._asked

    @property
    def asked(self) -> int:
        """The number of the last `Sync` that was sent; the first, 0, goes by itself."""
        return self._asked

    @property
    def stalled_s(self) -> float:
        """For how many seconds it has neither taken commands nor reported, though it had to."""
        if self.answered == self._asked:
            return 0.0
        return self._loop.time() - self._progress_at

    def finish(self) -> None:
        """Let it report a last time and end: `ended` follows."""
        if not self._ended:
            self._loop.remove_writer(self._stream)
            with contextlib.suppress(OSError):
                self._stream.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it at once; `ended` is called before this returns, unless it was before."""
        if self._process.poll() is None:
            self._process.kill()
        self._end()

    async def reap(self) -> int:
        """Wait until the process that has ended is gone; returns its exit code, as Popen does."""
        deadline = self._loop.time() + _EXIT_PATIENCE_S
        while (code := self._process.poll()) is None:
            if self._loop.time() >= deadline:
                self._process.kill()
            await asyncio.sleep(_REAP_PAUSE_S)
        return code

    def _wrote_more(self) -> None:
        if len(self._feed) > MAX_WAITING:
            logger.error("worker %d is %d bytes behind", self.index, len(self._feed))
            self.kill()
        else:
            self._write()

    def _write(self) -> None:
        """Send what the socket takes now; one piece per turn of the event loop."""
        data = self._feed.next_bytes(_WRITE_SIZE)
        if not data:
            self._loop.remove_writer(self._stream)
            return
        try:
            self._feed.sent(self._stream.send(data))
            self._progress_at = self._loop.time()
        except BlockingIOError:
            pass
        except OSError:  # it has ended: the reader notices
            self._loop.remove_writer(self._stream)
            return
        self._loop.add_writer(self._stream, self._write)

    def _read_reports(self) -> None:
        try:
            data = self._stream.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._progress_at = self._loop.time()
        try:
            for report in self._frames.reports(data):
                match report:
                    case Counters():
                        self.counters = report
                    case Heard(sources):
                        self._events.heard(sources)
                    case Forwarded(sent):
                        self._events.forwarded(sent)
                    case Taken(used):
                        self._keep(used)
                    case Loaded():
                        self.is_loaded = True
                        self._events.loaded()
                    case Synced(number):
                        self.answered = number
                        self._events.synced(self, number)
        except ChannelError as error:
            logger.error("worker %d: %s", self.index, error)
            self.kill()

    def _read_up(self) -> None:
        for _ in range(_UP_BATCH):
            if self._ended:
                return
            try:
                message = self._up.recv(UP_HEADER_SIZE + MAX_UP_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:  # the worker has ended: the stream tells
                self._loop.remove_reader(self._up)
                return
            try:
                self._events.passed_up(decode_up(message))
            except ChannelError as error:
                logger.error("worker %d: %s", self.index, error)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._stream)
        self._loop.remove_reader(self._up)
        self._loop.remove_writer(self._stream)
        self._stream.close()
        self._up.close()
        self._events.ended(self)


def _start(command: Sequence[str], sockets: Sequence[socket.socket]) -> subprocess.Popen[bytes]:
    descriptors = [each.fileno() for each in sockets]
    return subprocess.Popen(
        [*command, *map(str, descriptors)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=_PACKAGE_PARENT,
        process_group=0,  # Ctrl-C is for the control process, even before the worker ignores it
    )
