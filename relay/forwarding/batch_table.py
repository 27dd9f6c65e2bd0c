"""The forwarding table of the batch loop: the same meaning as `relay.core.table`, kept in rows.

Each owner has a *row*: message headers that are ready but for the datagram, in an array from which
a batch picks its own in one step. A connection ID leads to a row number, a source to its `Source`.

All connection IDs are in a `ConnectionIdMap`, which is small and never holds the loop up. Those in
use are also in dictionaries, which are quick, but would take five times as much for all.
"""

import socket
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from relay.core.id_map import ConnectionIdMap
from relay.core.path import Path
from relay.core.table import ConnectionIdsAdded, OwnerCharged, OwnerMoved, OwnerRemoved
from relay.forwarding import ancillary
from relay.forwarding.batch_buffers import Bytes, Words, address_of, addresses_of_rows
from relay.forwarding.batch_calls import (
    CONTROL,
    CONTROL_LENGTH,
    HEADER_WORDS,
    NAME,
    NAME_LENGTH,
    PART_COUNT,
)
from relay.forwarding.channel import Command, ConnectionIdsRemoved, RatesSet, SendersCounted
from relay.forwarding.meter import Meter
from relay.forwarding.tally import Tally
from relay.wire.address import Address

SourceKey = int | bytes
"""`struct sockaddr_in` without its padding as a number, or `struct sockaddr_in6` as bytes."""

NAME_SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}
"""Bytes of a socket address."""

_NO_ROW = 0
"""What an unknown connection ID leads to. Owner `n` has row `n + 1`."""
_FIRST_ROWS = 1 << 17
"""More than a relay has registrations unless it is told otherwise. Those not used take no memory:
the system gives a page when it is first written to."""

_RECENT_TABLES = 256
_RECENT_EACH = 1024
"""Connection IDs in one of the dictionaries at most: in all of them 29 MB, and emptying one takes
50 us."""

_V4_NAME = struct.Struct("=H2s4s8x")
_V6_NAME = struct.Struct("=H2s4x16sI")
_CMSG = struct.Struct("@NII")
_HEADER = struct.Struct(f"={HEADER_WORDS}Q")
_NAME_ROOM, _SOURCE_ROOM = 32, 40
"""Bytes in a row for a socket address, and for a control message that names the source address."""
_KEY = struct.Struct("@q")


class Rows:
    """What every owner's message headers are, by row number; row 0 is nobody's.

    A row that is not in use is all zeros.
    """

    def __init__(self, count: int) -> None:
        self.headers: Words = np.zeros((count, HEADER_WORDS), np.uint64)
        self.names: Bytes = np.zeros((count, _NAME_ROOM), np.uint8)
        self.sources: Bytes = np.zeros((count, _SOURCE_ROOM), np.uint8)
        """Control messages that name the source address; empty where the socket knows it."""
        self.listeners: NDArray[np.uint8] = np.zeros(count, np.uint8)
        self._names_at = address_of(self.names)
        self._sources_at = address_of(self.sources)
        # One struct or slice is quicker than as many elements of an array.
        self._header_bytes = self.headers.data.cast("B")
        self.words = self._header_bytes.cast("Q")
        """`headers`, one word after the other."""
        self.listener_of = self.listeners.data
        """`listeners` again, quicker for one row."""
        self._name_bytes = self.names.data.cast("B")
        self._source_bytes = self.sources.data.cast("B")

    def __len__(self) -> int:
        return len(self.headers)

    def grown(self, count: int) -> "Rows":
        """A copy with room for `count` rows."""
        more = Rows(count)
        old = len(self)
        more.names[:old] = self.names
        more.sources[:old] = self.sources
        more.listeners[:old] = self.listeners
        more.headers[:old] = self.headers
        for column, array in ((NAME, more.names), (CONTROL, more.sources)):
            used = np.flatnonzero(more.headers[:old, column])
            more.headers[used, column] = addresses_of_rows(array)[used]
        return more

    def set(self, row: int, path: Path, choose_source: bool) -> None:
        """Reach this row's owner by `path`."""
        name = encode_name(path.remote)
        source = encode_control(ancillary.to_send(path.local, ecn=0, choose_source=choose_source))
        name_at, source_at = row * _NAME_ROOM, row * _SOURCE_ROOM
        self._name_bytes[name_at : name_at + len(name)] = name
        self._source_bytes[source_at : source_at + len(source)] = source
        self.listeners[row] = path.listener
        words = [0] * HEADER_WORDS
        words[NAME], words[NAME_LENGTH] = self._names_at + name_at, len(name)
        words[PART_COUNT] = 1
        if source:
            words[CONTROL], words[CONTROL_LENGTH] = self._sources_at + source_at, len(source)
        _HEADER.pack_into(self._header_bytes, row * _HEADER.size, *words)

    def remote(self, row: int) -> Address | None:
        """Where this row's owner is; None if the row is not in use."""
        size = int(self.headers[row, NAME_LENGTH])
        at = row * _NAME_ROOM
        return address_of_name(self._name_bytes[at : at + size].tobytes()) if size else None

    def source(self, row: int, size: int) -> memoryview:
        """The first `size` bytes of the control message that names the source address."""
        return self._source_bytes[row * _SOURCE_ROOM : row * _SOURCE_ROOM + size]

    def clear(self, row: int) -> None:
        """This row is not in use any more."""
        self.headers[row] = 0


