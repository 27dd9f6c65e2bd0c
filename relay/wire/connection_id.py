"""The connection IDs of a pipe: derived, not chosen, so that nobody can register somebody else's.

docs/protocol.md §2. A peer tells the relay a key; both compute the same 12-byte connection IDs
from it. The highest bit of the first byte says where a packet with that destination connection ID
belongs: clear between peers, set towards HTTP/3 (the relay's own connections).
"""

import hashlib
from enum import Enum, StrEnum

from blake3 import blake3

CONNECTION_ID_LENGTH = 12
"""Bytes in every connection ID that peers and relay issue (RFC 9000 §17.2 allows up to 20)."""

MAX_COUNTER = 2**32 - 1
"""The last counter: it is sent through the derivation as 4 bytes, big-endian."""

_HTTP3_BIT = 0x80


class Derivation(StrEnum):
    """How connection IDs come from a key; the value is the name on the wire."""

    BLAKE3 = "blake3"
    """Keyed BLAKE3, 32-byte key: Quicpipe's own."""
    BLAKE2B = "blake2b"
    """Keyed BLAKE2b, 16 to 64-byte key: the original's, used where a request names none."""


KEY_LENGTHS: dict[Derivation, range] = {
    Derivation.BLAKE3: range(32, 33),
    Derivation.BLAKE2B: range(16, 65),
}
"""The key lengths, in bytes, that each derivation takes."""


class Towards(Enum):
    """Whom a packet that carries the connection ID as its destination is for."""

    PEER = 0
    HTTP3 = _HTTP3_BIT


class InvalidKey(ValueError):
    """A key whose length its derivation does not take."""


def check_key(key: bytes, derivation: Derivation) -> None:
    """Refuse a key of a wrong length.

    :raises InvalidKey: and says which lengths are taken.
    """
    lengths = KEY_LENGTHS[derivation]
    if len(key) not in lengths:
        wanted = str(lengths.start) if len(lengths) == 1 else f"{lengths.start} to {lengths[-1]}"
        raise InvalidKey(f"a {derivation} key has {wanted} bytes, this one has {len(key)}")


def derive(key: bytes, counter: int, derivation: Derivation, towards: Towards) -> bytes:
    """Return the connection ID number `counter` (1 to 2³²-1) of `key`: 12 bytes.

    :raises InvalidKey: if the key's length is wrong.
    :raises ValueError: if the counter is out of range.
    """
    check_key(key, derivation)
    if not 1 <= counter <= MAX_COUNTER:
        raise ValueError(f"counter {counter} is not in 1 to {MAX_COUNTER}")
    message = counter.to_bytes(4, "big")
    if derivation is Derivation.BLAKE3:
        digest = blake3(message, key=key).digest(length=CONNECTION_ID_LENGTH)
    else:
        digest = hashlib.blake2b(message, key=key, digest_size=CONNECTION_ID_LENGTH).digest()
    return bytes([digest[0] & ~_HTTP3_BIT | towards.value]) + digest[1:]


def is_towards_http3(connection_id: bytes) -> bool:
    """Whether the marker bit is set. An empty connection ID carries no marker."""
    return bool(connection_id) and connection_id[0] & _HTTP3_BIT != 0
