"""Invites: written and read, and every kind of rubbish that a person can paste instead."""

import base64
import io
import json
import os
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from peers.errors import InviteExpired, InviteInvalid
from peers.invite import MAX_LINE, AuthKind, Invite, read_line
from peers.relay_name import RelayName

PACKET = (b"\xc3\x00\x00\x00\x01\x0c" + bytes(range(12)) + b"\x0c" + bytes(range(12))).ljust(1200)
EXPIRES = 1_800_000_000
INVITE = Invite(
    packet=PACKET,
    relay=RelayName("relay.example", 4433),
    fingerprint="sha256:" + "ab" * 32,
    expires=EXPIRES,
    auth=AuthKind.INVITE_KEY,
    key=bytes(range(32)),
)
ORIGINAL = Invite(PACKET)
SHAPES = {
    "one-time key": INVITE,
    "pairing key": replace(INVITE, auth=AuthKind.PAIRING_KEY, key=None),
    "certificate": replace(INVITE, auth=AuthKind.CERTIFICATE, key=None),
    "IPv6 relay": replace(INVITE, relay=RelayName("2001:db8::1", 1)),
    "name beyond ASCII": replace(INVITE, relay=RelayName("bücher.example", 4433)),
    "original": ORIGINAL,
}


def rehashed(**changes: Any) -> str:
    """The invite with other fields, its `check` made to fit; None takes a field away."""
    fields = json.loads(INVITE.encode()) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    fields.pop("check", None)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(fields | {"check": blake3(text.encode()).hexdigest(length=8)})


def why(line: str | bytes) -> str:
    """What is said about a line that is no invite."""
    with pytest.raises(InviteInvalid) as caught:
        Invite.decode(line)
    text = str(caught.value)
    assert text.isprintable(), "one line, no control characters"
    assert len(text) < 300
    return text


@pytest.mark.parametrize("invite", SHAPES.values(), ids=SHAPES.keys())
def test_what_is_written_is_read_again(invite: Invite) -> None:
    line = invite.encode()
    assert line.index("\n") == len(line) - 1
    assert len(line.encode()) < MAX_LINE
    assert Invite.decode(line) == invite
    assert Invite.decode(line.rstrip().encode() + b"\r\n") == invite


def test_it_has_the_fields_that_the_protocol_names() -> None:
    fields = json.loads(INVITE.encode())
    assert next(iter(fields)) == "packet"
    assert base64.b64decode(fields["packet"]) == PACKET
    assert fields["v"] == 1
    assert fields["relay"] == "relay.example:4433"
    assert fields["auth"] == "invite-key"
    others = dict(sorted(each for each in fields.items() if each[0] != "check"))
    hashed = blake3(json.dumps(others, separators=(",", ":")).encode()).digest(length=8)
    assert fields["check"] == hashed.hex()


def test_the_originals_form_is_the_padded_packet_alone() -> None:
    assert json.loads(ORIGINAL.encode()) == {"packet": base64.b64encode(PACKET).decode()}
    assert ORIGINAL.is_original
    assert not INVITE.is_original
    # Fields of somebody else's are ignored, as the original ignores ours.
    assert Invite.decode(json.dumps(json.loads(ORIGINAL.encode()) | {"x": 1})) == ORIGINAL


def test_secrets_do_not_show_in_a_log() -> None:
    assert "key=" not in repr(INVITE)
    assert "packet=" not in repr(INVITE)