class BatchTable:
    """Connection IDs to rows, and the addresses that may send. One per worker."""

    def __init__(self, wildcard: Sequence[bool]) -> None:
        """Whether each listener is bound to a wildcard, by its index."""
        self._wildcard = wildcard
        self.rows = Rows(_FIRST_ROWS)
        self._rows_by_cid = ConnectionIdMap()
        self.recent: list[dict[bytes, int]] = [{} for _ in range(_RECENT_TABLES)]
        """Rows of connection IDs that were in use of late, in the dictionary of their first byte.
        One that is not here may be registered all the same: ask `row_of`."""
        self.sources: dict[SourceKey, int] = {}
        """How many owners are at each address that may send."""
        self.heard: set[SourceKey] = set()
        """Sources, all of them registered, of which a datagram came since this was last cleared."""
        self._unreported: list[SourceKey] = []
        self._owners_by_listener = [0] * len(wildcard)
        self.meter = Meter[SourceKey]()
        self.tally: Tally[SourceKey] | None = None
        """None: nobody wants to see it."""
        """Who pays for what comes from where."""

    def apply(self, command: Command) -> None:
        """Follow one change of the registry; `Sync` changes nothing."""
        match command:
            case OwnerMoved(owner, path):
                self._move(owner, path)
            case ConnectionIdsAdded(owner, connection_ids):
                self._forget_recent(connection_ids)
                self._rows_by_cid.update(connection_ids, owner + 1)
            case ConnectionIdsRemoved(_, connection_ids):
                self._forget(connection_ids)
            case OwnerRemoved(owner, connection_ids):
                self._forget(connection_ids)
                self._leave(owner + 1)
                self.meter.remove(owner)
            case OwnerCharged(owner, charges):
                remote = self.rows.remote(owner + 1)
                if remote is not None:
                    self.meter.charge(owner, source_key(remote), charges)
            case SendersCounted():
                self.tally = Tally()
            case RatesSet(charges):
                self.meter.set_rates(charges)

    def row_of(self, cid: bytes) -> int:
        """The row that a connection ID leads to; 0 for none. Any length will do."""
        row = self._rows_by_cid.get(cid)
        if row is None:
            return _NO_ROW
        recent = self.recent[cid[0]]
        if len(recent) >= _RECENT_EACH:
            recent.clear()
        recent[cid] = row
        return row

    @property
    def only_listener(self) -> int | None:
        """Where all owners are, if that is one listener."""
        used = [index for index, owners in enumerate(self._owners_by_listener) if owners]
        return used[0] if len(used) == 1 else None

    def hear(self, keys: Iterable[SourceKey]) -> bool:
        """Datagrams came from these. Returns whether all of them are registered."""
        sources = self.sources
        heard = self.heard
        strangers = 0
        for key in keys:
            if key in heard:
                continue
            if key in sources:
                heard.add(key)
                self._unreported.append(key)
            else:
                strangers += 1
        return not strangers

    def take_heard(self, at_most: int) -> list[Address]:
        """Registered sources of which a datagram came since they were last returned.

        But one that has been returned is not listened for until all others have been: so that there
        is an end, however many there are and however much they send.
        """
        taken = self._unreported[:at_most]
        del self._unreported[:at_most]
        if not self._unreported:
            self.heard.clear()
        return [address_of_key(key) for key in taken if key in self.sources]

    def _move(self, owner: int, path: Path) -> None:
        row = owner + 1
        if row >= len(self.rows):
            self.rows = self.rows.grown(max(2 * len(self.rows), row + 1))
        self._leave(row)
        self.rows.set(row, path, self._wildcard[path.listener])
        self._owners_by_listener[path.listener] += 1
        key = source_key(path.remote)
        self.sources[key] = self.sources.get(key, 0) + 1
        self.meter.move(owner, key)

    def _leave(self, row: int) -> None:
        remote = self.rows.remote(row) if row < len(self.rows) else None
        if remote is None:
            return
        self._owners_by_listener[self.rows.listeners[row]] -= 1
        self.rows.clear(row)
        key = source_key(remote)
        self.sources[key] -= 1
        if not self.sources[key]:
            del self.sources[key]
            self.heard.discard(key)

    def _forget(self, connection_ids: Sequence[bytes]) -> None:
        self._forget_recent(connection_ids)
        self._rows_by_cid.discard(connection_ids)

    def _forget_recent(self, connection_ids: Iterable[bytes]) -> None:
        for cid in connection_ids:
            self.recent[cid[0]].pop(cid, None)


