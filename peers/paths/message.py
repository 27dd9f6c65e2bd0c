"""What two agents tell each other on the control stream (docs/protocol.md §13.2).

Byte 0 is the type. Numbers are big-endian. Whatever follows what we know of a message is ignored,
and so is a type that we do not know, so that both can be added to.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from relay.wire.address import Address

from ..nat.outlook import Mapping
from .candidate import Kind, RemoteCandidate
from .probe import KEY_LENGTH

VERSION = 1

MAX_NAMED = 32
"""Candidates in one message; more is malformed. Fewer are taken."""

_MAPPINGS = (Mapping.UNKNOWN, Mapping.INDEPENDENT, Mapping.DEPENDENT)
"""By their number on the wire."""
_RELAY_ONLY_FLAG = 0x01
_NUMBER = struct.Struct(">I")


class Type(IntEnum):
    """Byte 0."""

    HELLO = 1
    CANDIDATES = 2
    PUNCH = 3
    SYNC = 4
    SYNCED = 5
    BIRTHDAY = 6
    RELAYED = 7


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: version (1 byte), flags (1), key (32)."""

    key: bytes
    """For probes towards the sender."""
    relay_only: bool = False
    """The sender wants no direct path: it sends no probe and answers none."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Mapping (1 byte), count (1), and of each its kind (1), family (1: 4 or 6), IP (4 or 16) and
    port (2). The list takes the place of the former one."""

    mapping: Mapping
    candidates: tuple[RemoteCandidate, ...]


@dataclass(frozen=True, slots=True)
class Punch:
    """Round (4 bytes): the sender begins to probe when this has arrived; do so, too."""

    round: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Number (4 bytes): that of the sender's next probe. Expect it, then answer `Synced`."""

    number: int


@dataclass(frozen=True, slots=True)
class Synced:
    """Number (4 bytes): probes up to so many numbers beyond it are expected."""

    number: int


class Stage(IntEnum):
    """Where birthday probing stands."""

    OFFER = 1
    """The dependent side asks for it, and has widened its window."""
    ACCEPT = 2
    """The independent side agrees, and has widened its own."""
    READY = 3
    """The dependent side has sent from all its sockets: begin."""
    END = 4
    """Either side: it is over, or is not wanted."""


@dataclass(frozen=True, slots=True)
class Birthday:
    """Stage (1 byte), window (2): how many numbers ahead the sender expects probes."""

    stage: Stage
    window: int


@dataclass(frozen=True, slots=True)
class Relayed:
    """Round (4 bytes): the sender has gone back to the relay after all of that round."""

    round: int


Message = Hello | Candidates | Punch | Sync | Synced | Birthday | Relayed


@dataclass(frozen=True, slots=True)
class Malformed:
    """Not a message of ours."""

    why: str


def encode(message: Message) -> bytes:
    """At most 1,024 bytes."""
    match message:
        case Hello(key, relay_only):
            flags = _RELAY_ONLY_FLAG if relay_only else 0
            return bytes([Type.HELLO, VERSION, flags]) + key
        case Candidates(mapping, candidates):
            head = bytes([Type.CANDIDATES, _MAPPINGS.index(mapping), len(candidates)])
            return head + b"".join(map(_encode_candidate, candidates))
        case Punch(number):
            return bytes([Type.PUNCH]) + _NUMBER.pack(number)
        case Sync(number):
            return bytes([Type.SYNC]) + _NUMBER.pack(number)
        case Synced(number):
            return bytes([Type.SYNCED]) + _NUMBER.pack(number)
        case Birthday(stage, window):
            return bytes([Type.BIRTHDAY, stage]) + window.to_bytes(2, "big")
        case Relayed(number):
            return bytes([Type.RELAYED]) + _NUMBER.pack(number)


def parse(body: bytes) -> Message | Malformed:
    """Read one message. Any input gives a value."""
    try:
        return _parse(body)
    except (ValueError, IndexError, struct.error) as error:
        return Malformed(str(error) or "too short")


def _parse(body: bytes) -> Message:
    kind = Type(body[0])
    if kind is Type.HELLO:
        return _parse_hello(body)
    if kind is Type.CANDIDATES:
        return _parse_candidates(body)
    if kind is Type.BIRTHDAY:
        return Birthday(Stage(body[1]), int.from_bytes(_exactly(body[2:4], 2), "big"))
    (number,) = _NUMBER.unpack_from(body, 1)
    if kind is Type.PUNCH:
        return Punch(number)
    if kind is Type.SYNC:
        return Sync(number)
    if kind is Type.SYNCED:
        return Synced(number)
    return Relayed(number)


def _parse_hello(body: bytes) -> Hello:
    if body[1] != VERSION:
        raise ValueError("another version")
    key = _exactly(body[3 : 3 + KEY_LENGTH], KEY_LENGTH)
    return Hello(key, relay_only=bool(body[2] & _RELAY_ONLY_FLAG))


def _parse_candidates(body: bytes) -> Candidates:
    mapping, count = _MAPPINGS[body[1]], body[2]
    if count > MAX_NAMED:
        raise ValueError("too many candidates")
    found = []
    at = 3
    for _ in range(count):
        kind, family = Kind(body[at]), body[at + 1]
        if kind is Kind.REFLEXIVE or family not in (4, 6):
            raise ValueError("no such kind or family")
        end = at + 2 + (4 if family == 4 else 16)
        ip = _exactly(body[at + 2 : end], end - at - 2)
        port = int.from_bytes(_exactly(body[end : end + 2], 2), "big")
        # IPv4 inside IPv6 becomes IPv4 here: one address has one spelling.
        found.append(RemoteCandidate(kind, Address.from_packed(ip, port)))
        at = end + 2
    return Candidates(mapping, tuple(found))


def _encode_candidate(candidate: RemoteCandidate) -> bytes:
    ip = candidate.address.packed
    head = bytes([candidate.kind, 4 if len(ip) == 4 else 6])
    return head + ip + candidate.address.port.to_bytes(2, "big")


def _exactly(octets: bytes, length: int) -> bytes:
    if len(octets) != length:
        raise ValueError("too short")
    return octets
