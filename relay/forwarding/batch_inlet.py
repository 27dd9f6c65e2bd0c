"""The receiving side of one listener: a batch of datagrams, and what is read of it in one step."""

import socket
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relay.forwarding import ancillary
from relay.forwarding.batch_buffers import Bytes, ReceiveBuffers, Words, addresses_of_rows
from relay.forwarding.batch_calls import (
    CONTROL_LENGTH,
    HEADER_WORDS,
    LENGTH,
    SOL_UDP,
    UDP_GRO,
    BatchCalls,
)
from relay.forwarding.batch_outlet import Staged
from relay.forwarding.batch_table import (
    NAME_SIZES,
    SourceKey,
    address_of_name,
    decode_control,
    encode_control,
    key_of_name,
)
from relay.wire.address import Address
from relay.wire.connection_id import CONNECTION_ID_LENGTH
from relay.wire.invariants import LONG_HEADER_BIT, SHORT_HEADER_MINIMUM

_SIZE = 65_536
"""No UDP datagram is longer, nor what GRO makes of several."""
_CONTROL_SIZE = 128
_HEADER = socket.CMSG_LEN(0)
_NO_WAIT = socket.MSG_DONTWAIT
_ECN_MASK = np.uint8(ancillary.ECN_MASK)
_LOW_HALF = 0xFFFF_FFFF
_LONGEST_INVARIANTS = 7 + 2 * 255
"""Bytes of the longest header that RFC 8999 §5.1 allows."""