def test_it_survives_wrapping_and_a_byte_order_mark() -> None:
    line = INVITE.encode()
    wrapped = "\r\n".join(line[at : at + 76] for at in range(0, len(line), 76))
    assert Invite.decode(wrapped) == INVITE
    assert Invite.decode(b"\xef\xbb\xbf" + line.encode() + b"\n") == INVITE
    assert Invite.decode("  " + json.dumps(json.loads(line), indent=4) + "\n\n") == INVITE


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "empty"),
        ("\n", "empty"),
        ("hello", "not JSON"),
        ("quicpipe: no answer from the relay", "not JSON"),
        ("<html><body>502</body></html>", "not JSON"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "not text"),
        (b"\xff\xfe{\x00", "not text"),
        ("[]", "not an object"),
        ("1", "not an object"),
        ("null", "not an object"),
        ('"{}"', "not an object"),
        ("{}", "no 'packet'"),
        ("{}{}", "something follows"),
        ('{"a": ' * 2000, "truncated"),
        (INVITE.encode().rstrip() + " junk", "something follows the invite"),
        (INVITE.encode() * 2, "something follows the invite"),
        ("[" * 5000, "not JSON"),
        ("9" * 5000, "not JSON"),
        ('{"packet": 1}', "not text"),
        ('{"packet": ""}', "0 bytes"),
        ('{"packet": "AAAA"}', "3 bytes"),
        ('{"packet": "A"}', "not base64"),
        ('{"packet": "\\ud800"}', "not base64"),
        ('{"v": 1}', "damaged"),
        ('{"v": 1, "x": "\\ud800", "check": ""}', "damaged"),
        (json.dumps({"packet": base64.b64encode(bytes(1200)).decode()}), "QUIC version 1"),
        ("x" * (MAX_LINE + 1), "too long"),
        (b" " * (MAX_LINE + 1), "too long"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_rubbish_is_named(line: str | bytes, said: str) -> None:
    assert said in why(line)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"v": 2}, "version 2, this program reads version 1"),
        ({"v": "1"}, "version"),
        ({"v": True}, "version"),
        ({"v": 1.0}, "version"),
        ({"v": None}, "does not say its version"),
        ({"v": None, "key": None}, "does not say its version"),
        ({"packet": None}, "no 'packet'"),
        ({"relay": None}, "'relay'"),
        ({"relay": 5}, "'relay'"),
        ({"relay": "relay.example"}, "'relay'"),
        ({"relay": "relay.example\n:1"}, "'relay'"),
        ({"fingerprint": None}, "'fingerprint'"),
        ({"fingerprint": "sha256:"}, "'fingerprint'"),
        ({"fingerprint": ["sha256:"]}, "'fingerprint'"),
        ({"expires": None}, "'expires'"),
        ({"expires": "soon"}, "'expires'"),
        ({"expires": -1}, "'expires'"),
        ({"expires": 1e9}, "'expires'"),
        ({"expires": 10**30}, "'expires'"),
        ({"expires": True}, "'expires'"),
        ({"auth": None}, "'auth'"),
        ({"auth": "none"}, "'auth'"),
        ({"auth": {}}, "'auth'"),
        ({"auth": "certificate"}, "does not belong"),
        ({"key": None}, "'key'"),
        ({"key": "AAAA"}, "3 bytes"),
        ({"key": "????"}, "not base64"),
    ],
    ids=str,
)
def test_each_field_is_checked(changes: dict[str, Any], said: str) -> None:
    assert said in why(rehashed(**changes))


def test_fields_of_later_versions_are_ignored_but_hashed() -> None:
    assert Invite.decode(rehashed(note="bring cake")) == INVITE
    assert "damaged" in why(rehashed(note="bring cake").replace("cake", "fish"))


def test_every_truncation_is_named() -> None:
    line = INVITE.encode().rstrip()
    for length in range(1, len(line)):
        assert "truncated" in why(line[:length])


def test_an_invite_with_one_character_altered_is_refused() -> None:
    line = INVITE.encode().rstrip()
    for at in range(0, len(line), 7):
        for other in '0A"}x':
            altered = line[:at] + other + line[at + 1 :]
            try:
                accepted = Invite.decode(altered)
            except InviteInvalid:
                continue
            # White space between the fields is not part of the meaning; anything else is.
            assert accepted == INVITE
            assert altered == line


