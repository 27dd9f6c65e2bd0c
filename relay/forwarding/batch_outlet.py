"""The sending side of one listener: message headers filled as arrays, many sent at a time."""

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relay.forwarding import ancillary
from relay.forwarding.batch_buffers import Bytes, SendMessages, Words, addresses_of_rows
from relay.forwarding.batch_calls import (
    CONTROL,
    CONTROL_LENGTH,
    HEADER_WORDS,
    PARTS,
    SOL_UDP,
    UDP_SEGMENT,
    BatchCalls,
)
from relay.forwarding.batch_table import Rows, encode_control

_ECN_SPACE = socket.CMSG_SPACE(4)
_SEGMENT_SPACE = socket.CMSG_SPACE(2)
_HEADER = socket.CMSG_LEN(0)


@dataclass(slots=True)
class Staged:
    """Messages to send, as columns."""

    starts: Words
    """Addresses of their first bytes."""
    lengths: NDArray[np.unsignedinteger]
    rows: NDArray[np.intp]
    """Rows of their destinations."""
    ecn: NDArray[np.uint8] | None
    """ECN bits; None: all zero."""
    segments: NDArray[np.uint16] | None
    """Size of the datagrams that the message is cut into, 0: it is one. None: all are."""

    def pick(self, which: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Staged":
        """Some of them, in order."""
        return Staged(
            self.starts[which],
            self.lengths[which],
            self.rows[which],
            None if self.ecn is None else self.ecn[which],
            None if self.segments is None else self.segments[which],
        )


class Pieces:
    """Messages to send, gathered one by one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self._rows: list[int] = []
        self._ecn: list[int] = []
        self._segments: list[int] = []

    def add(self, start: int, length: int, row: int, ecn: int, segment: int) -> None:
        """Bytes from address `start` on, cut into datagrams of `segment` bytes unless that is 0."""
        self._starts.append(start)
        self._lengths.append(length)
        self._rows.append(row)
        self._ecn.append(ecn)
        self._segments.append(segment if segment < length else 0)

    def staged(self, at_most: int, *, cut: bool) -> Iterator[tuple[Staged, int, int]]:
        """At most so many messages at a time, with their number of datagrams and bytes.

        :param cut: whether the kernel may cut them; else they are cut here.
        """
        if not cut and any(self._segments):
            yield from self._cut().staged(at_most, cut=True)
            return
        for first in range(0, len(self._starts), at_most):
            some = slice(first, first + at_most)
            lengths, ecn, segments = self._lengths[some], self._ecn[some], self._segments[some]
            staged = Staged(
                np.array(self._starts[some], np.uint64),
                np.array(lengths, np.uint64),
                np.array(self._rows[some]),
                np.array(ecn, np.uint8) if any(ecn) else None,
                np.array(segments, np.uint16) if any(segments) else None,
            )
            datagrams = sum(
                -(-length // segment) if segment else 1
                for length, segment in zip(lengths, segments, strict=True)
            )
            yield staged, datagrams, sum(lengths)

    def _cut(self) -> "Pieces":
        pieces = Pieces()
        for start, length, row, ecn, segment in zip(
            self._starts, self._lengths, self._rows, self._ecn, self._segments, strict=True
        ):
            step = segment or length or 1
            for offset in range(0, length or 1, step):
                pieces.add(start + offset, min(step, length - offset), row, ecn, 0)
        return pieces


class Outlet:
    """Sends from one socket."""

    def __init__(
        self, sock: socket.socket, choose_source: bool, calls: BatchCalls, count: int
    ) -> None:
        """`count`: messages that are sent at a time, at most."""
        self.count = count
        self._fd = sock.fileno()
        self._calls = calls
        self._messages = SendMessages(count)
        is_v4 = sock.family == socket.AF_INET
        example = ancillary.to_send(
            "192.0.2.1" if is_v4 else "2001:db8::1", ecn=3, choose_source=choose_source
        )
        segment = (SOL_UDP, UDP_SEGMENT, bytes(2))
        template = encode_control([*example, segment])
        self._control: Bytes = np.zeros((count, len(template)), np.uint8)
        self._control[:] = np.frombuffer(template, np.uint8)
        self._control_addresses = addresses_of_rows(self._control)
        self._source_size = len(template) - _SEGMENT_SPACE - _ECN_SPACE
        self._ecn: Bytes = self._control[:, self._source_size + _HEADER]
        at_segment = self._source_size + _ECN_SPACE + _HEADER
        self._segment = self._control[:, at_segment : at_segment + 2].view(np.uint16)[:, 0]
        # For `send_one`: an element of a memoryview is quicker than one of an array.
        self._words = self._messages.headers.data.cast("B").cast("Q")
        self._part_words = self._messages.parts.data.cast("B").cast("Q")
        self._first_part = int(self._messages.part_addresses[0])
        self._control_bytes = self._control.data.cast("B")
        self._first_control = int(self._control_addresses[0])

    def send(self, staged: Staged, rows: Rows) -> list[tuple[int, int]]:
        """Send `staged`, at most `count`; returns which were not sent: position and errno."""
        count = len(staged.lengths)
        messages = self._messages
        headers = messages.headers[:count]
        rows.headers.take(staged.rows, axis=0, out=headers, mode="clip")
        headers[:, PARTS] = messages.part_addresses[:count]
        messages.parts[:count, 0] = staged.starts
        messages.parts[:count, 1] = staged.lengths
        if staged.ecn is not None or staged.segments is not None:
            self._control_data(staged, rows)
        return self._send(count)

    def send_one(self, start: int, length: int, row: int, ecn: int, rows: Rows) -> int:
        """Send one datagram from address `start`; returns 0, or the errno if it was not sent."""
        words, parts = self._words, self._part_words
        words[:HEADER_WORDS] = rows.words[row * HEADER_WORDS : (row + 1) * HEADER_WORDS]
        words[PARTS] = self._first_part
        parts[0], parts[1] = start, length
        if ecn:
            size = self._source_size
            self._control_bytes[:size] = rows.source(row, size)
            self._control_bytes[size + _HEADER] = ecn
            words[CONTROL], words[CONTROL_LENGTH] = self._first_control, size + _ECN_SPACE
        failures = self._send(1)
        return failures[0][1] if failures else 0

    def _control_data(self, staged: Staged, rows: Rows) -> None:
        count = len(staged.lengths)
        size = self._source_size
        if size:
            self._control[:count, :size] = rows.sources[staged.rows, :size]
        self._ecn[:count] = 0 if staged.ecn is None else staged.ecn
        headers = self._messages.headers
        headers[:count, CONTROL] = self._control_addresses[:count]
        if staged.segments is None:
            headers[:count, CONTROL_LENGTH] = size + _ECN_SPACE
            return
        self._segment[:count] = staged.segments
        headers[:count, CONTROL_LENGTH] = np.where(
            staged.segments > 0, size + _ECN_SPACE + _SEGMENT_SPACE, size + _ECN_SPACE
        )

    def _send(self, count: int) -> list[tuple[int, int]]:
        failures: list[tuple[int, int]] = []
        done = 0
        while done < count:
            address = self._messages.address + done * self._messages.headers.strides[0]
            sent = self._calls.send(self._fd, address, count - done, socket.MSG_DONTWAIT)
            if sent > 0:
                done += sent
            elif sent != -errno.EINTR:
                # The call told how many went before the one that failed; now it tells why.
                failures.append((done, -sent))
                done += 1
        return failures
