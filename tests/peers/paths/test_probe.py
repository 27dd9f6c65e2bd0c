"""Probes on the wire: sealed, numbered, used once, and nothing that a stranger sends is taken."""

import random

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from peers.paths.probe import (
    AHEAD,
    BEHIND,
    LARGE,
    MAX_NUMBER,
    SMALL,
    WIDEST,
    Probe,
    ProbeDrop,
    ProbeKey,
    ProbeKind,
    ProbeReceiver,
    ProbeSender,
)
from relay.wire.address import Address
from relay.wire.invariants import ShortHeader, parse_invariants

KEY = bytes(range(32))
REQUEST = Probe(ProbeKind.REQUEST, b"12345678")


def _pair() -> tuple[ProbeSender, ProbeReceiver]:
    receiver = ProbeReceiver(KEY)
    receiver.start()
    return ProbeSender(KEY), receiver


def _seal(sender: ProbeSender, probe: Probe = REQUEST) -> bytes:
    return sender.seal(probe, 0)[1]


def test_vectors_of_the_protocol() -> None:
    # docs/protocol.md §13.4: whoever writes another peer checks against these.
    key = ProbeKey(KEY)
    assert key.id(1).hex() == "19a6042a5c113a3c96eeda15"
    assert key.id(2).hex() == "3ca87c2ff1b55c74ed302360"
    datagram = key.seal(1, REQUEST, 0)
    assert len(datagram) == SMALL
    assert datagram.hex() == (
        "4019a6042a5c113a3c96eeda150c570b81d5cc4f59d4213ac26e3fa543a21a9e"
        "477c1c188c5d0346f6819f419e79d0d20843359be2d44561977504425cdf2e37b81785d65072738e"
    )


@pytest.mark.parametrize(
    "probe",
    [
        REQUEST,
        Probe(ProbeKind.REQUEST, b"abcdefgh", use=True, size=LARGE),
        Probe(ProbeKind.RESPONSE, b"abcdefgh", seen=Address("192.0.2.1", 5)),
        Probe(ProbeKind.RESPONSE, bytes(8), seen=Address("2001:db8::5", 65_535), size=LARGE),
        Probe(ProbeKind.RESPONSE, bytes(8), seen=Address("2001:db8::5", 1), challenge=b"87654321"),
    ],
)
def test_what_is_sealed_opens_once(probe: Probe) -> None:
    sender, receiver = _pair()
    datagram = _seal(sender, probe)
    assert len(datagram) == probe.size
    header = parse_invariants(datagram)
    assert isinstance(header, ShortHeader)
    assert header.destination_cid in receiver.added
    assert not header.destination_cid[0] & 0x80  # to the relay: an unknown peer
    assert receiver.open(datagram) == probe
    assert receiver.open(datagram) is ProbeDrop.UNKNOWN_ID
    assert receiver.removed == [header.destination_cid]


def test_two_probes_have_nothing_in_common() -> None:
    sender, _ = _pair()
    first, second = _seal(sender), _seal(sender)
    same = sum(a == b for a, b in zip(first[1:], second[1:], strict=True))
    assert same <= 4  # by chance


def test_a_forged_probe_does_not_use_the_number_up() -> None:
    sender, receiver = _pair()
    datagram = _seal(sender)
    for position in (0, 20, len(datagram) - 1):
        forged = bytearray(datagram)
        forged[position] ^= 1
        assert receiver.open(bytes(forged)) is ProbeDrop.FORGED
    for short in (datagram[:13], datagram[:28], datagram[:-1]):
        assert receiver.open(short) is ProbeDrop.FORGED
    assert receiver.open(datagram) == REQUEST


@given(st.binary(max_size=100), st.integers(0, 5))
def test_any_body_gives_a_value(body: bytes, first_byte: int) -> None:
    # Even of an authentic but malformed probe: the other end may be hostile.
    _, receiver = _pair()
    datagram = _raw(1, bytes([first_byte]) + body)
    opened = receiver.open(datagram)
    assert isinstance(opened, Probe) or opened is ProbeDrop.MALFORMED


@given(st.binary(max_size=1500))
def test_any_datagram_gives_a_value(datagram: bytes) -> None:
    _, receiver = _pair()
    assert receiver.open(datagram) is ProbeDrop.UNKNOWN_ID


def _raw(number: int, body: bytes) -> bytes:
    """An authentic datagram with any body."""
    aead = ChaCha20Poly1305(blake3(b"quicpipe/1 probe seal", key=KEY).digest(length=32))
    header = b"\x40" + ProbeKey(KEY).id(number)
    return header + aead.encrypt(number.to_bytes(12, "big"), body, header)


