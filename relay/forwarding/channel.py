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
from dataclasses import dataclass
from typing import TypeVar

from relay.core.bucket import Charge, Used
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import Change, ConnectionIdsAdded, OwnerCharged, OwnerMoved, OwnerRemoved
from relay.wire.address import Address
from relay.wire.connection_id import CONNECTION_ID_LENGTH

_T = TypeVar("_T")

MAX_BODY = 65_536
"""Bytes in the body of one frame: what each side must buffer at the most."""

IDS_PER_FRAME = 1024
"""Connection IDs in one command (12 kB): more are told in several."""

BUCKETS_PER_FRAME = 1024
"""Buckets in one command or report (37 kB)."""

SOURCES_PER_FRAME = 1024
"""Addresses in one report (23 kB)."""

MAX_UP_DATAGRAM = 2048
"""Bytes of the longest datagram that is passed up. HTTP/3 clients send some 1,200 to 1,500."""


class ChannelError(ValueError):
    """The other end did not send what this module writes."""


@dataclass(frozen=True, slots=True)
class ConnectionIdsRemoved:
    """These connection IDs of `owner` are gone; `OwnerRemoved`, with the rest, follows."""

    owner: int
    connection_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """Answer `Synced` with the same number once all commands before this one are followed.

    The first one also says that the table is complete: only then may the worker read datagrams.
    """

    number: int


@dataclass(frozen=True, slots=True)
class RatesSet:
    """Fill these buckets so from now on."""

    charges: tuple[Charge, ...]


Command = Change | ConnectionIdsRemoved | Sync | RatesSet


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to `Sync`: the counters that were reported before it are up to date."""

    number: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What a worker has done since it started: totals, so that a lost report loses nothing."""

    outcomes: tuple[int, ...]
    """How many datagrams, in the order of `Outcome`'s members."""
    bytes_forwarded: int

    @classmethod
    def zero(cls) -> "Counters":
        """Of a worker that has done nothing."""
        return cls((0,) * len(Outcome), 0)

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(
            tuple(map(sum, zip(self.outcomes, other.outcomes, strict=True))),
            self.bytes_forwarded + other.bytes_forwarded,
        )

    def of(self, outcome: Outcome) -> int:
        """How many datagrams ended so."""
        return self.outcomes[tuple(Outcome).index(outcome)]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker has all that it needs but its table: from now on it only waits for that."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Registered addresses from which datagrams came since the last report, forwarded or not."""

    sources: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from buckets since the last report."""

    used: tuple[Used, ...]


Report = Synced | Counters | Heard | Loaded | Taken


@dataclass(frozen=True, slots=True)
class UpMessage:
    """A datagram that may be HTTP/3, and how it came."""

    path: Path
    ecn: int
    """The two ECN bits (RFC 3168)."""
    datagram: bytes


_OWNER_MOVED, _IDS_ADDED, _IDS_REMOVED, _OWNER_REMOVED, _SYNC, _CHARGED, _RATES = range(1, 8)
_SYNCED, _COUNTERS, _HEARD, _LOADED, _TAKEN = range(17, 22)

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


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    # At least one, so that an empty message is a message.
    for start in range(0, len(items) or 1, size):
        yield items[start : start + size]


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
