"""docs/protocol.md §3.1: requests and answers; any body gives a value or `MalformedRequest`."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.body import MalformedRequest
from relay.wire.connection_id import KEY_LENGTHS, MAX_COUNTER, Derivation
from relay.wire.registration import (
    MAX_BODY,
    MAX_CONNECTION_IDS_PER_REQUEST,
    RegisterAnswer,
    RegisterRequest,
)

KEY = bytes(range(16))
ANSWER = {"id": "0" * 32, "address": "192.0.2.1:50000", "connection_ids": 10, "lease": 180}


def body(**changes: Any) -> bytes:
    """A valid request with some fields changed; None removes one."""
    fields = {"key": base64.b64encode(KEY).decode(), "num": 10} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_the_originals_request() -> None:
    request = RegisterRequest.decode(b'{"key":"AAECAwQFBgcICQoLDA0ODw==","num":10}')
    assert request == RegisterRequest(KEY, 10, Derivation.BLAKE2B, first=1)


@given(
    st.sampled_from(Derivation),
    st.integers(1, MAX_CONNECTION_IDS_PER_REQUEST),
    st.integers(1, MAX_COUNTER - MAX_CONNECTION_IDS_PER_REQUEST),
    st.data(),
)
def test_requests_survive_the_way(
    derivation: Derivation, num: int, first: int, data: st.DataObject
) -> None:
    length = data.draw(st.sampled_from(KEY_LENGTHS[derivation]))
    key = data.draw(st.binary(min_size=length, max_size=length))
    request = RegisterRequest(key, num, derivation, first)
    encoded = request.encode()
    assert len(encoded) <= MAX_BODY
    assert RegisterRequest.decode(encoded) == request


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * MAX_BODY, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (body(key=None), "'key' is missing"),
        (body(key=7), "'key' is missing or not a string"),
        (body(key="AAEC*"), "'key' is not base64"),
        (body(key="é"), "'key' is not base64"),
        (body(key=""), "has 16 to 64 bytes, this one has 0"),
        (body(key=base64.b64encode(bytes(15)).decode()), "has 16 to 64 bytes, this one has 15"),
        (body(key=base64.b64encode(bytes(65)).decode()), "has 16 to 64 bytes, this one has 65"),
        (body(derivation="blake3"), "a blake3 key has 32 bytes, this one has 16"),
        (body(derivation="md5"), "'derivation' is none of 'blake3', 'blake2b'"),
        (body(derivation=["blake3"]), "'derivation' is none of"),
        (body(num=None), "'num' is not a whole number from 1 to 1024"),
        (body(num=0), "'num' is not"),
        (body(num=-1), "'num' is not"),
        (body(num=1e15), "'num' is not"),
        (body(num=10**15), "'num' is not"),
        (body(num=1.0), "'num' is not"),
        (body(num=True), "'num' is not"),
        (body(num="10"), "'num' is not"),
        (body(first=0), "'first' is not a whole number from 1 to 4294967295"),
        (body(first=MAX_COUNTER, num=2), "past the last counter"),
    ],
)
def test_malformed_requests_are_told_what_was_expected(wrong: bytes, expected: str) -> None:
    with pytest.raises(MalformedRequest, match=expected):
        RegisterRequest.decode(wrong)


def test_the_last_counter_may_be_registered() -> None:
    assert RegisterRequest.decode(body(first=MAX_COUNTER, num=1)).first == MAX_COUNTER


def test_a_request_does_not_show_its_key() -> None:
    """Whoever reads it in a log or a traceback could take the registration over."""
    request = RegisterRequest(b"secret of 16 oct", 3)
    assert "secret" not in repr(request)
    assert "num=3" in repr(request)
    assert request != RegisterRequest(b"SECRET of 16 oct", 3)


def test_unknown_fields_are_ignored() -> None:
    assert RegisterRequest.decode(body(colour="blue", id=None)).num == 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
REQUEST_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "key": JSON | st.binary(max_size=70).map(lambda key: base64.b64encode(key).decode()),
        "num": JSON | st.integers(-1, 1100),
        "first": JSON | st.integers(-1, 2**33),
        "derivation": JSON | st.sampled_from(["blake3", "blake2b", "BLAKE3"]),
    },
)


@given(st.binary(max_size=300) | REQUEST_LIKE.map(lambda fields: json.dumps(fields).encode()))
def test_any_body_gives_a_request_or_is_malformed(anything: bytes) -> None:
    try:
        request = RegisterRequest.decode(anything)
    except MalformedRequest:
        return
    assert len(request.key) in KEY_LENGTHS[request.derivation]
    assert 1 <= request.num <= MAX_CONNECTION_IDS_PER_REQUEST
    assert 1 <= request.first <= MAX_COUNTER - request.num + 1


@pytest.mark.parametrize(("lease", "written"), [(180.0, "180"), (2.5, "2.5")])
def test_answers_survive_the_way(lease: float, written: str) -> None:
    answer = RegisterAnswer("f" * 32, "[2001:db8::1]:50000", 10, lease)
    assert RegisterAnswer.decode(answer.encode()) == answer
    assert answer.encode().endswith(f'"lease": {written}}}'.encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 7},
        {"address": None},
        {"connection_ids": -1},
        {"connection_ids": 1.5},
        {"lease": "180"},
        {"lease": -1},
        {"lease": 10**400},
        {"lease": float("nan")},
        {"lease": float("inf")},
    ],
)
def test_answers_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    assert RegisterAnswer.decode(json.dumps(ANSWER).encode()).lease == 180.0
    with pytest.raises(MalformedRequest, match=r"missing or out of range|no number in JSON"):
        RegisterAnswer.decode(json.dumps(ANSWER | changes).encode())


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_gives_an_answer_or_is_malformed(anything: bytes) -> None:
    try:
        answer = RegisterAnswer.decode(anything)
    except MalformedRequest:
        return
    assert answer.connection_ids >= 0