def encode_name(address: Address) -> bytes:
    """`struct sockaddr_in` (16 bytes) or `struct sockaddr_in6` (28)."""
    port = address.port.to_bytes(2, "big")
    if address.family is socket.AF_INET:
        return _V4_NAME.pack(socket.AF_INET, port, address.packed)
    return _V6_NAME.pack(socket.AF_INET6, port, address.packed, address.scope)


def source_key(address: Address) -> SourceKey:
    """What a batch's array of senders gives for this address."""
    return key_of_name(encode_name(address))


def key_of_name(name: bytes) -> SourceKey:
    """The same from a socket address."""
    if len(name) == _V4_NAME.size:
        key: int = _KEY.unpack_from(name)[0]
        return key
    return name


def address_of_key(key: SourceKey) -> Address:
    """The address that `source_key` was made of."""
    return address_of_name(_KEY.pack(key) + bytes(8) if isinstance(key, int) else key)


def address_of_name(name: bytes) -> Address:
    """The address in a socket address that the kernel wrote."""
    if len(name) == _V4_NAME.size:
        _, port, ip = _V4_NAME.unpack(name)
        return Address.from_packed(ip, int.from_bytes(port, "big"))
    _, port, ip, scope = _V6_NAME.unpack(name)
    return Address.from_packed(ip, int.from_bytes(port, "big"), scope)


def encode_control(messages: Iterable[ancillary.Ancillary]) -> bytes:
    """Control messages as the kernel reads them (cmsg(3)): each padded to 8 bytes."""
    return b"".join(
        (_CMSG.pack(socket.CMSG_LEN(len(data)), level, kind) + data).ljust(
            socket.CMSG_SPACE(len(data)), b"\0"
        )
        for level, kind, data in messages
    )


def decode_control(control: bytes) -> list[ancillary.Ancillary]:
    """What the kernel wrote, as `recvmsg` of Python's socket module gives it."""
    messages: list[ancillary.Ancillary] = []
    position = 0
    while len(control) - position >= _CMSG.size:
        length, level, kind = _CMSG.unpack_from(control, position)
        if length < _CMSG.size:
            break
        messages.append((level, kind, control[position + _CMSG.size : position + length]))
        position += -(-length // 8) * 8
    return messages
