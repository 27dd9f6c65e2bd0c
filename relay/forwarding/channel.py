"""What the control process and its workers say to each other, as bytes. Pure.

Two channels lead to each worker, both made by the control process:

- a *stream* (AF_UNIX). Down go commands: the registry's changes, and `Sync`. Up come reports.
  Both are frames: kind (1 byte), length of the body (4), body.
- a *socketpair of datagrams* for what may be HTTP/3: one message for each datagram that came, its
  header as in `UpMessage`. What does not fit into it is dropped by the sender, who counts it.

Integers are big-endian. Both ends are of one version of this program: nothing is negotiated.
Whatever arrives gives a value or `ChannelError`.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import TypeVar

from relay.core.bucket import Charge, Used
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import ConnectionIdsAdded, OwnerCharged, OwnerMoved, OwnerRemoved
from relay.forwarding.messages import (
    Command,
    ConnectionIdsRemoved,
    Counters,
    Forwarded,
    Heard,
    Loaded,
    RatesSet,
    Report,
    SendersCounted,
    Sent,
    Sync,
    Synced,
    Taken,
    UpMessage,
)
from relay.wire.address import Address
from relay.wire.connection_id import CONNECTION_ID_LENGTH

__all__ = [
    "BUCKETS_PER_FRAME",
    "IDS_PER_FRAME",
    "MAX_BODY",
    "MAX_UP_DATAGRAM",
    "SOURCES_PER_FRAME",
    "UP_HEADER_SIZE",
    "ChannelError",
    "Command",
    "ConnectionIdsRemoved",
    "Counters",
    "Forwarded",
    "FrameReader",
    "Heard",
    "Loaded",
    "RatesSet",
    "Report",
    "SendersCounted",
    "Sent",
    "Sync",
    "Synced",
    "Taken",
    "UpMessage",
    "decode_up",
    "encode_command",
    "encode_report",
    "up_header",
]

_T = TypeVar("_T")

MAX_BODY = 65_536
"""Bytes in the body of one frame: what each side must buffer at the most."""

IDS_PER_FRAME = 1024
"""Connection IDs in one command (12 kB): more are told in several."""

BUCKETS_PER_FRAME = 1024
"""Buckets in one command or report (37 kB)."""

SOURCES_PER_FRAME = 1024
"""Addresses in one report (40 kB with what they have had forwarded)."""

MAX_UP_DATAGRAM = 2048
"""Bytes of the longest datagram that is passed up. HTTP/3 clients send some 1,200 to 1,500."""


class ChannelError(ValueError):
    """The other end did not send what this module writes."""


_OWNER_MOVED, _IDS_ADDED, _IDS_REMOVED, _OWNER_REMOVED, _SYNC, _CHARGED, _RATES = range(1, 8)
_SENDERS_COUNTED = 8
_SYNCED, _COUNTERS, _HEARD, _LOADED, _TAKEN, _FORWARDED = range(17, 23)

_FRAME = struct.Struct("!BI")
_OWNER = struct.Struct("!I")
_NUMBER = struct.Struct("!Q")
_COUNTER_VALUES = struct.Struct(f"!{len(Outcome) + 1}Q")
_ADDRESS = struct.Struct("!BHI16s")
"""Length of the IP address (4 or 16), port, scope, IP address padded with zeros at the end."""
_UP = struct.Struct(f"!HB{_ADDRESS.size}s{_ADDRESS.size}s")
"""Listener, ECN, the relay's own IP address (port 0), the sender's address."""

_CHARGE = struct.Struct("!Idd")
_USED = struct.Struct("!IQQQQ")
_SENT = struct.Struct("!23sQQ")

UP_HEADER_SIZE = _UP.size


def encode_command(command: Command) -> bytes:
    """One or several frames, to be written whole."""
    match command:
        case OwnerMoved(owner, path):
            return _frame(_OWNER_MOVED, _OWNER.pack(owner) + _encode_path(path))
        case ConnectionIdsAdded(owner, ids):
            return b"".join(_id_frames(_IDS_ADDED, owner, ids))
        case ConnectionIdsRemoved(owner, ids):
            return b"".join(_id_frames(_IDS_REMOVED, owner, ids))
        case OwnerRemoved(owner, ids):
            first, last = ids[:-IDS_PER_FRAME], ids[-IDS_PER_FRAME:]
            frames = [*_id_frames(_IDS_REMOVED, owner, first)] if first else []
            return b"".join([*frames, *_id_frames(_OWNER_REMOVED, owner, last)])
        case Sync(number):
            return _frame(_SYNC, _NUMBER.pack(number))
        case OwnerCharged(owner, charges):
            packed = b"".join(_CHARGE.pack(*charge) for charge in charges)
            return _frame(_CHARGED, _OWNER.pack(owner) + packed)
        case SendersCounted():
            return _frame(_SENDERS_COUNTED, b"")
        case RatesSet(charges):
            return b"".join(
                _frame(_RATES, b"".join(_CHARGE.pack(*charge) for charge in chunk))
                for chunk in _chunks(charges, BUCKETS_PER_FRAME)
            )


def encode_report(report: Report) -> bytes:
    """One or several frames, to be written whole."""
    match report:
        case Synced(number):
            return _frame(_SYNCED, _NUMBER.pack(number))
        case Counters(outcomes, bytes_forwarded):
            return _frame(_COUNTERS, _COUNTER_VALUES.pack(*outcomes, bytes_forwarded))
        case Loaded():
            return _frame(_LOADED, b"")
        case Forwarded(sent):
            return b"".join(
                _frame(_FORWARDED, b"".join(map(_encode_sent, chunk)))
                for chunk in _chunks(sent, SOURCES_PER_FRAME)
            )
        case Taken(used):
            return b"".join(
                _frame(_TAKEN, b"".join(_USED.pack(*each) for each in chunk))
                for chunk in _chunks(used, BUCKETS_PER_FRAME)
            )
        case Heard(sources):
            return b"".join(
                _frame(_HEARD, b"".join(map(_encode_address, chunk)))
                for chunk in _chunks(sources, SOURCES_PER_FRAME)
            )


def up_header(path: Path, ecn: int) -> bytes:
    """What stands before the datagram in a message up: `UP_HEADER_SIZE` bytes."""
    return _UP.pack(
        path.listener, ecn, _encode_address(Address(path.local, 0)), _encode_address(path.remote)
    )


def decode_up(message: bytes) -> UpMessage:
    """Read one message up.

    :raises ChannelError: if it is none.
    """
    if len(message) < UP_HEADER_SIZE:
        raise ChannelError("message up ends inside its header")
    listener, ecn, local, source = _UP.unpack_from(message)
    path = Path(_decode_address(source), listener, _decode_address(local).host)
    return UpMessage(path, ecn, message[UP_HEADER_SIZE:])


class FrameReader:
    """Cuts a stream into frames and reads them; one for each direction and worker."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def commands(self, data: bytes) -> Iterator[Command]:
        """Take `data`; give every command that is complete.

        :raises ChannelError: the stream is no use any more.
        """
        for kind, body in self._frames(data):
            yield _decode_command(kind, body)

    def reports(self, data: bytes) -> Iterator[Report]:
        """Take `data`; give every report that is complete.

        :raises ChannelError: the stream is no use any more.
        """
        for kind, body in self._frames(data):
            yield _decode_report(kind, body)

    def _frames(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while len(buffer) - position >= _FRAME.size:
                kind, length = _FRAME.unpack_from(buffer, position)
                if length > MAX_BODY:
                    raise ChannelError(f"a frame of {length} bytes; at most {MAX_BODY} are allowed")
                end = position + _FRAME.size + length
                if len(buffer) < end:
                    break
                body = bytes(buffer[position + _FRAME.size : end])
                position = end
                yield kind, body
        finally:
            del buffer[:position]


def _decode_command(kind: int, body: bytes) -> Command:
    if kind == _OWNER_MOVED:
        return OwnerMoved(_owner(body), _decode_path(body[_OWNER.size :]))
    if kind == _IDS_ADDED:
        return ConnectionIdsAdded(_owner(body), _decode_ids(body))
    if kind == _IDS_REMOVED:
        return ConnectionIdsRemoved(_owner(body), _decode_ids(body))
    if kind == _OWNER_REMOVED:
        return OwnerRemoved(_owner(body), _decode_ids(body))
    if kind == _SYNC:
        return Sync(_number(body))
    if kind == _CHARGED:
        return OwnerCharged(_owner(body), _charges(body[_OWNER.size :]))
    if kind == _SENDERS_COUNTED:
        return SendersCounted()
    if kind == _RATES:
        return RatesSet(_charges(body))
    raise ChannelError(f"no command is of kind {kind}")


def _decode_report(kind: int, body: bytes) -> Report:
    if kind == _SYNCED:
        return Synced(_number(body))
    if kind == _COUNTERS:
        if len(body) != _COUNTER_VALUES.size:
            raise ChannelError(f"{len(body)} bytes of counters, not {_COUNTER_VALUES.size}")
        *outcomes, bytes_forwarded = _COUNTER_VALUES.unpack(body)
        return Counters(tuple(outcomes), bytes_forwarded)
    if kind == _HEARD:
        if len(body) % _ADDRESS.size:
            raise ChannelError("a report of sources ends inside an address")
        return Heard(tuple(map(_decode_address, _pieces(body, _ADDRESS.size))))
    if kind == _LOADED:
        return Loaded()
    if kind == _FORWARDED:
        if len(body) % _SENT.size:
            raise ChannelError("a report of senders ends inside one")
        return Forwarded(tuple(map(_decode_sent, _pieces(body, _SENT.size))))
    if kind == _TAKEN:
        if len(body) % _USED.size:
            raise ChannelError("a report of buckets ends inside one")
        return Taken(tuple(Used(*each) for each in _USED.iter_unpack(body)))
    raise ChannelError(f"no report is of kind {kind}")


def _frame(kind: int, body: bytes) -> bytes:
    return _FRAME.pack(kind, len(body)) + body


def _id_frames(kind: int, owner: int, ids: tuple[bytes, ...]) -> Iterator[bytes]:
    for chunk in _chunks(ids, IDS_PER_FRAME):
        yield _frame(kind, _OWNER.pack(owner) + b"".join(chunk))


def _decode_ids(body: bytes) -> tuple[bytes, ...]:
    ids = body[_OWNER.size :]
    if len(ids) % CONNECTION_ID_LENGTH:
        raise ChannelError("a command ends inside a connection ID")
    return tuple(_pieces(ids, CONNECTION_ID_LENGTH))


def _owner(body: bytes) -> int:
    if len(body) < _OWNER.size:
        raise ChannelError("a command ends inside its owner")
    owner: int = _OWNER.unpack_from(body)[0]
    return owner


def _charges(body: bytes) -> tuple[Charge, ...]:
    if len(body) % _CHARGE.size:
        raise ChannelError("a command ends inside a charge")
    charges = tuple(Charge(*each) for each in _CHARGE.iter_unpack(body))
    if any(not rate >= 0.0 for charge in charges for rate in charge[1:]):  # NaN is none
        raise ChannelError("a charge has a rate below 0")
    return charges


def _number(body: bytes) -> int:
    if len(body) != _NUMBER.size:
        raise ChannelError("a synchronisation has no number of 8 bytes")
    number: int = _NUMBER.unpack(body)[0]
    return number


def _encode_path(path: Path) -> bytes:
    return up_header(path, 0)


def _decode_path(body: bytes) -> Path:
    message = decode_up(body)
    if message.datagram:
        raise ChannelError("a path is followed by something else")
    return message.path


def _encode_address(address: Address) -> bytes:
    ip = address.packed
    return _ADDRESS.pack(len(ip), address.port, address.scope, ip)


def _decode_address(data: bytes) -> Address:
    size, port, scope, ip = _ADDRESS.unpack(data)
    if size not in (4, 16):
        raise ChannelError(f"an IP address of {size} bytes")
    return Address.from_packed(ip[:size], port, scope)


def _encode_sent(sent: Sent) -> bytes:
    return _SENT.pack(_encode_address(sent.source), sent.packets, sent.bytes)


def _decode_sent(data: bytes) -> Sent:
    address, packets, size = _SENT.unpack(data)
    return Sent(_decode_address(address), packets, size)


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    # At least one, so that an empty message is a message.
    for start in range(0, len(items) or 1, size):
        yield items[start : start + size]


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
