"""Relay names as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.relay_name import RelayName

GOOD = [
    ("relay.example", RelayName("relay.example", 4433)),
    ("relay.example:443", RelayName("relay.example", 443)),
    ("192.0.2.1", RelayName("192.0.2.1", 4433)),
    ("192.0.2.1:1", RelayName("192.0.2.1", 1)),
    ("::1", RelayName("::1", 4433)),
    ("[::1]", RelayName("::1", 4433)),
    ("[::1]:65535", RelayName("::1", 65535)),
    ("[fe80::1%eth0]:4433", RelayName("fe80::1%eth0", 4433)),
    (" localhost:4433\n", RelayName("localhost", 4433)),
    ("bücher.example", RelayName("bücher.example", 4433)),
]
BAD = [
    "",
    ":",
    ":4433",
    "relay.example:",
    "relay.example:0",
    "relay.example:65536",
    "relay.example:-1",
    "relay.example:٣",
    "relay.example:quic",
    "https://relay.example",
    "https://relay.example:4433/",
    "relay.example/path",
    "user@relay.example",
    "a b",
    "a\x00b",
    "[relay.example]:4433",
    "[::1",
    "[::1]x",
    "::1:::",
    "x" * 254,
]


@pytest.mark.parametrize(("text", "name"), GOOD)
def test_reads_what_people_write(text: str, name: RelayName) -> None:
    assert RelayName.parse(text) == name


@pytest.mark.parametrize(("text", "name"), GOOD)
def test_what_is_written_is_read_again(text: str, name: RelayName) -> None:
    assert RelayName.parse(str(name), default_port=None) == name


@pytest.mark.parametrize("text", BAD)
def test_refuses_what_is_no_name_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        RelayName.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["relay.example", "::1", "[::1]"])
def test_asks_for_the_port_where_there_is_no_default(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        RelayName.parse(text, default_port=None)


@given(st.text(alphabet="[]:%.a1f \n\x00é/@", max_size=30) | st.text(max_size=300))
def test_any_text_gives_a_name_or_a_value_error(text: str) -> None:
    try:
        name = RelayName.parse(text)
    except ValueError:
        return
    assert RelayName.parse(str(name), default_port=None) == name
    assert 1 <= name.port <= 65535
