"""One stream of a pipe: bytes in order, with back-pressure in both directions."""

import copy
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from .errors import CloseCode, PeersError, StreamReset, UsageError
from .quic.connection import PeerConnection
from .waiters import Waiters

HIGH_WATERMARK = 1024 * 1024
"""`Stream.write` waits while so many bytes are not acknowledged yet…"""
LOW_WATERMARK = HIGH_WATERMARK // 2
"""…until they have become so few."""
PIECE = 256 * 1024
"""What is written at a time: so no stream holds more than `HIGH_WATERMARK + PIECE` bytes."""


class Carrier(Protocol):
    """What a stream asks of its pipe."""

    @property
    def quic(self) -> PeerConnection:
        """The connection."""

    @property
    def error(self) -> PeersError | None:
        """How the pipe ended; None while it has not."""

    def schedule(self) -> None:
        """There may be something to send."""

    def watch(self, stream: "Stream") -> None:
        """Call the stream's `progress` after each batch, until it returns False."""

    def finished(self, stream: "Stream") -> None:
        """Both directions are over."""


class Stream:
    """Made by a pipe, with `open_stream` or `accept_stream`.

    Unidirectional streams are only written where they were opened, and only read at the other end.
    Reading and writing can be cancelled at any time: a cancelled `read` has taken nothing. What has
    arrived can be read even after the pipe was closed.
    """

    def __init__(self, carrier: Carrier, stream_id: int, *, readable: bool, writable: bool) -> None:
        self._carrier = carrier
        self._id = stream_id
        self._readable = readable
        self._writable = writable

        self._chunks: deque[bytes] = deque()  # received, not read
        self._offset = 0  # bytes of the first chunk that were read
        self._unread = 0  # bytes in them that were not
        self._end_received = not readable  # FIN: no more will come
        self._receive_error: StreamReset | None = None  # the same, unfinished
        self._readers = Waiters()

        self._end_written = False  # FIN
        self._send_error: StreamReset | None = None
        self._sending_over = not writable  # FIN or reset acknowledged
        self._writers = Waiters()
        self._is_accepted = True  # False while it waits for the application
        self._is_finished = False

    @property
    def id(self) -> int:
        """RFC 9000 §2.1; unique in its pipe."""
        return self._id

    @property
    def is_readable(self) -> bool:
        """Whether it can be read at this end."""
        return self._readable

    @property
    def is_writable(self) -> bool:
        """Whether it can be written at this end."""
        return self._writable

    @property
    def unread(self) -> int:
        """Bytes that have arrived and wait to be read."""
        return self._unread

    async def read(self, limit: int = 65536) -> bytes:
        """The next 1 to `limit` bytes, as soon as there are any; `b""`: the end.

        What is not read holds the other end back: it may send a few MiB ahead.

        :raises StreamReset: the other end gave the stream up, or `stop` was called here.
        :raises PipeClosed: the pipe ended before the stream did.
        :raises UsageError: the stream cannot be read at this end.
        """
        if not self._readable:
            raise UsageError("this stream can only be written here: it is unidirectional")
        if limit < 1:
            raise ValueError("the limit must be 1 or more")
        while not self._chunks:
            if self._receive_error is not None:
                raise copy.copy(self._receive_error)
            if self._end_received:
                return b""
            if self._carrier.error is not None:
                raise copy.copy(self._carrier.error)
            await self._readers.wait()
        return self._take(limit)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """What is read, to the end."""
        while data := await self.read():
            yield data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes: they are taken when it returns, not acknowledged, perhaps not even sent.

        Before the pipe is closed, `write_eof` and `drain_acknowledged`: closing drops the rest.
        Waits while more than `HIGH_WATERMARK` bytes of the stream are unacknowledged. If it is
        cancelled it has taken a part: nothing, or whole multiples of `PIECE`.

        :raises StreamReset: the other end wants no more of it, or `reset` was called here.
        :raises PipeClosed: the pipe has ended.
        :raises UsageError: after `write_eof`, or if the stream cannot be written at this end.
        """
        self._check_writable()
        if isinstance(data, bytes) and len(data) <= PIECE:
            await self._write_piece(data)
            return
        with memoryview(data) as view, view.cast("B") as octets:
            for start in range(0, len(octets), PIECE):
                await self._write_piece(bytes(octets[start : start + PIECE]))

    def write_eof(self) -> None:
        """Send FIN: no more will be written. A second call does nothing.

        :raises: as `write`.
        """
        if self._end_written and self._send_error is None:
            return
        self._check_writable()
        self._end_written = True
        self._carrier.quic.send_stream_data(self._id, b"", end_stream=True)
        self._carrier.watch(self)
        self._carrier.schedule()

    async def drain_acknowledged(self) -> None:
        """Wait until the other end has acknowledged everything written so far, FIN included.

        After that nothing is lost if the pipe is closed. (That the other application has read it,
        only it can say.)

        :raises StreamReset: it never will.
        :raises PipeClosed: the pipe ended before.
        """
        while not self._is_drained():
            if self._send_error is not None:
                raise copy.copy(self._send_error)
            if self._carrier.error is not None:
                raise copy.copy(self._carrier.error)
            self._carrier.watch(self)
            await self._writers.wait()

    def reset(self, code: int = CloseCode.FAILED) -> None:
        """Give up writing: what is not acknowledged is lost, the other end's reads fail.

        :raises UsageError: for a code that QUIC has no room for.
        """
        check_code(code)
        if not self._writable or self._sending_over or self._send_error is not None:
            return
        self._send_error = StreamReset("writing to this stream was given up here", code)
        if self._carrier.error is None:
            self._carrier.quic.reset_stream(self._id, code)
            self._carrier.watch(self)
            self._carrier.schedule()
        self._writers.wake()

    def stop(self, code: int = CloseCode.FAILED) -> None:
        """Give up reading: what comes is thrown away, and the other end is asked to stop.

        :raises UsageError: for a code that QUIC has no room for.
        """
        check_code(code)
        if not self._readable or self._receive_error is not None:
            return
        self._receive_error = StreamReset("reading this stream was given up here", code)
        unread = self._discard_unread()
        if self._carrier.error is None:
            self._carrier.quic.consumed(self._id, unread)
            if not self._end_received:
                self._carrier.quic.give_up_receiving(self._id, code)
            self._carrier.schedule()
        self._readers.wake()
        self._check_finished()

    # What the pipe calls.

    def hold(self) -> None:
        """The other end has opened it: it is not over before the application has accepted it.

        So streams that wait for that are limited in number, even if they end at once.
        """
        self._is_accepted = False

    def accept(self) -> None:
        """The application has it now."""
        self._is_accepted = True
        if self._carrier.error is None:
            self._check_finished()

    def feed(self, data: bytes, *, is_end: bool) -> None:
        """Bytes have arrived."""
        self._end_received = self._end_received or is_end
        if self._receive_error is not None:
            self._carrier.quic.consumed(self._id, len(data))
        elif data:
            self._chunks.append(data)
            self._unread += len(data)
        self._readers.wake()
        self._check_finished()

    def feed_reset(self, code: int) -> None:
        """The other end gave up writing. What was not read is of no use any more."""
        self._end_received = True
        self._discard_unread()
        if self._receive_error is None:
            self._receive_error = StreamReset(
                f"the other peer gave this stream up, with code {code}", code
            )
        self._carrier.quic.end_receiving(self._id)
        self._readers.wake()
        self._check_finished()

    def feed_stop(self, code: int) -> None:
        """The other end wants no more. QUIC has answered with a reset by itself."""
        if self._send_error is None:
            self._send_error = StreamReset(
                f"the other peer wants no more of this stream, code {code}", code
            )
        self._carrier.watch(self)
        self._writers.wake()

    def progress(self) -> bool:
        """Something may have been acknowledged. Returns whether to call it again next time."""
        quic = self._carrier.quic
        if self._end_written or self._send_error is not None:
            self._sending_over = self._sending_over or quic.is_sending_finished(self._id)
        if self._is_drained() or quic.unacknowledged(self._id) <= LOW_WATERMARK:
            self._writers.wake()
        self._check_finished()
        is_ending = self._end_written or self._send_error is not None
        return (is_ending and not self._sending_over) or len(self._writers) > 0

    def pipe_ended(self) -> None:
        """The pipe's `error` is set: nothing more will happen."""
        self._readers.wake()
        self._writers.wake()

    # Own

    def _take(self, limit: int) -> bytes:
        taken: list[bytes] = []
        size = 0
        while self._chunks and size < limit:
            chunk = self._chunks[0]
            part = chunk[self._offset : self._offset + limit - size]
            self._offset += len(part)
            if self._offset == len(chunk):
                self._chunks.popleft()
                self._offset = 0
            taken.append(part)
            size += len(part)
        self._unread -= size
        if self._carrier.error is None:
            if self._carrier.quic.consumed(self._id, size):
                self._carrier.schedule()
            self._check_finished()
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _discard_unread(self) -> int:
        unread, self._unread = self._unread, 0
        self._chunks.clear()
        self._offset = 0
        return unread

    async def _write_piece(self, data: bytes) -> None:
        quic = self._carrier.quic
        if quic.unacknowledged(self._id) >= HIGH_WATERMARK:
            while quic.unacknowledged(self._id) > LOW_WATERMARK:
                self._carrier.watch(self)
                await self._writers.wait()
                self._check_writable()
        if data:
            quic.send_stream_data(self._id, data)
            self._carrier.schedule()

    def _check_writable(self) -> None:
        if not self._writable:
            raise UsageError("this stream can only be read here: it is unidirectional")
        if self._send_error is not None:
            raise copy.copy(self._send_error)
        if self._carrier.error is not None:
            raise copy.copy(self._carrier.error)
        if self._end_written:
            raise UsageError("nothing can be written to a stream after its end")

    def _is_drained(self) -> bool:
        if self._send_error is not None:
            return False
        quic = self._carrier.quic
        if self._end_written:
            return self._sending_over or quic.is_sending_finished(self._id)
        return quic.unacknowledged(self._id) == 0

    def _check_finished(self) -> None:
        reading_over = self._end_received and not self._chunks
        is_over = reading_over and self._sending_over and self._is_accepted
        if is_over and not self._is_finished:
            self._is_finished = True
            self._carrier.finished(self)


def check_code(code: int) -> None:
    """:raises UsageError: for an error code outside 0 to 2⁶²-1 (RFC 9000 §20.2)."""
    if not 0 <= code < 1 << 62:
        raise UsageError(f"an error code is a number from 0 to 2^62-1, and {code} is not")
