"""One peer address has one spelling."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.address import Address, SockAddr


@pytest.mark.parametrize(
    ("sockaddr", "expected"),
    [
        (("192.0.2.1", 4433), "192.0.2.1:4433"),
        (("2001:DB8:0:0:0:0:0:1", 4433, 0, 0), "[2001:db8::1]:4433"),
        (("::ffff:192.0.2.1", 4433, 0, 0), "192.0.2.1:4433"),
        (("::ffff:c000:201", 4433, 0, 0), "192.0.2.1:4433"),
        (("fe80::1", 4433, 0, 3), "[fe80::1%3]:4433"),
        (("fe80::1", 4433, 99, 3), "[fe80::1%3]:4433"),
        (("fe80::1%eth9", 4433), "[fe80::1%eth9]:4433"),
        (("::", 0), "[::]:0"),
    ],
)
def test_spelling(sockaddr: SockAddr, expected: str) -> None:
    assert str(Address.from_sockaddr(sockaddr)) == expected


@given(st.ip_addresses(), st.integers(0, 65535))
def test_packed_and_spelled_are_the_same(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    address = Address.from_packed(ip.packed, port)
    assert Address.from_packed(address.packed, port) == address
    assert Address.from_sockaddr(address.sockaddr) == address
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    assert ipaddress.ip_address(address.host) == (mapped or ip)
    assert address.family is (socket.AF_INET if len(address.packed) == 4 else socket.AF_INET6)


def test_what_a_socket_gives_is_what_it_takes() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        address = Address.from_sockaddr(one.getsockname())
        assert address.sockaddr == one.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
            two.sendto(b"hello", address.sockaddr)
            assert one.recv(10) == b"hello"


def test_a_link_local_address_keeps_its_interface() -> None:
    address = Address.from_sockaddr(("fe80::1", 7, 0, 3))
    assert (address.scope, address.sockaddr) == (3, ("fe80::1", 7, 0, 3))
    assert Address.from_packed(address.packed, 7, address.scope) == address
    assert Address.from_sockaddr(("fe80::1%lo", 7)).scope == socket.if_nametoindex("lo")


@given(st.ip_addresses(), st.integers(1, 65535))
def test_parse_reads_what_str_gives(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    address = Address.from_packed(ip.packed, port)
    assert Address.parse(str(address)) == address


@given(st.text(max_size=60) | st.from_regex(r"\[?[0-9a-f.:%]*\]?:[0-9]*"))
def test_parse_takes_anything(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:+1",
        "[192.0.2.1]:1",
        "2001:db8::1:1",
        "[2001:db8::1]",
        "[fe80::1%lo]:1",
        "relay.example:1",
        "192.0.2.1:٣",
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)
