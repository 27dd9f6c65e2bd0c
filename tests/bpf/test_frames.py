"""The table of frames: what the program does with each, byte for byte, and which counter moves.

Every frame also goes through the reference (relay.core.table): the two must agree.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bpf.layout import KernelOutcome as K
from relay.kernel.forwarder import Rate
from relay.wire.address import Address

from . import agreement
from .frames import OTHER_MAC, OWN_MAC, PEER_MAC, Frame, receive
from .lab import LOOPBACK, KernelUnderTest
from .scene import CIDS, PORT, RECEIVER, RELAYS, REST, SENDER, SENDERS, Scene


@pytest.fixture
def scene(kernel: KernelUnderTest) -> Scene:
    return Scene(kernel)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


Prepare = Callable[[Scene, int], None]


def nothing(scene: Scene, family: int) -> None:
    """The scene is right as it is."""


def forget_receiver(scene: Scene, family: int) -> None:
    scene.remove(RECEIVER[family])


def forget_sender(scene: Scene, family: int) -> None:
    scene.remove(SENDER[family])


def expire_receiver(scene: Scene, family: int) -> None:
    scene.entry(RECEIVER[family]).lease_end_ns = time.monotonic_ns() - 10**9


def expire_sender(scene: Scene, family: int) -> None:
    scene.entry(SENDER[family]).lease_end_ns = time.monotonic_ns() - 10**9


def receiver_of_the_other_family(scene: Scene, family: int) -> None:
    scene.move(RECEIVER[family], Address("2001:db8::77" if family == 4 else "192.0.2.77", 7777))


def no_hop(scene: Scene, family: int) -> None:
    scene.entry(RECEIVER[family]).hop.seen_ns = 0


def old_hop(scene: Scene, family: int) -> None:
    scene.entry(RECEIVER[family]).hop.seen_ns = time.monotonic_ns() - 31 * 10**9


def hop_elsewhere(scene: Scene, family: int) -> None:
    scene.learn_hop(RECEIVER[family], ifindex=77)


def small_mtu(scene: Scene, family: int) -> None:
    scene.entry(RECEIVER[family]).hop.mtu = 65 if family == 6 else 45


def being_written(scene: Scene, family: int) -> None:
    scene.entry(RECEIVER[family]).sequence |= 1


def reused_number(scene: Scene, family: int) -> None:
    """The owner is gone and another has its number, but an entry was left over."""
    key = CIDS[family]
    left_over = scene.kernel.maps.owner_by_cid.get(key)
    assert left_over is not None
    receiver = Address(*scene.forwarded(family).destination)
    scene.remove(RECEIVER[family])
    scene.move(RECEIVER[family], receiver)
    scene.learn_hop(RECEIVER[family])
    scene.kernel.maps.owner_by_cid.put(key, left_over)


@dataclass(frozen=True)
class Row:
    name: str
    outcome: K
    frame: dict[str, Any] | None = None
    """Fields of the frame from sender to receiver that are not as usual."""
    prepare: Prepare = nothing
    families: tuple[int, ...] = (4, 6)
    change: Callable[[bytearray], Any] | None = None
    """What is done to the frame's bytes."""
    forwarded: dict[str, Any] | None = None
    """Fields of the frame that comes out that are not as usual."""


def put(offset: int, data: bytes) -> Callable[[bytearray], Any]:
    """Overwrite bytes of a frame, counted from the end of the Ethernet header."""

    def change(frame: bytearray) -> None:
        frame[14 + offset : 14 + offset + len(data)] = data

    return change


def insert(offset: int, data: bytes) -> Callable[[bytearray], Any]:
    def change(frame: bytearray) -> None:
        frame[offset:offset] = data

    return change


def grow(data: bytes) -> Callable[[bytearray], Any]:
    return lambda frame: frame.extend(data)


HTTP3_CID = b"\xab" + CIDS[4][1:]

