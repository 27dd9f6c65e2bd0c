"""docs/protocol.md §4: what becomes of a datagram, rule by rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import (
    ConnectionIdsAdded,
    ForwardingTable,
    OwnerMoved,
    OwnerRemoved,
    Verdict,
)
from relay.wire.address import Address

DIALER = Path(Address("192.0.2.1", 1111), 0, "198.51.100.1")
ACCEPTER = Path(Address("2001:db8::2", 2222), 1, "2001:db8::100")
STRANGER = Address("203.0.113.9", 3333)

DIALER_CID = bytes.fromhex("2b5c2c4c9385fb1b29934723")
ACCEPTER_CID = bytes.fromhex("340fc5883318b2ad9983146a")
UNKNOWN = bytes(12)
TO_HTTP3 = b"\x80" + bytes(11)


def short(destination: bytes) -> bytes:
    return b"\x40" + destination + b"payload"


def long(destination: bytes, source: bytes) -> bytes:
    lengths = bytes([len(destination)]), bytes([len(source)])
    return b"\xc0\0\0\0\1" + lengths[0] + destination + lengths[1] + source + b"payload"


@pytest.fixture
def table() -> ForwardingTable:
    made = ForwardingTable()
    made.apply(OwnerMoved(0, DIALER))
    made.apply(ConnectionIdsAdded(0, (DIALER_CID,)))
    made.apply(OwnerMoved(1, ACCEPTER))
    made.apply(ConnectionIdsAdded(1, (ACCEPTER_CID,)))
    return made


@pytest.mark.parametrize(
    ("datagram", "source", "expected"),
    [
        (b"", DIALER.remote, Outcome.MALFORMED),
        (b"\x40" + DIALER_CID[:-1], ACCEPTER.remote, Outcome.MALFORMED),
        (short(DIALER_CID), ACCEPTER.remote, Outcome.FORWARDED),
        (long(DIALER_CID, ACCEPTER_CID), ACCEPTER.remote, Outcome.FORWARDED),
        (long(DIALER_CID, b""), ACCEPTER.remote, Outcome.FORWARDED),
        (short(DIALER_CID), STRANGER, Outcome.UNREGISTERED_SOURCE),
        (long(DIALER_CID, UNKNOWN), STRANGER, Outcome.UNREGISTERED_SOURCE),
        (short(UNKNOWN), ACCEPTER.remote, Outcome.UNKNOWN_CID),
        (short(UNKNOWN), STRANGER, Outcome.UNKNOWN_CID),
        (short(TO_HTTP3), STRANGER, Outcome.HTTP3),
        (long(UNKNOWN, DIALER_CID), DIALER.remote, Outcome.STRAY_PEER_PACKET),
        (long(TO_HTTP3, DIALER_CID), STRANGER, Outcome.STRAY_PEER_PACKET),
        (long(UNKNOWN, UNKNOWN), STRANGER, Outcome.HTTP3),
        (long(b"", b""), STRANGER, Outcome.HTTP3),
        (long(b"d" * 255, b"s" * 255), STRANGER, Outcome.HTTP3),
    ],
)
def test_rules(table: ForwardingTable, datagram: bytes, source: Address, expected: Outcome) -> None:
    path = DIALER if expected is Outcome.FORWARDED else None
    assert table.decide(datagram, source) == Verdict(expected, path)


def test_a_peer_that_moves_takes_all_its_connection_ids_along(table: ForwardingTable) -> None:
    moved = Path(Address("192.0.2.7", 7777), 0, "198.51.100.1")
    table.apply(OwnerMoved(0, moved))
    assert table.decide(short(DIALER_CID), ACCEPTER.remote).path == moved
    verdict = table.decide(short(ACCEPTER_CID), DIALER.remote)
    assert verdict.outcome is Outcome.UNREGISTERED_SOURCE
    assert table.decide(short(ACCEPTER_CID), moved.remote).path == ACCEPTER
    assert not table.is_source(DIALER.remote)


def test_what_is_removed_is_gone_and_its_number_may_be_used_again(table: ForwardingTable) -> None:
    table.apply(OwnerRemoved(0, (DIALER_CID,)))
    assert table.decide(short(DIALER_CID), ACCEPTER.remote).outcome is Outcome.UNKNOWN_CID
    assert not table.is_source(DIALER.remote)
    other = Path(STRANGER, 0, "198.51.100.1")
    table.apply(OwnerMoved(0, other))
    table.apply(ConnectionIdsAdded(0, (UNKNOWN,)))
    assert table.decide(short(UNKNOWN), ACCEPTER.remote).path == other
    assert table.decide(short(DIALER_CID), ACCEPTER.remote).outcome is Outcome.UNKNOWN_CID


def test_an_address_is_a_source_while_any_owner_has_it(table: ForwardingTable) -> None:
    table.apply(OwnerMoved(2, DIALER))
    table.apply(OwnerRemoved(0, (DIALER_CID,)))
    assert table.is_source(DIALER.remote)
    table.apply(OwnerRemoved(2, ()))
    assert not table.is_source(DIALER.remote)


@given(st.binary(max_size=80), st.sampled_from([DIALER.remote, STRANGER]))
def test_any_datagram_gets_a_verdict(datagram: bytes, source: Address) -> None:
    verdict = ForwardingTable().decide(datagram, source)
    assert verdict.outcome in (Outcome.MALFORMED, Outcome.UNKNOWN_CID, Outcome.HTTP3)
    assert verdict.path is None
