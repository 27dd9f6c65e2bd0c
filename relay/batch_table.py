"""The forwarding table of the batch loop: the same meaning as `relay.core.table`, kept in rows.

Each owner has a *row*: message headers that are ready but for the datagram, in an array from which
a batch picks its own in one step. A connection ID leads to a row number, a source to its `Source`.

Connection IDs are spread over many dictionaries. One for all would stop the loop for 140 ms when
it grows past 700,000 entries; each of these never holds it up for over a millisecond.
"""

import socket
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from relay import ancillary
from relay.batch_buffers import Bytes, Words, address_of, addresses_of_rows
from relay.batch_calls import (
    CONTROL,
    CONTROL_LENGTH,
    HEADER_WORDS,
    NAME,
    NAME_LENGTH,
    PART_COUNT,
)
from relay.channel import Command, ConnectionIdsRemoved
from relay.core.path import Path
from relay.core.table import ConnectionIdsAdded, OwnerMoved, OwnerRemoved
from relay.wire.address import Address

SourceKey = int | bytes
"""`struct sockaddr_in` without its padding as a number, or `struct sockaddr_in6` as bytes."""

NAME_SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}
"""Bytes of a socket address."""

_NO_ROW = 0
"""What an unknown connection ID leads to. Owner `n` has row `n + 1`."""
_FIRST_ROWS = 1024
_SHARDS = 256

_V4_NAME = struct.Struct("=H2s4s8x")
_V6_NAME = struct.Struct("=H2s4x16sI")
_CMSG = struct.Struct("@NII")
_KEY = struct.Struct("@q")


class Source:
    """An address that may send, because so many owners have it."""

    __slots__ = ("address", "owners")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.owners = 0


class Rows:
    """What every owner's message headers are, by row number; row 0 is nobody's."""

    def __init__(self, count: int) -> None:
        self.headers: Words = np.zeros((count, HEADER_WORDS), np.uint64)
        self.names: Bytes = np.zeros((count, 32), np.uint8)
        self.sources: Bytes = np.zeros((count, 40), np.uint8)
        """Control messages that name the source address; empty where the socket knows it."""
        self.listeners: NDArray[np.uint8] = np.zeros(count, np.uint8)
        self.headers[:, NAME] = addresses_of_rows(self.names)
        self.headers[:, PART_COUNT] = 1

    def __len__(self) -> int:
        return len(self.headers)

    def grown(self, count: int) -> "Rows":
        """A copy with room for `count` rows."""
        more = Rows(count)
        old = len(self)
        for mine, theirs in (
            (self.names, more.names),
            (self.sources, more.sources),
            (self.headers[:, NAME_LENGTH], more.headers[:, NAME_LENGTH]),
            (self.headers[:, CONTROL_LENGTH], more.headers[:, CONTROL_LENGTH]),
        ):
            theirs[:old] = mine
        more.listeners[:old] = self.listeners
        named = more.headers[:, CONTROL_LENGTH] > 0
        more.headers[named, CONTROL] = addresses_of_rows(more.sources)[named]
        return more

    def set(self, row: int, path: Path, choose_source: bool) -> None:
        """Reach this row's owner by `path`."""
        name = encode_name(path.remote)
        source = encode_control(ancillary.to_send(path.local, ecn=0, choose_source=choose_source))
        self.names[row, : len(name)] = np.frombuffer(name, np.uint8)
        self.sources[row, : len(source)] = np.frombuffer(source, np.uint8)
        self.listeners[row] = path.listener
        header = self.headers[row]
        header[NAME_LENGTH] = len(name)
        header[CONTROL] = address_of(self.sources[row:]) if source else 0
        header[CONTROL_LENGTH] = len(source)


class BatchTable:
    """Connection IDs to rows, and the addresses that may send. One per worker."""

    def __init__(self, wildcard: Sequence[bool]) -> None:
        """Whether each listener is bound to a wildcard, by its index."""
        self._wildcard = wildcard
        self.rows = Rows(_FIRST_ROWS)
        self.shards: list[dict[bytes, int]] = [{} for _ in range(_SHARDS)]
        """Row numbers by connection ID, in the dictionary of its first byte."""
        self.sources: dict[SourceKey, Source] = {}
        self.heard: set[SourceKey] = set()
        """Sources, all of them registered, of which a datagram came since they were reported."""
        self._unreported: list[SourceKey] = []
        self._paths: dict[int, Path] = {}
        self._owners_by_listener = [0] * len(wildcard)

    def apply(self, command: Command) -> None:
        """Follow one change of the registry; `Sync` changes nothing."""
        match command:
            case OwnerMoved(owner, path):
                self._move(owner, path)
            case ConnectionIdsAdded(owner, connection_ids):
                row = owner + 1
                shards = self.shards
                for cid in connection_ids:
                    shards[cid[0]][cid] = row
            case ConnectionIdsRemoved(_, connection_ids):
                self._forget(connection_ids)
            case OwnerRemoved(owner, connection_ids):
                self._forget(connection_ids)
                left = self._paths.pop(owner, None)
                if left is not None:
                    self._leave(left)

    def row_of(self, cid: bytes) -> int:
        """The row that a connection ID leads to; 0 for none. Any length will do."""
        return self.shards[cid[0]].get(cid, _NO_ROW) if cid else _NO_ROW

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
        """Registered sources of which a datagram came since they were last returned."""
        taken, self._unreported = self._unreported[:at_most], self._unreported[at_most:]
        self.heard.difference_update(taken)
        return [self.sources[key].address for key in taken if key in self.sources]

    def _move(self, owner: int, path: Path) -> None:
        before = self._paths.get(owner)
        if before is not None:
            self._leave(before)
        row = owner + 1
        if row >= len(self.rows):
            self.rows = self.rows.grown(max(2 * len(self.rows), row + 1))
        self.rows.set(row, path, self._wildcard[path.listener])
        self._paths[owner] = path
        self._owners_by_listener[path.listener] += 1
        self.sources.setdefault(source_key(path.remote), Source(path.remote)).owners += 1

    def _leave(self, path: Path) -> None:
        self._owners_by_listener[path.listener] -= 1
        key = source_key(path.remote)
        source = self.sources[key]
        source.owners -= 1
        if not source.owners:
            del self.sources[key]
            self.heard.discard(key)

    def _forget(self, connection_ids: Sequence[bytes]) -> None:
        for cid in connection_ids:
            self.shards[cid[0]].pop(cid, None)


def encode_name(address: Address) -> bytes:
    """`struct sockaddr_in` (16 bytes) or `struct sockaddr_in6` (28)."""
    port = address.port.to_bytes(2, "big")
    if address.family is socket.AF_INET:
        return _V4_NAME.pack(socket.AF_INET, port, address.packed)
    return _V6_NAME.pack(socket.AF_INET6, port, address.packed, address.scope)


def source_key(address: Address) -> SourceKey:
    """What a batch's array of senders gives for this address."""
    name = encode_name(address)
    if address.family is socket.AF_INET:
        key: int = _KEY.unpack_from(name)[0]
        return key
    return name


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
