"""Control messages: read back as they were written; anything else is malformed, and counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.nat.outlook import Mapping
from peers.paths.candidate import Kind, RemoteCandidate
from peers.paths.inbox import CANDIDATES_BURST, MESSAGES_BURST, PUNCHES_BURST, Inbox
from peers.paths.message import (
    MAX_NAMED,
    Birthday,
    Candidates,
    Hello,
    Malformed,
    Message,
    Punch,
    Relayed,
    Stage,
    Sync,
    Synced,
    encode,
    parse,
)
from relay.wire.address import Address

LIST = Candidates(
    Mapping.DEPENDENT,
    (
        RemoteCandidate(Kind.OUTSIDE, Address("192.0.2.1", 50_000)),
        RemoteCandidate(Kind.HOST, Address("2001:db8::1", 1_024)),
    ),
)
CASES: list[tuple[str, Message]] = [
    ("010100" + "07" * 32, Hello(b"\x07" * 32)),
    ("010101" + "07" * 32, Hello(b"\x07" * 32, relay_only=True)),
    ("0202020104c0000201c3500306" + "20010db8" + "00" * 11 + "010400", LIST),
    ("020000", Candidates(Mapping.UNKNOWN, ())),
    ("0300000005", Punch(5)),
    ("04ffffffff", Sync(2**32 - 1)),
    ("0500000001", Synced(1)),
    ("06010800", Birthday(Stage.OFFER, 2048)),
    ("0700000002", Relayed(2)),
]


@pytest.mark.parametrize(("octets", "message"), CASES)
def test_bytes_and_meaning(octets: str, message: Message) -> None:
    # docs/protocol.md §13.2
    assert encode(message).hex() == octets
    assert parse(bytes.fromhex(octets)) == message
    assert parse(bytes.fromhex(octets) + b"of a later version") == message


@pytest.mark.parametrize(("octets", "message"), CASES)
def test_cut_short_is_malformed(octets: str, message: Message) -> None:
    body = bytes.fromhex(octets)
    for length in range(len(body)):
        assert isinstance(parse(body[:length]), Malformed)


@pytest.mark.parametrize(
    "octets",
    [
        "",
        "00",
        "ff00000000",
        "010200" + "00" * 32,  # another version
        "020300",  # no such mapping
        "0200" + f"{MAX_NAMED + 1:02x}" + "00" * 1000,
        "0200010004c0000201c350",  # a reflexive one is nobody's to name
        "0200010105c0000201c350",  # no such family
        "0200010904c0000201c350",  # no such kind
        "06050000",  # no such stage
    ],
)
def test_what_means_nothing(octets: str) -> None:
    assert isinstance(parse(bytes.fromhex(octets)), Malformed)


@given(st.binary(max_size=300), st.integers(0, 8))
def test_any_bytes_give_a_value(body: bytes, kind: int) -> None:
    for each in (body, bytes([kind]) + body):
        message = parse(each)
        if not isinstance(message, Malformed):
            assert parse(encode(message)) == message


def test_ipv4_inside_ipv6_is_ipv4() -> None:
    body = bytes.fromhex("0200010106" + "00" * 10 + "ffff" + "7f000001" + "c350")
    message = parse(body)
    assert isinstance(message, Candidates)
    assert message.candidates[0].address == Address("127.0.0.1", 50_000)


def test_floods_are_counted_and_the_latest_list_is_taken_in_time() -> None:
    inbox = Inbox()
    for port in range(2_000, 2_000 + CANDIDATES_BURST):
        inbox.open(encode(_list(port)), 0.0)
        assert inbox.take_candidates(0.0) == _list(port)
    assert inbox.next_due(0.0) is None
    inbox.open(encode(_list(1)), 0.0)
    inbox.open(encode(_list(2)), 0.0)
    assert inbox.take_candidates(0.0) is None
    due = inbox.next_due(0.0)
    assert due is not None
    assert inbox.take_candidates(due) == _list(2)
    assert inbox.take_candidates(due + 100) is None
    assert not inbox.dropped

    punches = [inbox.open(encode(Punch(each)), due) for each in range(PUNCHES_BURST + 3)]
    assert punches.count(None) == 3
    for _ in range(MESSAGES_BURST):
        inbox.open(encode(Sync(1)), due)
    assert inbox.open(encode(Sync(1)), due) is None
    assert inbox.open(b"junk", due + 1) is None
    assert inbox.dropped["message: malformed, or of a later version"] == 1
    assert inbox.dropped["message: too many"] >= 4


def _list(port: int) -> Candidates:
    named = RemoteCandidate(Kind.HOST, Address("192.0.2.1", port))
    return Candidates(Mapping.UNKNOWN, (named,))