def test_late_ones_are_told_from_those_that_are_too_late() -> None:
    sender, receiver = _pair()
    datagrams = [_seal(sender) for _ in range(AHEAD)]
    sender.arrived(AHEAD)
    datagrams += [_seal(sender) for _ in range(2)]
    assert receiver.open(datagrams[BEHIND - 1]) == REQUEST
    assert receiver.open(datagrams[BEHIND]) == REQUEST
    assert receiver.open(datagrams[0]) == REQUEST  # late by as many as may be
    assert receiver.open(datagrams[BEHIND + 1]) == REQUEST
    assert receiver.open(datagrams[1]) == REQUEST
    sender.arrived(BEHIND + 2)
    assert receiver.open(_seal(sender)) == REQUEST
    assert receiver.open(datagrams[2]) == REQUEST
    assert receiver.open(_seal(sender)) == REQUEST
    assert receiver.open(_seal(sender)) == REQUEST
    assert receiver.open(datagrams[3]) is ProbeDrop.UNKNOWN_ID
    assert len(receiver.added) - len(receiver.removed) <= AHEAD + BEHIND


def test_the_sender_stops_where_the_receiver_does() -> None:
    sender, receiver = _pair()
    datagrams = [_seal(sender) for _ in range(AHEAD)]
    assert sender.credit == 0
    with pytest.raises(ValueError, match="expects no further"):
        sender.seal(REQUEST, 0)
    assert receiver.open(datagrams[-1]) == REQUEST
    sender.arrived(AHEAD)
    assert sender.credit == AHEAD
    for _ in range(AHEAD):
        last = _seal(sender)
    assert receiver.open(last) == REQUEST


def test_nothing_foreign_confirms_a_number() -> None:
    sender, _ = _pair()
    _seal(sender)
    sender.arrived(1_000)
    assert sender.credit == AHEAD - 1


def test_all_lost_is_made_good_by_telling_the_number() -> None:
    sender, receiver = _pair()
    for _ in range(AHEAD):
        _seal(sender)
    receiver.expect(sender.next_number)
    sender.arrived(sender.next_number - 1)
    assert receiver.open(_seal(sender)) == REQUEST


def test_a_leap_and_the_end_of_all_numbers() -> None:
    _, receiver = _pair()
    receiver.expect(MAX_NUMBER - 3)
    receiver.expect(MAX_NUMBER + 5)
    assert len(receiver.added) - len(receiver.removed) <= AHEAD + BEHIND + 1
    receiver.expect(7)  # back: nothing
    assert len(set(receiver.added)) == len(receiver.added)


def test_a_window_widens_and_narrows_without_giving_a_number_twice() -> None:
    sender, receiver = _pair()
    receiver.widen(WIDEST)
    sender.widen(WIDEST)
    datagrams = [_seal(sender) for _ in range(WIDEST)]
    assert receiver.open(datagrams[1_000]) == REQUEST
    receiver.widen(AHEAD)
    assert receiver.open(datagrams[1_000]) is ProbeDrop.UNKNOWN_ID
    assert receiver.open(datagrams[1_000 + AHEAD]) == REQUEST
    assert receiver.open(datagrams[1_000 + 2 * AHEAD + 1]) is ProbeDrop.UNKNOWN_ID


def test_the_window_is_right_under_any_order() -> None:
    # Whatever is lost or reordered: nothing opens twice, the IDs told are those that open.
    chance = random.Random(5)
    for _ in range(30):
        sender, receiver = _pair()
        live = _Live(receiver)
        on_the_way: list[bytes] = []
        used: set[bytes] = set()
        for _ in range(400):
            if sender.credit > 0:
                on_the_way.append(_seal(sender))
            else:
                receiver.expect(sender.next_number)
                sender.arrived(sender.next_number - 1)
            if chance.random() < 0.5 and on_the_way:
                datagram = on_the_way.pop(chance.randrange(len(on_the_way)))
                is_live = live(datagram[1:13])
                opened = receiver.open(datagram)
                assert (opened == REQUEST) == is_live
                assert not (is_live and datagram in used)
                used.add(datagram)


class _Live:
    """The IDs that an endpoint would know."""

    def __init__(self, receiver: ProbeReceiver) -> None:
        self._receiver = receiver
        self._ids: set[bytes] = set()

    def __call__(self, probe_id: bytes) -> bool:
        self._ids.update(self._receiver.added)
        self._ids.difference_update(self._receiver.removed)
        self._receiver.added.clear()
        self._receiver.removed.clear()
        assert len(self._ids) <= AHEAD + BEHIND + 1
        return probe_id in self._ids
