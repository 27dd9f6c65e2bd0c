"""The loop's table gives the verdicts of the reference, whatever datagram comes."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import (
    Change,
    ConnectionIdsAdded,
    ForwardingTable,
    OwnerMoved,
    OwnerRemoved,
    Verdict,
)
from relay.forwarding.channel import ConnectionIdsRemoved
from relay.forwarding.raw_table import OUTCOMES, RawTable, Route
from relay.wire.address import Address

CIDS = [bytes([first]) + bytes(10) + bytes([last]) for first in (0, 0x7F, 0x80) for last in (0, 1)]
PATHS = [
    Path(Address("192.0.2.1", 1111), 0, "198.51.100.1"),
    Path(Address("192.0.2.2", 1111), 0, "198.51.100.1"),
    Path(Address("2001:db8::1", 1111), 1, "2001:db8::100"),
    Path(Address("fe80::1%7", 1111), 1, "fe80::100%7"),
]
STRANGERS = [Address("192.0.2.1", 1112), Address("fe80::1%8", 1111), Address("2001:db8::2", 1)]

OWNERS = st.integers(0, 3)
SOURCES = st.sampled_from([path.remote for path in PATHS] + STRANGERS)


@pytest.fixture(scope="module")
def sockets() -> Iterator[list[socket.socket]]:
    """Nothing is sent through them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as v4,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as v6,
    ):
        yield [v4, v6]


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    """What a registry might say: a connection ID has one owner at a time, who is known."""
    said: list[Change] = []
    owned: dict[int, set[bytes]] = {}
    for _ in range(draw(st.integers(0, 12))):
        owner = draw(OWNERS)
        match draw(st.sampled_from(["move", "add", "remove"])):
            case "move":
                said.append(OwnerMoved(owner, draw(st.sampled_from(PATHS))))
                owned.setdefault(owner, set())
            case "add" if owner in owned:
                free = sorted(set(CIDS).difference(*owned.values()))
                ids = draw(st.lists(st.sampled_from(free), unique=True)) if free else []
                owned[owner].update(ids)
                said.append(ConnectionIdsAdded(owner, tuple(ids)))
            case "remove" if owner in owned:
                said.append(OwnerRemoved(owner, tuple(owned.pop(owner))))
    return said


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Nearly QUIC, then perhaps cut short."""
    known = st.sampled_from(CIDS)
    cid = known | st.binary(max_size=20) | known.map(lambda whole: whole[:8])
    if draw(st.booleans()):
        whole = bytes([draw(st.integers(0, 0x7F))]) + draw(known | cid)
    else:
        destination, source = draw(cid), draw(cid)
        whole = bytes([draw(st.integers(0x80, 0xFF))]) + draw(st.binary(min_size=4, max_size=4))
        whole += bytes([len(destination)]) + destination + bytes([len(source)]) + source
    whole += draw(st.binary(max_size=8))
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


def verdict(table: RawTable, datagram: bytes, source: Address) -> Verdict:
    """Decide as the loop does: the buffer is longer, and what is behind is of an earlier one."""
    buffer = memoryview(datagram + CIDS[0] * 50)
    decision = table.decide(buffer, len(datagram), source.sockaddr)
    if isinstance(decision, Route):
        assert decision.destination == decision.path.remote.sockaddr
        return Verdict(Outcome.FORWARDED, decision.path)
    return Verdict(OUTCOMES[decision])


@settings(max_examples=300)
@given(said=changes(), came=st.lists(st.tuples(datagrams() | st.binary(max_size=40), SOURCES)))
def test_verdicts_of_the_reference(
    sockets: list[socket.socket], said: list[Change], came: list[tuple[bytes, Address]]
) -> None:
    reference = ForwardingTable()
    table = RawTable(sockets, wildcard=[False, False])
    for change in said:
        reference.apply(change)
        table.apply(change)
    for datagram, source in came:
        assert verdict(table, datagram, source) == reference.decide(datagram, source)
    heard = table.take_heard(1000)
    assert len(heard) == len(set(heard))
    assert set(heard) == {source for _, source in came if reference.is_source(source)}


def test_every_header_gets_the_verdict_of_the_reference(sockets: list[socket.socket]) -> None:
    """All forms and all lengths of connection IDs, cut at every byte: no chance involved."""
    reference = ForwardingTable()
    table = RawTable(sockets, wildcard=[False, False])
    for change in (OwnerMoved(0, PATHS[0]), ConnectionIdsAdded(0, (CIDS[0], CIDS[4]))):
        reference.apply(change)
        table.apply(change)
    seen = set()
    for first in (0x00, 0x40, 0x80, 0xC0):
        for destination in (*CIDS, b"", b"short", b"long" * 5):
            for source in (b"", CIDS[0], CIDS[1], CIDS[0] + b"."):
                lengths = bytes([len(destination)]), bytes([len(source)])
                long = bytes([first, 0, 0, 0, 1]) + lengths[0] + destination + lengths[1] + source
                whole = long if first & 0x80 else bytes([first]) + destination + source
                for size in range(len(whole) + 1):
                    for address in (PATHS[0].remote, STRANGERS[0]):
                        expected = reference.decide(whole[:size], address)
                        assert verdict(table, whole[:size], address) == expected
                        seen.add(expected.outcome)
    assert seen == {
        Outcome.FORWARDED,
        Outcome.HTTP3,
        Outcome.MALFORMED,
        Outcome.UNKNOWN_CID,
        Outcome.UNREGISTERED_SOURCE,
        Outcome.STRAY_PEER_PACKET,
    }


def test_a_source_is_reported_once_and_again_when_it_speaks_again(
    sockets: list[socket.socket],
) -> None:
    table = RawTable(sockets, wildcard=[False, False])
    for owner, path in enumerate(PATHS):
        table.apply(OwnerMoved(owner, path))
    for _ in range(3):
        for path in PATHS:
            verdict(table, b"junk, and yet it shows that the peer lives", path.remote)
    assert table.take_heard(3) == [path.remote for path in PATHS[:3]]
    assert table.take_heard(3) == [PATHS[3].remote]
    assert table.take_heard(3) == []
    verdict(table, b"", PATHS[1].remote)
    verdict(table, b"", PATHS[2].remote)
    table.apply(OwnerRemoved(1, ()))
    assert table.take_heard(3) == [PATHS[2].remote]


def test_an_owner_may_go_in_several_commands(sockets: list[socket.socket]) -> None:
    table = RawTable(sockets, wildcard=[False, False])
    table.apply(OwnerMoved(0, PATHS[0]))
    table.apply(ConnectionIdsAdded(0, (CIDS[0], CIDS[1])))
    table.apply(ConnectionIdsRemoved(0, (CIDS[0],)))
    source = PATHS[0].remote
    assert verdict(table, b"\x40" + CIDS[0], source).outcome is Outcome.UNKNOWN_CID
    assert verdict(table, b"\x40" + CIDS[1], source) == Verdict(Outcome.FORWARDED, PATHS[0])
    table.apply(OwnerRemoved(0, (CIDS[1],)))
    assert verdict(table, b"\x40" + CIDS[1], source).outcome is Outcome.UNKNOWN_CID


def test_a_connection_id_that_was_removed_does_not_follow_the_number(
    sockets: list[socket.socket],
) -> None:
    """Numbers of owners are used again; what points to the old one must not lead to the new."""
    table = RawTable(sockets, wildcard=[False, False])
    table.apply(OwnerMoved(0, PATHS[0]))
    table.apply(ConnectionIdsAdded(0, (CIDS[0],)))
    table.apply(OwnerRemoved(0, (CIDS[0],)))
    table.apply(OwnerMoved(0, PATHS[1]))
    assert verdict(table, b"\x40" + CIDS[0], PATHS[1].remote).outcome is Outcome.UNKNOWN_CID
