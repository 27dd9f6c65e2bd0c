"""RFC 8999 §5: what every version shares; any bytes give a value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.invariants import LongHeader, Malformed, ShortHeader, parse_invariants

CID = "2b5c2c4c9385fb1b29934723"

KNOWN = [
    # RFC 9001 appendix A.2: the client's Initial.
    (
        "c3 00000001 08 8394c8f03e515708 00 00449e7b9aec34",
        LongHeader(1, bytes.fromhex("8394c8f03e515708"), b""),
    ),
    # RFC 9001 appendix A.3: the server's.
    (
        "c1 00000001 00 08 f067a5502a4262b5 004075c0d95a48",
        LongHeader(1, b"", bytes.fromhex("f067a5502a4262b5")),
    ),
    # RFC 9369 §3: version 2 is no other invariant.
    (
        f"d3 6b3343cf 0c {CID} 01 aa",
        LongHeader(0x6B3343CF, bytes.fromhex(CID), b"\xaa"),
    ),
    # Version negotiation (RFC 8999 §6), fixed bit clear, empty connection IDs: the least there is.
    ("80 00000000 00 00", LongHeader(0, b"", b"")),
    ("40" + CID, ShortHeader(bytes.fromhex(CID))),
    # RFC 9287: the fixed bit may be clear.
    ("00" + CID + "ffff", ShortHeader(bytes.fromhex(CID))),
]


@pytest.mark.parametrize(("octets", "expected"), KNOWN)
def test_known_headers(octets: str, expected: LongHeader | ShortHeader) -> None:
    assert parse_invariants(bytes.fromhex(octets)) == expected


@pytest.mark.parametrize(("octets", "header"), KNOWN)
def test_every_cut_is_malformed_or_shorter(octets: str, header: LongHeader | ShortHeader) -> None:
    whole = bytes.fromhex(octets)
    if isinstance(header, LongHeader):
        needed = 7 + len(header.destination_cid) + len(header.source_cid)
    else:
        needed = 1 + len(header.destination_cid)
    for size in range(len(whole)):
        parsed = parse_invariants(whole[:size])
        assert (parsed == header) if size >= needed else isinstance(parsed, Malformed), size


def test_the_longest_connection_ids_that_the_invariants_allow() -> None:
    datagram = b"\x80" + bytes(4) + b"\xff" + b"d" * 255 + b"\xff" + b"s" * 255
    assert parse_invariants(datagram) == LongHeader(0, b"d" * 255, b"s" * 255)
    assert isinstance(parse_invariants(datagram[:-1]), Malformed)


@given(st.binary(max_size=600))
def test_any_bytes_give_a_value(datagram: bytes) -> None:
    parsed = parse_invariants(datagram)
    match parsed:
        case Malformed(why):
            assert why
        case ShortHeader(destination):
            assert datagram[0] < 0x80
            assert datagram[1:13] == destination
        case LongHeader(version, destination, source):
            rebuilt = (
                datagram[:1]
                + version.to_bytes(4, "big")
                + bytes([len(destination)])
                + destination
                + bytes([len(source)])
                + source
            )
            assert datagram[0] >= 0x80
            assert datagram.startswith(rebuilt)