ROWS = [
    Row("short header", K.FORWARDED),
    Row("fixed bit clear (RFC 9287)", K.FORWARDED, {"first_byte": 0x00}),
    Row("every other bit set", K.FORWARDED, {"first_byte": 0x7F}),
    Row("header alone", K.FORWARDED, {"rest": b""}),
    Row("largest payload", K.FORWARDED, {"rest": bytes(1400)}),
    Row("odd length", K.FORWARDED, {"rest": b"odd"}),
    Row("ECN: congestion experienced", K.FORWARDED, {"tos": 0x03}),
    Row("ECN and DSCP", K.FORWARDED, {"tos": 0xB9}),
    Row(
        "may be fragmented: no longer",
        K.FORWARDED,
        {"dont_fragment": False},
        families=(4,),
        forwarded={"dont_fragment": True},
    ),
    Row("no UDP checksum", K.FORWARDED, {"checksum": "none"}, families=(4,)),
    Row("no UDP checksum over IPv6", K.BAD_FRAME, {"checksum": "none"}, families=(6,)),
    Row("partial checksum on lo", K.FORWARDED, {"checksum": "partial"}),
    Row("last but one hop", K.FORWARDED, {"ttl": 2}, forwarded={"ttl": 1}),
    Row("last hop", K.HOP_LIMIT, {"ttl": 1}),
    Row("hop limit zero", K.HOP_LIMIT, {"ttl": 0}),
    Row("Ethernet padding", K.FORWARDED, {"rest": b""}, change=grow(bytes(5))),
    Row("another port", K.NOT_OURS, {"destination_port": PORT + 1}),
    Row("port zero", K.NOT_OURS, {"destination_port": 0}),
    Row("TCP", K.NOT_OURS, families=(4,), change=put(9, b"\x06")),
    Row("TCP over IPv6", K.NOT_OURS, families=(6,), change=put(6, b"\x06")),
    Row("ICMPv6", K.NOT_OURS, families=(6,), change=put(6, b"\x3a")),
    Row("ARP", K.NOT_OURS, change=put(-2, b"\x08\x06")),
    Row("VLAN tag", K.VLAN_TAG, change=insert(12, b"\x81\x00\x00\x05")),
    Row("service VLAN tag", K.VLAN_TAG, change=insert(12, b"\x88\xa8\x00\x05")),
    Row("first fragment", K.FRAGMENT, families=(4,), change=put(6, b"\x20\x00")),
    Row("later fragment", K.FRAGMENT, families=(4,), change=put(6, b"\x00\x01")),
    Row("fragment header", K.FRAGMENT, families=(6,), change=put(6, b"\x2c")),
    Row("IP options", K.IP_OPTIONS, families=(4,), change=put(0, b"\x46")),
    Row("header too short", K.BAD_FRAME, families=(4,), change=put(0, b"\x44")),
    Row("hop-by-hop options", K.IP_OPTIONS, families=(6,), change=put(6, b"\x00")),
    Row("routing header", K.IP_OPTIONS, families=(6,), change=put(6, b"\x2b")),
    Row("destination options", K.IP_OPTIONS, families=(6,), change=put(6, b"\x3c")),
    Row("version 5", K.BAD_FRAME, families=(4,), change=put(0, b"\x55")),
    Row("version 7", K.BAD_FRAME, families=(6,), change=put(0, b"\x70")),
    Row("IP length too large", K.BAD_FRAME, families=(4,), change=put(2, b"\x01\x00")),
    Row("IP length too small", K.BAD_FRAME, families=(4,), change=put(2, b"\x00\x1b")),
    Row("IPv6 length zero", K.BAD_FRAME, families=(6,), change=put(4, b"\x00\x00")),
    Row("UDP length too large", K.BAD_FRAME, families=(4,), change=put(24, b"\x01\x00")),
    Row("UDP length too small", K.BAD_FRAME, families=(4,), change=put(24, b"\x00\x07")),
    Row("UDP length zero", K.BAD_FRAME, families=(6,), change=put(44, b"\x00\x00")),
    Row("another host's MAC", K.OTHER_HOST, {"to_mac": OTHER_MAC}),
    Row("broadcast", K.OTHER_HOST, {"to_mac": b"\xff" * 6}),
    Row("long header", K.LONG_HEADER, {"payload": b"\xc0\0\0\0\x01\x0c" + CIDS[4] + bytes(30)}),
    Row("long header, nothing else", K.LONG_HEADER, {"payload": b"\x80"}),
    Row("empty payload", K.MALFORMED, {"payload": b""}),
    Row("half a connection ID", K.MALFORMED, {"payload": b"\x40" + CIDS[4][:11]}),
    Row("HTTP/3", K.HTTP3, {"payload": b"\x40" + HTTP3_CID + REST}),
    Row("unknown connection ID", K.UNKNOWN_CID, {"payload": b"\x40" + bytes(12) + REST}),
    Row("connection ID removed", K.UNKNOWN_CID, prepare=forget_receiver),
    Row("connection ID of the one before", K.UNKNOWN_CID, prepare=reused_number),
    Row("unregistered source", K.UNREGISTERED_SOURCE, {"source_port": 999}),
    Row("source no longer registered", K.UNREGISTERED_SOURCE, prepare=forget_sender),
    Row("other relay address", K.UNREGISTERED_SOURCE, {"other_relay_address": True}),
    Row("receiver expired", K.EXPIRED, prepare=expire_receiver),
    Row("sender expired", K.EXPIRED, prepare=expire_sender),
    Row("other address family", K.FAMILY_MISMATCH, prepare=receiver_of_the_other_family),
    Row("GSO: longer than one datagram", K.OVERSIZED, {"rest": bytes(1488)}),
    Row("no next hop", K.NO_NEXT_HOP, prepare=no_hop),
    Row("next hop too old", K.NO_NEXT_HOP, prepare=old_hop),
    Row("from lo to another interface", K.NO_NEXT_HOP, prepare=hop_elsewhere),
    Row("too big for the next hop", K.TOO_BIG, prepare=small_mtu),
    Row("entry being written", K.BUSY, prepare=being_written),
]
CASES = [
    pytest.param(row, family, id=f"{row.name}-ipv{family}")
    for row in ROWS
    for family in row.families
]


