"""Which addresses the relay sends to, for each kind of address and of listener."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.destinations import DestinationRefusal, DestinationRefused, Destinations
from relay.core.path import Path
from relay.wire.address import Address

PUBLIC4, PUBLIC6 = "8.8.4.4", "2a00:1450::1"
SPECIAL, LOOPBACK, PRIVATE, OWN = (
    DestinationRefusal.SPECIAL,
    DestinationRefusal.LOOPBACK,
    DestinationRefusal.PRIVATE,
    DestinationRefusal.OWN,
)


def verdict(
    remote: str, local: str, port: int = 50_000, *, rules: Destinations | None = None
) -> DestinationRefusal | None:
    try:
        (rules or Destinations()).check(Path(Address(remote, port), 0, local))
    except DestinationRefused as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    "remote",
    [
        *("0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "255.255.255.255", "240.0.0.1"),
        *("169.254.169.254", "169.254.0.1", "192.0.0.8"),
        *("::", "ff02::1", "fe80::1", "fe80::1%2", "fec0::1", "100::1", "4000::1", "::2"),
        *("::a9fe:a9fe", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:169.254.169.254"),
        *("2001:0:0:0:0:0:5601:5601",),
    ],
)
@pytest.mark.parametrize("local", ["127.0.0.1", "10.0.0.1", PUBLIC4, "::1", PUBLIC6])
def test_no_peer_has_such_an_address(remote: str, local: str) -> None:
    assert verdict(remote, local) is SPECIAL
    assert verdict(remote, local, rules=Destinations(allow_private=True)) is SPECIAL


def test_port_0_is_none() -> None:
    assert verdict(PUBLIC4, PUBLIC4, 0) is SPECIAL
    assert verdict(PUBLIC4, PUBLIC4, 1) is None


@pytest.mark.parametrize(
    ("remote", "local", "expected"),
    [
        (PUBLIC4, PUBLIC4, None),
        (PUBLIC4, "10.0.0.1", None),
        (PUBLIC6, PUBLIC6, None),
        ("127.0.0.1", "127.0.0.1", None),
        ("127.9.9.9", "127.0.0.1", None),
        ("::1", "::1", None),
        ("127.0.0.1", PUBLIC4, LOOPBACK),
        ("127.0.0.1", "10.0.0.1", LOOPBACK),
        ("::1", PUBLIC6, LOOPBACK),
        ("10.1.2.3", PUBLIC4, PRIVATE),
        ("172.16.0.1", PUBLIC4, PRIVATE),
        ("172.31.255.255", PUBLIC4, PRIVATE),
        ("172.32.0.0", PUBLIC4, None),
        ("192.168.0.1", PUBLIC4, PRIVATE),
        ("100.64.0.1", PUBLIC4, PRIVATE),
        ("100.127.255.255", PUBLIC4, PRIVATE),
        ("100.128.0.0", PUBLIC4, None),
        ("fd00::1", PUBLIC6, PRIVATE),
        ("192.0.2.1", PUBLIC4, PRIVATE),
        ("10.1.2.3", "192.168.0.1", None),
        ("10.1.2.3", "127.0.0.1", None),
        ("fd00::1", "fd00::2", None),
        # What a translator or a tunnel would make of it.
        ("::ffff:127.0.0.1", PUBLIC6, LOOPBACK),
        ("64:ff9b::7f00:1", PUBLIC6, LOOPBACK),
        ("64:ff9b::808:808", PUBLIC6, None),
        ("2002:a00:1::1", PUBLIC6, PRIVATE),
        ("::10.0.0.1", PUBLIC6, PRIVATE),
    ],
)
def test_loopback_and_private_networks(
    remote: str, local: str, expected: DestinationRefusal | None
) -> None:
    assert verdict(remote, local) is expected
    assert verdict(remote, local, rules=Destinations(allow_private=True)) is None


def test_the_relay_itself() -> None:
    hosts = {PUBLIC4, "10.0.0.1"}
    rules = Destinations(
        (Address("0.0.0.0", 4433), Address("10.0.0.9", 443)), lambda: hosts, allow_private=True
    )
    for host in (PUBLIC4, "10.0.0.1", "9.9.9.9"):  # the last is what the peer sent to
        assert verdict(host, "9.9.9.9", 4433, rules=rules) is OWN
        assert verdict(host, "9.9.9.9", 4434, rules=rules) is None
        assert verdict(host, "10.0.0.9", 443, rules=rules) is None
    assert verdict("10.0.0.9", "10.0.0.9", 443, rules=rules) is OWN
    assert verdict("8.8.8.8", "9.9.9.9", 4433, rules=rules) is None
    # A wildcard hears whatever is sent to loopback; and what stands for an address is one.
    for host in ("127.0.0.1", "127.255.255.254", "64:ff9b::8.8.4.4", "::ffff:10.0.0.1"):
        assert verdict(host, "9.9.9.9", 4433, rules=rules) is OWN
        assert verdict(host, "9.9.9.9", 4434, rules=rules) is None
    assert verdict("::ffff:10.0.0.9", "10.0.0.9", 443, rules=rules) is OWN
    assert verdict("127.0.0.1", "10.0.0.9", 443, rules=rules) is None


def test_an_address_has_one_spelling_whatever_socket_it_came_by() -> None:
    mapped = Address.from_sockaddr(("::ffff:10.0.0.9", 443, 0, 0))
    assert mapped == Address("10.0.0.9", 443)
    assert Address.from_sockaddr(("2001:DB8:0:0::1", 443, 0, 0)).host == "2001:db8::1"
    rules = Destinations((mapped,), allow_private=True)
    with pytest.raises(DestinationRefused) as refused:
        rules.check(Path(mapped, 0, "10.0.0.9"))
    assert refused.value.reason is OWN


def test_the_edges_of_what_nobody_can_have() -> None:
    for last, first in (
        ("0.255.255.255", "1.0.0.0"),
        ("192.0.0.255", "192.0.1.0"),
        ("169.254.255.255", "169.255.0.0"),
        ("239.255.255.255", None),
        ("255.255.255.255", None),
        ("1fff:ffff::1", "2000::"),
        ("4000::", "3fff:ffff:ffff::1"),
        ("fe80::", "fd00::1"),
        ("febf:ffff::1", None),
    ):
        assert verdict(last, "10.0.0.1") is SPECIAL
        assert first is None or verdict(first, "fd00::9") is None
    assert verdict("223.255.255.255", PUBLIC4) is None
    assert verdict("169.253.255.255", PUBLIC4) is None
    for outside, inside in (
        ("9.255.255.255", "10.0.0.0"),
        ("11.0.0.0", "10.255.255.255"),
        ("172.15.255.255", "172.16.0.0"),
        ("192.167.255.255", "192.168.0.0"),
        ("192.169.0.0", "192.168.255.255"),
        ("100.63.255.255", "100.64.0.0"),
        ("198.20.0.0", "198.19.255.255"),
    ):
        assert verdict(outside, PUBLIC4) is None
        assert verdict(inside, PUBLIC4) is PRIVATE
        assert verdict(inside, "192.168.7.7") is None


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65_535))
def test_any_address_gets_a_verdict(remote: object, local: object, port: int) -> None:
    verdict(str(remote), str(local), port)
