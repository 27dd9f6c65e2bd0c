"""The messages of the rendezvous: what is written is read, and nothing else."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.body import MalformedRequest
from relay.wire.rendezvous import (
    MAX_BATCH,
    MAX_CERTIFICATE,
    MAX_INVITE,
    MAX_NAME,
    ChallengeAnswer,
    EndRequest,
    InviteRequest,
    ListenAnswer,
    ListenRequest,
    NameAnswer,
    WaitAnswer,
    WaitRequest,
    bytes_to_sign,
    is_fingerprint,
    is_name,
)

FINGERPRINT = "sha256:" + "0f" * 32
ID = "0123456789abcdef0123456789abcdef"
INVITE = {"packet": "AAAA", "v": 1, "auth": "certificate"}


def written(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "name", ["a", "laptop", "a-b.c_d9", "a" * MAX_NAME, "deadbeef", "crossword-puppet"]
)
def test_names(name: str) -> None:
    assert is_name(name)
    assert not is_fingerprint(name)


@pytest.mark.parametrize(
    "text",
    [
        *("", "7-crossword-puppet", "Laptop", "a b", "a" * (MAX_NAME + 1), "-a", "é", "a\n", "a/b"),
        *("ab" * 32, FINGERPRINT),
    ],
)
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)


def test_messages_are_read_as_they_were_written() -> None:
    for message in (
        ListenRequest(b"certificate", b"signature"),
        ListenRequest(b"certificate", b"signature", "laptop"),
        ListenAnswer(ID, 30),
        WaitRequest(ID),
        WaitRequest(ID, after=7, limit=0, wait=0),
        EndRequest(ID),
        NameAnswer(FINGERPRINT),
        ChallengeAnswer(bytes(32)),
    ):
        assert type(message).decode(message.encode()) == message
    asked = InviteRequest("laptop", json.dumps(INVITE, separators=(",", ":")))
    assert InviteRequest.decode(asked.encode()) == asked
    answer = WaitAnswer(((3, asked.invite), (5, asked.invite)))
    assert WaitAnswer.decode(answer.encode(), after=2) == answer
    assert WaitAnswer.decode(WaitAnswer(()).encode(), after=2) == WaitAnswer(())


def test_credentials_do_not_show() -> None:
    for message in (ListenAnswer(ID, 30), WaitRequest(ID), EndRequest(ID)):
        assert ID not in repr(message)


def test_what_is_signed() -> None:
    """docs/protocol.md §10.2, field by field."""
    message = bytes_to_sign("sha256:" + "11" * 32, b"\x22" * 32, b"certificate", "laptop")
    assert message.startswith(b"quicpipe/1 listen\0" + b"\x11" * 32 + b"\x22" * 32)
    assert message.endswith(b"laptop")
    assert len(message) == 18 + 32 + 32 + 32 + 6
    assert not message.startswith(b" " * 64)  # as what TLS signs does


def test_an_invite_is_handed_on_as_it_is_but_in_ascii() -> None:
    invite = {**INVITE, "relay": "relais-é.example:4433", "odd": "\ud800", "more": [1, {"x": None}]}
    text = InviteRequest.decode(written(to="laptop", invite=invite)).invite
    assert text.isascii()
    assert json.loads(text) == invite


def sized(length: int) -> dict[str, object]:
    empty = {**INVITE, "pad": ""}
    room = length - len(json.dumps(empty, separators=(",", ":")))
    return {**INVITE, "pad": "x" * room}


def test_the_size_of_an_invite() -> None:
    assert InviteRequest.decode(written(to="a", invite=sized(MAX_INVITE)))
    with pytest.raises(MalformedRequest, match="characters"):
        InviteRequest.decode(written(to="a", invite=sized(MAX_INVITE + 1)))


@pytest.mark.parametrize(
    "invite",
    [
        {**INVITE, "key": "AAAA"},
        {**INVITE, "key": None},
        {**INVITE, "auth": "invite-key"},
        {"packet": "AAAA"},
        {**INVITE, "auth": ["certificate"]},
    ],
)
def test_an_invite_with_a_secret_or_without_authentication(invite: dict[str, object]) -> None:
    with pytest.raises(MalformedRequest, match="one-time key"):
        InviteRequest.decode(written(to="laptop", invite=invite))


@pytest.mark.parametrize(
    ("decode", "fields", "word"),
    [
        (InviteRequest.decode, {"invite": INVITE}, "'to'"),
        (InviteRequest.decode, {"to": "SHA256:" + "00" * 32, "invite": INVITE}, "'to'"),
        (InviteRequest.decode, {"to": 7, "invite": INVITE}, "'to'"),
        (InviteRequest.decode, {"to": "a", "invite": "x"}, "'invite'"),
        (InviteRequest.decode, {"to": "a", "invite": {"auth": "certificate"}}, "'packet'"),
        (ListenRequest.decode, {"signature": "AA=="}, "'certificate'"),
        (ListenRequest.decode, {"certificate": "!", "signature": "AA=="}, "base64"),
        (ListenRequest.decode, {"certificate": "", "signature": "AA=="}, "bytes"),
        (ListenRequest.decode, {"certificate": "AA==", "signature": "AA==", "name": 1}, "name"),
        (ListenRequest.decode, {"certificate": "AA==", "signature": "AA==", "name": None}, "name"),
        (ListenRequest.decode, {"certificate": "AA==", "signature": "AA==", "name": "7"}, "letter"),
        (WaitRequest.decode, {"id": ID.upper()}, "'id'"),
        (WaitRequest.decode, {"id": ID, "after": -1}, "'after'"),
        (WaitRequest.decode, {"id": ID, "after": True}, "'after'"),
        (WaitRequest.decode, {"id": ID, "limit": MAX_BATCH + 1}, "'limit'"),
        (WaitRequest.decode, {"id": ID, "wait": 26}, "'wait'"),
        (WaitRequest.decode, {"id": ID, "wait": 1.5}, "'wait'"),
        (EndRequest.decode, {}, "'id'"),
        (ListenAnswer.decode, {"id": ID}, "'grace'"),
        (NameAnswer.decode, {"fingerprint": "00" * 32}, "'fingerprint'"),
        (ChallengeAnswer.decode, {"challenge": "AAAA"}, "32"),
    ],
)
def test_what_is_malformed(
    decode: Callable[[bytes], object], fields: dict[str, object], word: str
) -> None:
    with pytest.raises(MalformedRequest, match=word):
        decode(written(**fields))


@pytest.mark.parametrize(
    "invites",
    [
        None,
        {},
        [[]],
        [{"number": 1}],
        [{"number": 1, "invite": "x"}],
        [{"number": 2, "invite": {}}],  # as acknowledged already
        [{"number": 4, "invite": {}}, {"number": 4, "invite": {}}],
        [{"number": 2**53, "invite": {}}],
        [{"number": n, "invite": {}} for n in range(3, 4 + MAX_BATCH)],
    ],
)
def test_an_answer_that_makes_no_sense(invites: object) -> None:
    with pytest.raises(MalformedRequest):
        WaitAnswer.decode(written(invites=invites), after=2)


def test_a_certificate_of_the_greatest_size() -> None:
    request = ListenRequest(bytes(MAX_CERTIFICATE), b"s")
    assert ListenRequest.decode(request.encode()) == request
    with pytest.raises(MalformedRequest, match="bytes"):
        ListenRequest.decode(ListenRequest(bytes(MAX_CERTIFICATE + 1), b"s").encode())


DECODERS: list[Callable[[bytes], object]] = [
    ChallengeAnswer.decode,
    ListenRequest.decode,
    ListenAnswer.decode,
    WaitRequest.decode,
    EndRequest.decode,
    InviteRequest.decode,
    NameAnswer.decode,
    lambda body: WaitAnswer.decode(body, 0),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "to", "invite", "invites", "number", "packet", "auth", "name"])
            | st.text(max_size=8),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(DECODERS), st.binary(max_size=200) | JSON.map(lambda v: written_any(v)))
def test_anything_is_read_or_refused(decode: Callable[[bytes], object], body: bytes) -> None:
    with suppress(MalformedRequest):
        decode(body)


def written_any(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[" * 4000, b'{"a":' * 700 + b"1" + b"}" * 700, b'{"id": NaN}', b"7"]
)
def test_hostile_json(decode: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        decode(body)


def test_an_invite_that_is_nested_too_deeply() -> None:
    inner = b'{"packet": "x", "auth": "certificate", "a": ' + b"[" * 1900 + b"]" * 1900 + b"}"
    with pytest.raises(MalformedRequest):
        InviteRequest.decode(b'{"to": "a", "invite": ' + inner + b"}")


@pytest.mark.parametrize(
    "more",
    [
        b"1e999",
        b'{"x": [-1e999]}',
        *(b"[" * depth + b"]" * depth for depth in (8, 100, 900, *range(970, 1000))),
    ],
)
def test_no_invite_keeps_others_from_being_read(more: bytes) -> None:
    """What the relay takes, a listener can read: else one invite would hold all others up."""
    body = b'{"to": "a", "invite": {"packet": "x", "auth": "certificate", "a": ' + more + b"}}"
    with pytest.raises(MalformedRequest):
        InviteRequest.decode(body)


@given(st.lists(JSON, max_size=3))
def test_what_is_taken_can_be_read(more: list[object]) -> None:
    taken = []
    for each in more:
        with suppress(MalformedRequest):
            taken.append(InviteRequest.decode(written(to="a", invite={**INVITE, "a": each})).invite)
    invites = tuple(enumerate(taken, 1))
    assert WaitAnswer.decode(WaitAnswer(invites).encode(), 0).invites == invites
