"""Which addresses an authenticated but perhaps hostile peer can have us probe."""

import ipaddress
from socket import AF_INET, AF_INET6

import pytest

from peers.nat.outlook import Mapping
from peers.paths.admission import MAX_CANDIDATES, Admission, Refusal
from peers.paths.candidate import Kind, LocalCandidate, LocalView, RemoteCandidate
from peers.paths.checklist import NEW_BURST, Checklist
from peers.paths.knowledge import announcement
from relay.wire.address import Address

RELAY = Address("192.0.2.1", 4433)
OUTSIDE = Address("203.0.113.1", 50_001)
VIEW = LocalView(
    sockets={1: AF_INET, 2: AF_INET6},
    candidates=(
        LocalCandidate(Kind.OUTSIDE, OUTSIDE, 1),
        LocalCandidate(Kind.HOST, Address("192.168.1.2", 50_001), 1),
        LocalCandidate(Kind.HOST, Address("2001:db8:1::2", 50_002), 2),
    ),
    networks=(
        ipaddress.ip_network("192.168.1.0/24"),
        ipaddress.ip_network("2001:db8:1::/64"),
        ipaddress.ip_network("10.9.8.6/31"),
    ),
    relays=frozenset([RELAY]),
)


@pytest.mark.parametrize(
    ("host", "port", "refusal"),
    [
        ("198.51.100.7", 50_000, None),
        ("2001:db8:7::7", 50_000, None),
        ("198.51.100.7", 53, Refusal.PORT),
        ("198.51.100.7", 0, Refusal.PORT),
        ("127.0.0.1", 50_000, Refusal.SPECIAL),
        ("0.0.0.0", 50_000, Refusal.SPECIAL),
        ("169.254.169.254", 50_000, Refusal.SPECIAL),
        ("224.0.0.251", 5_353, Refusal.SPECIAL),
        ("255.255.255.255", 50_000, Refusal.SPECIAL),
        ("240.0.0.1", 50_000, Refusal.SPECIAL),
        ("::", 50_000, Refusal.SPECIAL),
        ("::1", 50_000, Refusal.SPECIAL),
        ("fe80::1", 50_000, Refusal.SPECIAL),
        ("ff02::1", 50_000, Refusal.SPECIAL),
        ("fec0::1", 50_000, Refusal.SPECIAL),
        ("64:ff9b::7f00:1", 50_000, Refusal.SPECIAL),
        ("2002:7f00:1::1", 50_000, Refusal.SPECIAL),
        ("2001:0:7f00:1::", 50_000, Refusal.SPECIAL),
        ("no address", 50_000, Refusal.SPECIAL),
        ("10.0.0.1", 50_000, Refusal.PRIVATE),
        ("172.31.255.1", 50_000, Refusal.PRIVATE),
        ("192.168.2.1", 50_000, Refusal.PRIVATE),
        ("100.64.0.1", 50_000, Refusal.PRIVATE),
        ("fd00::1", 50_000, Refusal.PRIVATE),
        ("192.168.1.3", 50_000, None),
        ("10.9.8.6", 50_000, None),  # RFC 3021: a network of two has no broadcast address
        ("192.168.1.255", 50_000, Refusal.BROADCAST),
        ("192.168.1.0", 50_000, Refusal.BROADCAST),
        ("192.168.1.2", 50_001, Refusal.OURS),
        ("192.168.1.2", 50_009, None),  # another peer on this very machine
        ("192.0.2.1", 4433, Refusal.RELAY),
        ("192.0.2.1", 50_000, None),
    ],
)
def test_an_address(host: str, port: int, refusal: Refusal | None) -> None:
    assert Admission(VIEW).refuse(Address(host, port)) is refusal


def test_private_ones_are_taken_behind_the_same_outside_address() -> None:
    private = Address("10.0.0.1", 50_000)
    assert Admission(VIEW, [Address(OUTSIDE.host, 9_999)]).refuse(private) is None
    assert Admission(VIEW, [Address("203.0.113.2", 9_999)]).refuse(private) is Refusal.PRIVATE


def _named(*addresses: Address, kind: Kind = Kind.HOST) -> list[RemoteCandidate]:
    return [RemoteCandidate(kind, each) for each in addresses]


def test_ten_are_taken_and_each_refusal_is_counted_once() -> None:
    checklist = Checklist()
    named = _named(*(Address(f"198.51.100.{each}", 50_000) for each in range(1, 15)))
    for _ in range(3):
        checklist.form(VIEW, named, 0.0)
    assert len(checklist.pairs) == MAX_CANDIDATES
    assert checklist.refused == {Refusal.TOO_MANY: 4}


def test_addresses_named_in_turn_are_limited() -> None:
    checklist = Checklist()
    probed = set()
    for number in range(200):
        checklist.form(VIEW, _named(Address(f"198.51.100.{number}", 50_000)), now=number / 10)
        probed |= {pair.address for pair in checklist.pairs.values()}
    assert len(probed) <= NEW_BURST + 20 / 6 + 1
    assert checklist.refused[Refusal.TOO_FAST] == 200 - len(probed)


def test_one_pair_for_each_socket_of_the_family() -> None:
    checklist = Checklist()
    v4, v6 = Address("198.51.100.1", 50_000), Address("2001:db8:7::7", 50_000)
    new = checklist.form(VIEW, _named(v4, v6), 0.0)
    assert [(each.socket, each.address) for each in new] == [(2, v6), (1, v4)]
    assert checklist.form(VIEW, _named(v4, v6), 0.0) == []
    checklist.form(VIEW, _named(v6), 0.0)
    assert list(checklist.pairs) == [(2, v6)]
    checklist.drop_sockets(lambda each: each == 1)
    assert not checklist.pairs


def test_reflexive_pairs_are_bounded() -> None:
    checklist = Checklist()
    admission = Admission(VIEW)
    for port in range(5_000, 5_100):
        pair = checklist.reflexive(1, Address("198.51.100.1", port), admission)
        assert pair is not None
        pair.request_came(float(port))
    assert len(checklist.pairs) == 10
    assert min(address.port for _, address in checklist.pairs) == 5_090
    assert checklist.reflexive(1, Address("127.0.0.1", 5_000), admission) is None
    for pair in checklist.pairs.values():
        pair.answer_came(1200, 6_000.0, 6_001.0)
        assert pair.is_valid
    assert checklist.reflexive(1, Address("198.51.100.1", 4_000), admission) is None


def test_what_is_announced() -> None:
    view = LocalView(
        sockets={1: AF_INET},
        candidates=(
            LocalCandidate(Kind.HOST, OUTSIDE, 1),
            LocalCandidate(Kind.OUTSIDE, OUTSIDE, 1),
            LocalCandidate(Kind.HOST, Address("127.0.0.1", 50_000), 1),
            *(
                LocalCandidate(Kind.HOST, Address(f"10.0.0.{each}", 50_000), 1)
                for each in range(20)
            ),
        ),
        mapping=Mapping.INDEPENDENT,
    )
    told = announcement(view)
    assert told.mapping is Mapping.INDEPENDENT
    assert told.candidates[0] == RemoteCandidate(Kind.OUTSIDE, OUTSIDE)
    assert len(told.candidates) == MAX_CANDIDATES
    assert not any(each.address.host.startswith("127.") for each in told.candidates)
