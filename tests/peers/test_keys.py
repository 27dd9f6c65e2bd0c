"""Pairing keys as text: made, read, and refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers import keys
from peers.errors import KeyInvalid

KEY = bytes(range(32))
TEXT = keys.encode(KEY)


def why(text: str) -> str:
    with pytest.raises(KeyInvalid) as caught:
        keys.decode(text)
    said = str(caught.value)
    assert said.isprintable()
    assert TEXT[20:40] not in said, "a key that is nearly right must not be shown"
    return said


def test_a_new_key_has_256_bits_and_its_text_is_recognised() -> None:
    key = keys.generate()
    assert len(key) == 32
    assert keys.generate() != key
    assert keys.encode(key).startswith("quicpipe-key-1-")
    assert keys.decode(keys.encode(key)) == key


def test_the_format_stays_as_it_is() -> None:
    assert TEXT == "quicpipe-key-1-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypr5crwqa"


@given(st.binary(min_size=16, max_size=64).filter(lambda key: len(set(key)) >= 6))
def test_any_strong_key_is_read_again(key: bytes) -> None:
    text = keys.encode(key)
    assert keys.decode(text) == key
    assert keys.decode(f"\n {text.upper()[:30]}\r\n{text[30:]}  \n") == key


@given(st.integers(len(keys.PREFIX), len(TEXT) - 1), st.sampled_from("abcdefghijklmnop234567"))
def test_every_mistyped_letter_is_found(at: int, letter: str) -> None:
    text = TEXT[:at] + letter + TEXT[at + 1 :]
    if text == TEXT:
        return
    assert "mistyped" in why(text)


def test_a_cut_key_is_found() -> None:
    for length in range(len(TEXT)):
        why(TEXT[:length])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("correct horse battery staple", "not a pairing key"),
        ("hunter2", "not a pairing key"),
        ("AAAAAAAAAAAAAAAAAAAAAA==", "not a pairing key"),
        ("quicpipe-key-2-aaaa", "not a pairing key"),
        (TEXT * 20, "not a pairing key"),
        ("quicpipe-key-1-", "mistyped or cut"),
        ("quicpipe-key-1-!!!", "not base32"),
        ("quicpipe-key-1-é", "not base32"),
        (TEXT + "aa", "mistyped or cut"),
        (TEXT + "=", "mistyped or cut"),
    ],
)
def test_what_is_no_key_is_named(text: str, said: str) -> None:
    assert said in why(text)


@given(st.text(max_size=100) | st.text(max_size=100).map(lambda text: keys.PREFIX + text))
def test_any_text_gives_a_key_or_a_typed_error(text: str) -> None:
    try:
        key = keys.decode(text)
    except KeyInvalid:
        return
    assert keys.decode(keys.encode(key)) == key


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (b"", "0 bits"),
        (bytes(range(15)), "120 bits"),
        (bytes(32), "not random"),
        (b"abcab" * 8, "not random"),
        (bytes(range(65)), "65 bytes"),
    ],
)
def test_weak_keys_are_refused(key: bytes, said: str) -> None:
    with pytest.raises(KeyInvalid, match=said):
        keys.encode(key)


def test_a_weak_key_in_the_right_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(keys, "MINIMUM_LENGTH", 1)
        weak = keys.encode(bytes(range(8)))
    assert "64 bits" in why(weak)


def test_a_key_file_is_read_when_only_its_owner_can(tmp_path: Path) -> None:
    path = tmp_path / "pairing.key"
    path.write_text(TEXT + "\n")
    path.chmod(0o600)
    assert keys.load(path) == KEY
    for mode in (0o644, 0o640, 0o604, 0o602):
        path.chmod(mode)
        with pytest.raises(KeyInvalid, match=r"can be read by others .*chmod 600"):
            keys.load(path)


def test_a_key_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairing.key"
    with pytest.raises(KeyInvalid, match=r"cannot read .*No such file"):
        keys.load(path)
    with pytest.raises(KeyInvalid, match="Is a directory"):
        keys.load(tmp_path)
    path.touch(0o600)
    for content in (b"", b"\xff\x00\x80", b"secret", b"x" * 5000, TEXT[:-3].encode()):
        path.write_bytes(content)
        with pytest.raises(KeyInvalid, match=r"pairing\.key"):
            keys.load(path)
