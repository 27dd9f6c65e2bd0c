"""The requests about slots, as bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.body import MalformedRequest
from relay.wire.registration import MAX_BODY
from relay.wire.slots import (
    MAX_MESSAGE,
    MAX_MESSAGES,
    MAX_NUMBER,
    ClaimRequest,
    End,
    EndRequest,
    OpenAnswer,
    OpenRequest,
    Received,
    ReceiveRequest,
    SendRequest,
)

TOKEN = "0123456789abcdef" * 2
TYPES = (
    OpenRequest,
    OpenAnswer,
    ClaimRequest,
    SendRequest,
    ReceiveRequest,
    Received,
    EndRequest,
)
VALUES = [
    OpenRequest(TOKEN),
    OpenAnswer(7, 600),
    ClaimRequest(MAX_NUMBER, TOKEN, b"\x00\xff"),
    SendRequest(TOKEN, MAX_MESSAGES - 1, bytes(MAX_MESSAGE)),
    ReceiveRequest(TOKEN, 0, 25),
    Received(b"hello", None),
    Received(None, End.WRONG_CODE),
    Received(None, None),
    EndRequest(TOKEN, End.DONE),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_there_and_back(value: SendRequest) -> None:
    body = value.encode()
    assert len(body) <= MAX_BODY
    assert type(value).decode(body) == value
    more = json.dumps({"later": [1]} | json.loads(body)).encode()
    assert type(value).decode(more) == value, "unknown fields are ignored"


def test_a_token_is_in_no_repr() -> None:
    for value in VALUES:
        assert TOKEN not in repr(value)


def test_the_end_of_a_later_version() -> None:
    assert Received.decode(b'{"message": null, "end": "bored"}') == Received(None, End.LEFT)


SEND = {"token": TOKEN, "number": 0, "message": "eA=="}


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"token": None}, "'token'"),
        ({"token": TOKEN[1:]}, "'token'"),
        ({"token": TOKEN.upper()}, "'token'"),
        ({"token": TOKEN + "\n"}, "'token'"),
        ({"number": -1}, "'number'"),
        ({"number": MAX_MESSAGES}, "'number'"),
        ({"number": True}, "'number'"),
        ({"number": 1.0}, "'number'"),
        ({"message": 1}, "'message'"),
        ({"message": ""}, "0 bytes"),
        ({"message": "e"}, "base64"),
        ({"message": "e A=="}, "base64"),
        ({"message": "ä"}, "base64"),
        ({"message": "eHh4" * 982}, f"{MAX_MESSAGE + 2} bytes"),
    ],
)
def test_malformed(changed: dict[str, object], word: str) -> None:
    SendRequest.decode(json.dumps(SEND).encode())
    with pytest.raises(MalformedRequest, match=word):
        SendRequest.decode(json.dumps(SEND | changed).encode())


@pytest.mark.parametrize("end", ["expired", "", None, 1, ["done"], {}])
def test_a_client_cannot_end_it_as_it_likes(end: object) -> None:
    with pytest.raises(MalformedRequest, match="'end'"):
        EndRequest.decode(json.dumps({"token": TOKEN, "end": end}).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_a_value_or_malformed(body: bytes) -> None:
    for kind in TYPES:
        with pytest.raises(MalformedRequest):
            kind.decode(body)


NAMES = st.sampled_from(["token", "number", "message", "slot", "lifetime", "wait", "end", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(TOKEN),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(NAMES, JSON))
def test_any_object_is_a_value_or_malformed(fields: dict[str, object]) -> None:
    body = json.dumps(fields).encode()
    for kind in TYPES:
        try:
            value = kind.decode(body)
        except MalformedRequest:
            continue
        assert kind.decode(value.encode()) == value
