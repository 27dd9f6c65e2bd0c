"""The part of a QUIC packet that every version shares (RFC 8999 §5), and nothing else.

The relay reads no more than this: not the version, not the fixed bit (RFC 9287 lets peers clear
it), so that a version it has never heard of is forwarded as well as any other.
"""

from dataclasses import dataclass

from .connection_id import CONNECTION_ID_LENGTH

LONG_HEADER_BIT = 0x80
SHORT_HEADER_MINIMUM = 1 + CONNECTION_ID_LENGTH
LONG_HEADER_MINIMUM = 7
"""Form byte, version (4), two connection ID lengths (1 each)."""


@dataclass(frozen=True, slots=True)
class LongHeader:
    """RFC 8999 §5.1. Connection IDs are 0 to 255 bytes: QUIC v1's limit of 20 is not invariant."""

    version: int
    destination_cid: bytes
    source_cid: bytes


@dataclass(frozen=True, slots=True)
class ShortHeader:
    """RFC 8999 §5.2. The length of the connection ID is ours to know: 12 bytes."""

    destination_cid: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """A datagram that does not begin with a QUIC packet."""

    why: str


def parse_invariants(datagram: bytes) -> LongHeader | ShortHeader | Malformed:
    """Read the header of the first packet in `datagram`. Any input gives a result."""
    size = len(datagram)
    if size == 0:
        return Malformed("empty datagram")
    if not datagram[0] & LONG_HEADER_BIT:
        if size < SHORT_HEADER_MINIMUM:
            return Malformed("short header ends inside its connection ID")
        return ShortHeader(datagram[1:SHORT_HEADER_MINIMUM])
    if size < LONG_HEADER_MINIMUM:
        return Malformed("long header ends before its connection IDs")
    source_length_at = 6 + datagram[5]
    if size <= source_length_at:
        return Malformed("long header ends inside its destination connection ID")
    source_at = source_length_at + 1
    end = source_at + datagram[source_length_at]
    if size < end:
        return Malformed("long header ends inside its source connection ID")
    return LongHeader(
        version=int.from_bytes(datagram[1:5], "big"),
        destination_cid=datagram[6:source_length_at],
        source_cid=datagram[source_at:end],
    )