def frame_of(scene: Scene, family: int, fields: dict[str, Any]) -> Frame:
    """The frame from sender to receiver, with some fields otherwise."""
    fields = dict(fields)
    first = fields.pop("first_byte", 0x40)
    rest = fields.pop("rest", REST)
    payload = fields.pop("payload", bytes([first]) + CIDS[family] + rest)
    if (port := fields.pop("destination_port", None)) is not None:
        fields["destination"] = (RELAYS[family].host, port)
    if (port := fields.pop("source_port", None)) is not None:
        fields["source"] = (SENDERS[family].host, port)
    if fields.pop("other_relay_address", False):
        fields["destination"] = ("192.0.2.11" if family == 4 else "2001:db8::11", PORT)
    return scene.frame(family, payload, **fields)


@pytest.mark.parametrize(("row", "family"), CASES)
def test_row(scene: Scene, row: Row, family: int) -> None:
    row.prepare(scene, family)
    fields = row.frame or {}
    frame = bytearray(frame_of(scene, family, fields).build())
    if row.change:
        row.change(frame)
    assert agreement.check(scene.kernel, scene.table, bytes(frame), PORT) is row.outcome
    result, outcome = scene.kernel.verdict(bytes(frame))
    assert outcome is row.outcome
    if outcome is K.FORWARDED:
        expected = {k: v for k, v in fields.items() if k in ("tos", "checksum", "dont_fragment")}
        payload = received.payload if (received := receive(bytes(frame))) else b""
        wanted = bytearray(
            scene.forwarded(family, payload, **expected | (row.forwarded or {})).build()
        )
        if row.change:
            row.change(wanted)
        assert result.frame == wanted


def test_every_outcome_has_its_row() -> None:
    elsewhere = {
        K.RATE_LIMITED,  # test_rates
        K.ALLOWANCE_USED,  # test_buckets.py
        K.PARTIAL_CHECKSUM,  # tests/netns: on `lo` it is no reason
        K.ABORTED,  # helpers that cannot fail
    }
    assert {row.outcome for row in ROWS} | elsewhere == set(K)


def test_truncated_at_every_byte(scene: Scene, family: int) -> None:
    frame = scene.frame(family).build()
    for size in range(14, len(frame)):
        outcome = agreement.check(scene.kernel, scene.table, frame[:size], PORT)
        assert outcome is K.BAD_FRAME, size


def test_shorter_datagrams_at_every_byte(scene: Scene, family: int) -> None:
    payload = b"\x40" + CIDS[family] + REST
    for size in range(len(payload)):
        frame = scene.frame(family, payload[:size]).build()
        outcome = agreement.check(scene.kernel, scene.table, frame, PORT)
        assert outcome is (K.FORWARDED if size >= 13 else K.MALFORMED), size


def test_every_ecn_and_dscp(scene: Scene, family: int) -> None:
    for tos in range(256):
        result, outcome = scene.kernel.verdict(scene.frame(family, tos=tos).build())
        assert outcome is K.FORWARDED
        assert result.frame == scene.forwarded(family, tos=tos).build()


