"""The command's standard streams: binary, bounded, and never in the event loop's way.

A terminal, a file or a pipe cannot all be waited for by an event loop, and to make them
non-blocking would change them for every process that shares them. So one thread reads and another
writes. Both are daemons: one that hangs in a system call does not keep the process alive.
"""

import asyncio
import contextlib
import io
import os
import queue
import stat
import sys
import threading
from collections.abc import Callable, Iterator

from ..errors import FileUnusable

CHUNK = 65536
"""Bytes read at a time: what a pipe of the system holds."""
READ_AHEAD = 4
"""Chunks read from standard input before they are asked for."""
WRITE_BEHIND = 16
"""Chunks accepted for standard output before they are written."""

_closed: set[int] = set()
"""The standard descriptors that were closed when the command started."""


def say(message: str) -> None:
    """Tell the user something, on standard error, as one line."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"quicpipe: {message}\n")
        sys.stderr.flush()


def say_on_terminal(message: str) -> None:
    """Tell somebody who sits there and waits; a log or a script does not need it."""
    with contextlib.suppress(ValueError):
        if sys.stderr.isatty():
            say(message)


def put(text: str) -> None:
    """Write text to standard output, straight to its descriptor.

    :raises FileUnusable: if nobody reads it, or it cannot be written.
    """
    data = text.encode()
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError as error:
        raise FileUnusable(f"cannot write to standard output: {error.strerror}") from None


def require_output() -> None:
    """Refuse a standard output that was closed (`>&-`), before anything is made or used up.

    :raises FileUnusable: if it was, when `occupy_standard_descriptors` looked.
    """
    if 1 in _closed:
        raise FileUnusable(
            "standard output is closed: send it to a file, or to /dev/null if nobody needs it"
        )


def occupy_standard_descriptors() -> None:
    """Open what the shell closed (`>&-`) on /dev/null: else a socket would get its number."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.open(os.devnull, os.O_RDWR)
            _closed.add(descriptor)
        if getattr(sys, name) is None:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal knows all our letters


class Source:
    """Standard input, or any other descriptor, read by a thread of its own."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._demand = threading.Semaphore(READ_AHEAD)
        self._ended = False
        threading.Thread(target=self._run, name="standard input", daemon=True).start()

    @property
    def is_terminal(self) -> bool:
        """Whether somebody types it."""
        return _is_terminal(self._descriptor)

    def end(self) -> None:
        """Take no more of it: after what has been read by now comes the end."""
        self._chunks.put_nowait(b"")

    async def read(self) -> bytes:
        """The next bytes, at most `CHUNK`; b"" at the end, then and for ever.

        :raises FileUnusable: if it cannot be read.
        """
        if self._ended:
            return b""
        chunk = await self._chunks.get()
        self._demand.release()
        if isinstance(chunk, OSError):
            self._ended = True
            raise FileUnusable(f"cannot read standard input: {chunk.strerror}")
        self._ended = not chunk
        return chunk

    def _run(self) -> None:
        more = True
        while more:
            self._demand.acquire()
            try:
                chunk: bytes | OSError = os.read(self._descriptor, CHUNK)
            except OSError as error:
                chunk = error
            more = bool(chunk) and not isinstance(chunk, OSError)
            more = _tell(self._loop, self._chunks.put_nowait, chunk) and more


class Sink:
    """Standard output, or any other descriptor, written by a thread of its own."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(WRITE_BEHIND)
        self._failure: OSError | None = None
        threading.Thread(target=self._run, name="standard output", daemon=True).start()

    @property
    def is_broken(self) -> bool:
        """Whether nothing can be written any more."""
        return self._failure is not None

    @property
    def is_terminal(self) -> bool:
        """Whether somebody sees it."""
        return _is_terminal(self._descriptor)

    async def write(self, data: bytes) -> None:
        """Have it written; waits while much is unwritten.

        :raises BrokenPipeError: if nobody reads it any more. What was unwritten is lost.
        :raises FileUnusable: if it cannot be written for another reason (a full disk).
        """
        await self._room.acquire()
        if self._failure is not None:
            self._room.release()
            raise self._explain(self._failure)
        self._chunks.put(data)

    async def flush(self) -> None:
        """Wait until everything is written. Raises as `write` does."""
        for _ in range(WRITE_BEHIND):
            await self._room.acquire()
        for _ in range(WRITE_BEHIND):
            self._room.release()
        if self._failure is not None:
            raise self._explain(self._failure)

    def _explain(self, failure: OSError) -> Exception:
        if isinstance(failure, BrokenPipeError):
            return BrokenPipeError(failure.errno, failure.strerror)
        return FileUnusable(f"cannot write to standard output: {failure.strerror}")

    def _run(self) -> None:
        alive = True
        while alive:
            data = memoryview(self._chunks.get())
            try:
                while data and self._failure is None:
                    data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                self._failure = error
            alive = _tell(self._loop, self._room.release)


@contextlib.contextmanager
def noticing_closed_output(call: Callable[[], None], descriptor: int = 1) -> Iterator[None]:
    """Call something, once, if standard output is a pipe and its reader goes away meanwhile."""
    loop = asyncio.get_running_loop()

    def notice() -> None:
        loop.remove_reader(descriptor)
        call()

    try:
        # A pipe's writing end is never readable: what wakes us is the reader's end (POLLERR).
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        if is_pipe:
            loop.add_reader(descriptor, notice)
    except OSError:
        is_pipe = False
    try:
        yield
    finally:
        if is_pipe:
            loop.remove_reader(descriptor)


async def in_daemon_thread(call: Callable[[], object]) -> None:
    """Run what may hang in a thread that a cancellation, or the process's end, leaves behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            call()
        except Exception as error:
            _tell(loop, _settle, done, error)
        else:
            _tell(loop, _settle, done, None)

    threading.Thread(target=run, name="in_daemon_thread", daemon=True).start()
    await done


def _is_terminal(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(descriptor)
    return False


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *values: object) -> bool:
    """Call something in the loop's thread; False if the loop has ended meanwhile."""
    try:
        loop.call_soon_threadsafe(call, *values)
    except RuntimeError:
        return False
    return True
