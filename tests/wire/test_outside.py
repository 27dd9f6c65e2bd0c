"""What the relay says of a peer's address, and of its own."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.address import Address
from relay.wire.body import MalformedRequest
from relay.wire.outside import MAX_LISTENERS, AddressAnswer

PEER = Address("192.0.2.7", 50000)
LISTENERS = (Address("0.0.0.0", 4433), Address("2001:db8::1", 4434))


def test_both_ways() -> None:
    answer = AddressAnswer(PEER, LISTENERS)
    assert json.loads(answer.encode()) == {
        "address": "192.0.2.7:50000",
        "listeners": ["0.0.0.0:4433", "[2001:db8::1]:4434"],
    }
    assert AddressAnswer.decode(answer.encode()) == answer


def test_a_relay_that_says_less_or_nonsense_of_its_listeners() -> None:
    bare = b'{"address": "192.0.2.7:50000"}'
    assert AddressAnswer.decode(bare) == AddressAnswer(PEER)
    odd = {"address": "192.0.2.7:50000", "listeners": [7, "x", None, "192.0.2.1:0", "0.0.0.0:1"]}
    assert AddressAnswer.decode(json.dumps(odd).encode()).listeners == (Address("0.0.0.0", 1),)
    many = {"address": "192.0.2.7:50000", "listeners": [f"192.0.2.1:{n}" for n in range(1, 999)]}
    assert len(AddressAnswer.decode(json.dumps(many).encode()).listeners) == MAX_LISTENERS


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"address": 7}', b'{"address": "there"}', b'{"address": ":1"}']
)
def test_no_address_is_no_answer(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        AddressAnswer.decode(body)


@given(st.binary(max_size=300))
def test_total(body: bytes) -> None:
    try:
        answer = AddressAnswer.decode(body)
    except MalformedRequest:
        return
    assert AddressAnswer.decode(answer.encode()) == answer