def test_checksums_of_many_payloads(scene: Scene, family: int) -> None:
    """Among 70,000 sums each value of the field occurs, those next to zero included."""
    for number in range(70_000 // 16):
        rest = struct.pack("!I", number * 16) + bytes(number % 3)
        result = scene.kernel.run(scene.frame(family, b"\x40" + CIDS[family] + rest).build())
        assert result.action == agreement.XDP_TX
        wanted = scene.forwarded(family, b"\x40" + CIDS[family] + rest).build()
        assert result.frame == wanted


def test_a_checksum_that_comes_to_zero_is_written_as_ones(scene: Scene, family: int) -> None:
    found = 0
    for number in range(65536):
        payload = b"\x40" + CIDS[family] + b"\0" + struct.pack("!H", number)
        wanted = scene.forwarded(family, payload).build()
        udp = 54 if family == 6 else 34
        if wanted[udp + 6 : udp + 8] == b"\xff\xff":
            found += 1
            assert scene.kernel.run(scene.frame(family, payload).build()).frame == wanted
    assert found


def test_the_way_back_is_learned_from_whatever_comes(scene: Scene, family: int) -> None:
    sender = scene.entry(SENDER[family])
    for payload in (b"\x40" + CIDS[family], b"\xc0" + bytes(30), b"\x40" + HTTP3_CID, b""):
        sender.hop.seen_ns = 0
        scene.kernel.run(scene.frame(family, payload).build())
        assert bytes(sender.hop.peer_mac) == PEER_MAC
        assert bytes(sender.hop.own_mac) == OWN_MAC
        assert (sender.hop.ifindex, sender.hop.mtu) == (LOOPBACK, 65536)
        assert abs(time.monotonic_ns() - sender.hop.seen_ns) < 10**9


def test_nothing_is_learned_from_a_stranger_or_a_frame_for_others(
    scene: Scene, family: int
) -> None:
    sender = scene.entry(SENDER[family])
    for fields in ({"to_mac": OTHER_MAC}, {"source": (SENDERS[family].host, 999)}):
        sender.hop.seen_ns = 0
        scene.kernel.run(scene.frame(family, **fields).build())
        assert sender.hop.seen_ns == 0


def test_the_hop_follows_the_peer_to_another_router(scene: Scene, family: int) -> None:
    scene.kernel.run(scene.frame(family).build())
    scene.kernel.run(scene.frame(family, from_mac=OTHER_MAC).build())
    assert bytes(scene.entry(SENDER[family]).hop.peer_mac) == OTHER_MAC


def test_several_senders_to_one_connection_id(scene: Scene, family: int) -> None:
    """The guess of who sends is checked each time."""
    host = "192.0.2.3" if family == 4 else "2001:db8::3"
    scene.move(9, Address(host, 50009))
    scene.add(9, b"\x09" * 12)
    for _ in range(3):
        for source, sender in ((tuple(SENDERS[family]), SENDER[family]), ((host, 50009), 9)):
            before = scene.entry(sender).packets
            result, outcome = scene.kernel.verdict(scene.frame(family, source=source).build())
            assert outcome is K.FORWARDED
            assert result.frame == scene.forwarded(family).build()
            assert scene.entry(sender).packets == before + 1
    scene.remove(9)
    _, outcome = scene.kernel.verdict(scene.frame(family, source=(host, 50009)).build())
    assert outcome is K.UNREGISTERED_SOURCE


def test_what_is_forwarded_is_counted_for_the_sender(scene: Scene, family: int) -> None:
    payload = b"\x40" + CIDS[family] + REST
    for _ in range(3):
        scene.kernel.run(scene.frame(family).build())
    sender = scene.entry(SENDER[family])
    assert (sender.packets, sender.bytes) == (3, 3 * len(payload))


@pytest.mark.parametrize("place", range(4))
def test_each_listening_port(kernel: KernelUnderTest, place: int) -> None:
    scene = Scene(kernel)
    ports = [1, 2, 3, 4]
    ports[place] = PORT
    kernel.configure(*ports)
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.FORWARDED
    kernel.configure(1, 2)
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.NOT_OURS


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(Rate(packets_per_s=1, burst_s=10.0), 10), (Rate(bytes_per_s=300, burst_s=2.0), 20)],
    ids=["packets", "bytes"],
)
def test_rates(kernel: KernelUnderTest, family: int, rate: Rate, burst: int) -> None:
    """Each packet has 30 bytes."""
    for owner in (SENDER[family], RECEIVER[family]):
        kernel.maps.owners[owner].generation = 0  # so that it is new, with the rate
    scene = Scene(kernel, rate)
    outcomes = [kernel.verdict(scene.frame(family).build())[1] for _ in range(60)]
    assert outcomes[:burst] == [K.FORWARDED] * burst
    passed = outcomes.count(K.FORWARDED)
    assert burst <= passed <= burst + 8  # some come back meanwhile
    assert outcomes.count(K.RATE_LIMITED) == 60 - passed
    assert scene.entry(SENDER[family]).packets == passed


def test_a_rate_comes_back_with_time(kernel: KernelUnderTest, family: int) -> None:
    kernel.maps.owners[SENDER[family]].generation = 0
    scene = Scene(kernel, Rate(packets_per_s=1, burst_s=1.0))
    frame = scene.frame(family).build()
    while kernel.verdict(frame)[1] is K.FORWARDED:
        pass
    sender = scene.entry(SENDER[family])
    sender.packets_until_ns -= 2 * 10**9  # as if two seconds had gone by
    assert kernel.verdict(frame)[1] is K.FORWARDED
