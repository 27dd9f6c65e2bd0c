"""This machine's own addresses and its default router."""

import ipaddress
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.interfaces import default_gateway, system_gateway, system_interfaces, usable

HEADER = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"


def route(destination: str, gateway: str, flags: str, metric: int, mask: str) -> str:
    def as_printed(address: str) -> str:
        number = int.from_bytes(ipaddress.IPv4Address(address).packed, "little")
        return f"{number:08X}"

    fields = ("eth0", as_printed(destination), as_printed(gateway), flags, "0", "0", str(metric))
    return "\t".join((*fields, as_printed(mask), "0", "0", "0"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1", "fe80::1%eth0", "0.0.0.0", "x"])
def test_addresses_of_no_use_to_others_are_left_out(host: str) -> None:
    assert usable(host, 24) is None


def test_an_address_keeps_its_network() -> None:
    found = usable("192.0.2.7", 28)
    assert found is not None
    assert (str(found.ip), str(found.network)) == ("192.0.2.7", "192.0.2.0/28")


def test_the_system_tells_values_and_never_fails() -> None:
    for each in system_interfaces():
        assert not each.ip.is_loopback
    gateway = system_gateway()
    assert gateway is None or ipaddress.IPv4Address(gateway)


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is of a little-endian machine")
def test_the_default_route_with_the_smallest_metric_wins() -> None:
    lines = [
        HEADER,
        route("192.0.2.0", "0.0.0.0", "0001", 0, "255.255.255.0"),
        route("0.0.0.0", "198.51.100.1", "0003", 600, "0.0.0.0"),
        route("0.0.0.0", "192.0.2.1", "0003", 100, "0.0.0.0"),
        route("0.0.0.0", "192.0.2.9", "0002", 1, "0.0.0.0"),  # it is not up
        route("10.0.0.0", "192.0.2.8", "0003", 0, "255.0.0.0"),
    ]
    assert default_gateway(lines) == "192.0.2.1"
    assert default_gateway(lines[:2]) is None
    assert default_gateway([]) is None


@given(st.lists(st.text(max_size=100), max_size=5))
def test_any_table_is_read(lines: list[str]) -> None:
    found = default_gateway(lines)
    assert found is None or ipaddress.IPv4Address(found)