@given(st.binary(max_size=400) | st.text(max_size=400))
def test_any_bytes_give_an_invite_or_a_typed_error(line: str | bytes) -> None:
    with pytest.raises(InviteInvalid):
        Invite.decode(line)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = st.sampled_from(["packet", "v", "relay", "fingerprint", "expires", "auth", "key", "check"])


@given(FIELDS, JSON_VALUES)
def test_any_json_value_in_any_field_gives_an_invite_or_a_typed_error(
    name: str, value: object
) -> None:
    fields = json.loads(INVITE.encode())
    fields[name] = value
    try:
        invite = Invite.decode(json.dumps(fields))
    except InviteInvalid:
        return
    assert invite == INVITE


@given(st.integers(0, 10**10), st.floats(0, 1e11))
def test_expiry(expires: int, now: float) -> None:
    invite = replace(INVITE, expires=expires)
    if now < expires:
        invite.check_expiry(now)
    else:
        with pytest.raises(InviteExpired, match=r"expired at .* UTC, .* ago"):
            invite.check_expiry(now)


def test_it_expires_in_the_second_that_it_names_and_says_so() -> None:
    INVITE.check_expiry(EXPIRES - 0.001)
    with pytest.raises(InviteExpired, match="2027-01-15 08:00:00 UTC, 0 seconds ago"):
        INVITE.check_expiry(EXPIRES)
    with pytest.raises(InviteExpired, match="2 hours ago"):
        INVITE.check_expiry(EXPIRES + 7200)
    ORIGINAL.check_expiry(1e12)


class TestReadLine:
    LINE = INVITE.encode().encode()

    def test_takes_the_line_and_leaves_the_rest(self) -> None:
        stream = io.BytesIO(self.LINE + b"what comes after\n")
        assert Invite.decode(read_line(stream)) == INVITE
        assert stream.read() == b"what comes after\n"

    def test_passes_over_empty_lines_and_joins_a_wrapped_one(self) -> None:
        wrapped = b"\n".join(self.LINE[at : at + 60] for at in range(0, len(self.LINE), 60))
        stream = io.BytesIO(b"\n  \r\n" + wrapped + b"rest")
        assert Invite.decode(read_line(stream)) == INVITE

    def test_needs_no_newline_at_the_end(self) -> None:
        assert Invite.decode(read_line(io.BytesIO(self.LINE.rstrip()))) == INVITE

    @pytest.mark.parametrize("content", [b"", b"\n", b"\n\n \n"])
    def test_says_that_there_was_none(self, content: bytes) -> None:
        with pytest.raises(InviteInvalid, match="there is no invite"):
            read_line(io.BytesIO(content))

    def test_a_truncated_one_ends_with_the_input(self) -> None:
        line = read_line(io.BytesIO(self.LINE[:900]))
        with pytest.raises(InviteInvalid, match="truncated"):
            Invite.decode(line)

    def test_other_text_ends_at_its_first_line(self) -> None:
        stream = io.BytesIO(b"usage: quicpipe\nmore\n")
        assert read_line(stream) == b"usage: quicpipe\n"

    @pytest.mark.parametrize("content", [b"\0", b"\n", b"{", b"{\n", b" "])
    def test_never_reads_without_end(self, content: bytes) -> None:
        endless = _Endless(content)
        with pytest.raises(InviteInvalid, match="too long"):
            Invite.decode(read_line(endless))
        assert endless.read <= MAX_LINE + 1


class _Endless:
    """A stream that gives the same bytes for ever."""

    def __init__(self, content: bytes) -> None:
        self.read = 0
        self._content = content

    def readline(self, limit: int, /) -> bytes:
        line = self._content if self._content.endswith(b"\n") else self._content * limit
        self.read += len(line[:limit])
        return line[:limit]


def test_a_random_packet_is_carried_unchanged() -> None:
    packet = PACKET[:100] + os.urandom(1252 - 100)
    assert Invite.decode(replace(INVITE, packet=packet).encode()).packet == packet