class Inlet:
    """Receives from one socket."""

    def __init__(
        self, sock: socket.socket, tells_local: bool, calls: BatchCalls, count: int
    ) -> None:
        """`tells_local`: the socket is a wildcard's; `count`: messages in a batch at most."""
        self._fd = sock.fileno()
        self._calls = calls
        self.count = count
        name_size = NAME_SIZES[sock.family]
        buffers = self._buffers = ReceiveBuffers(count, _SIZE, name_size, _CONTROL_SIZE)
        data = buffers.data
        step = (data.strides[0],)
        self._starts: Words = addresses_of_rows(data)
        self.addresses: list[int] = self._starts.tolist()
        """Where each message begins."""
        self._lengths = buffers.lengths
        self._first = data[:, 0]
        self._cids = np.ndarray((count,), f"V{CONNECTION_ID_LENGTH}", data, 1, step)
        self._keys: NDArray[np.generic]
        if sock.family == socket.AF_INET:
            self._keys = buffers.names.view(np.int64)[:, 0]
        else:
            self._keys = buffers.names.view(f"V{name_size}")[:, 0]
        self._expect(sock.family == socket.AF_INET, tells_local)
        self._make_views()

    def receive(self) -> int:
        """Take a batch; returns how many messages, 0 for none."""
        self._buffers.rearm()
        return max(0, self._calls.receive(self._fd, self._buffers.address, self.count, _NO_WAIT))

    def single(self, index: int) -> tuple[int, SourceKey, bytes, int] | None:
        """Size, sender, first 13 bytes and ECN bits of a message, if it is plain as in `are_plain`.

        For a message or two this is three times as quick as the steps on arrays.
        """
        if self._words[index * HEADER_WORDS + CONTROL_LENGTH] != self._plain_length:
            return None
        at = index * self._control_step + self._ecn_at
        size = self._words[index * HEADER_WORDS + LENGTH] & _LOW_HALF
        if (
            self._control_bytes[at : at + _HEADER] != self._plain_header
            or size < SHORT_HEADER_MINIMUM
        ):
            return None
        data_at = index * self._data_step
        head = self._data_bytes[data_at : data_at + SHORT_HEADER_MINIMUM].tobytes()
        if head[0] & LONG_HEADER_BIT:
            return None
        name_at = index * self._name_size
        name = self._name_bytes[name_at : name_at + self._name_size]
        key = key_of_name(name.tobytes())
        return size, key, head, self._control_bytes[at + _HEADER] & ancillary.ECN_MASK

    def are_plain(self, count: int) -> bool:
        """Whether they `are_single`, each with a short header."""
        # All first bytes are below 0x80, the long header's bit.
        return self.are_single(count) and self.firsts(count).isascii()

    def are_single(self, count: int) -> bool:
        """Whether each message is one datagram, and `stage` finds its ECN bits."""
        return (
            self._buffers.control_lengths[:count].tobytes() == self._plain_lengths[: 8 * count]
            and self._ecn_headers[:count].tobytes() == self._plain_headers[: _HEADER * count]
        )

    def firsts(self, count: int) -> bytes:
        """The first byte of each message, of an earlier one if it is empty."""
        return self._first[:count].tobytes()

    def stage(self, count: int, rows: NDArray[np.intp]) -> Staged:
        """Each message whole, if they `are_single`, to `rows`."""
        ecn = self._ecn[:count] & _ECN_MASK if any(self._ecn[:count].tobytes()) else None
        return Staged(self._starts[:count], self._lengths[:count], rows, ecn, None)

    def sizes(self, count: int) -> list[int]:
        """Bytes of each message."""
        sizes: list[int] = self._lengths[:count].tolist()
        return sizes

    def cids(self, count: int) -> list[bytes]:
        """What is the destination connection ID of each message if its header is short."""
        cids: list[bytes] = self._cids[:count].tolist()
        return cids

    def keys(self, count: int) -> list[SourceKey]:
        """Who sent each message."""
        keys: list[SourceKey] = self._keys[:count].tolist()
        return keys

    def datagram(self, index: int, start: int, length: int) -> memoryview:
        """Part of a message; good until the next batch."""
        return self._buffers.data[index, start : start + length].data

    def header(self, index: int, start: int, length: int) -> bytes:
        """A copy of the first bytes of a datagram, all that the invariants may need."""
        return self.datagram(index, start, min(length, _LONGEST_INVARIANTS)).tobytes()

    def heads(self, index: int, segment: int, count: int) -> tuple[bytes, list[bytes]]:
        """Of the first `count` datagrams in a message: first bytes, and what `cids` would give."""
        data = self._buffers.data[index]
        firsts = np.ndarray((count,), np.uint8, data, 0, (segment,))
        cids = np.ndarray((count,), f"V{CONNECTION_ID_LENGTH}", data, 1, (segment,))
        return firsts.tobytes(), cids.tolist()

    def beside(self, which: Sequence[int]) -> list[tuple[int, int]]:
        """ECN bits of these messages, and the size of the datagrams in each; 0: it is one."""
        found = []
        for index in which:
            at = index * self._control_step + self._ecn_at
            if (
                self._words[index * HEADER_WORDS + CONTROL_LENGTH] != self._plain_length
                or self._control_bytes[at : at + _HEADER] != self._plain_header
            ):
                found.append(self._read_beside(index))
            else:
                found.append((self._control_bytes[at + _HEADER] & ancillary.ECN_MASK, 0))
        return found

    def control(self, index: int) -> list[ancillary.Ancillary]:
        """All control data of a message."""
        length = int(self._buffers.control_lengths[index])
        return decode_control(self._buffers.control[index, :length].tobytes())

    def sender(self, index: int) -> Address:
        """Who sent a message."""
        return address_of_name(self._buffers.names[index].tobytes())

    def _read_beside(self, index: int) -> tuple[int, int]:
        segment = 0
        messages = self.control(index)
        for level, kind, data in messages:
            if level == SOL_UDP and kind == UDP_GRO and len(data) >= 4:
                segment = int.from_bytes(data[:4], "little")
        return ancillary.read_ecn(messages), segment

    def _expect(self, is_v4: bool, tells_local: bool) -> None:
        # Linux tells the local address first, then the ECN bits, always. Should it ever do
        # otherwise, `are_plain` sees that, and each message is read by itself.
        host = "192.0.2.1" if is_v4 else "2001:db8::1"
        local = encode_control(ancillary.to_send(host, ecn=0, choose_source=tells_local))
        tos = (socket.IPPROTO_IP, socket.IP_TOS, bytes(1))
        tclass = (socket.IPPROTO_IPV6, ancillary.IPV6_TCLASS or 0, bytes(4))
        ecn = encode_control([tos if is_v4 else tclass])
        control = self._buffers.control
        self._ecn_headers = np.ndarray(
            (self.count,), f"V{_HEADER}", control, len(local), (control.strides[0],)
        )
        self._ecn: Bytes = control[:, len(local) + _HEADER]
        self._ecn_at = len(local)
        self._plain_header = ecn[:_HEADER]
        self._plain_headers = self._plain_header * self.count
        self._plain_length = len(local) + len(ecn)
        self._plain_lengths = self._plain_length.to_bytes(8, "little") * self.count

    def _make_views(self) -> None:
        # For `single`: an element of a memoryview is quicker than one of an array.
        buffers = self._buffers
        self._words = buffers.headers.data.cast("B").cast("Q")
        self._data_bytes = buffers.data.data.cast("B")
        self._data_step = buffers.data.strides[0]
        self._control_bytes = buffers.control.data.cast("B")
        self._control_step = buffers.control.strides[0]
        self._name_bytes = buffers.names.data.cast("B")
        self._name_size = buffers.names.strides[0]
