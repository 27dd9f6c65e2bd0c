"""Spoken codes as text: what is forgiven, and what is noticed before anybody is asked."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.errors import CodeInvalid
from peers.rendezvous.code import Code, choose_words, looks_like_code, word_list
from relay.wire.rendezvous import is_name
from relay.wire.slots import MAX_NUMBER

WORDS = word_list()
CODE = Code(7, ("crossword", "puppet"))


def test_the_list() -> None:
    assert len(WORDS) == 1024
    assert list(WORDS) == sorted(set(WORDS))
    assert all(re.fullmatch("[a-z]{4,9}", word) for word in WORDS)
    assert {"crossword", "puppet"} <= set(WORDS)


def test_four_letters_name_a_word() -> None:
    assert len({word[:4] for word in WORDS}) == len(WORDS)


def test_no_slip_makes_one_word_out_of_another() -> None:
    known = set(WORDS)
    patterns: dict[str, str] = {}
    for word in WORDS:
        for i in range(len(word)):
            changed = word[:i] + "?" + word[i + 1 :]
            assert patterns.setdefault(changed, word) == word
            assert word[:i] + word[i + 1 :] not in known
            assert word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :] not in known - {word}


def test_words_are_chosen_at_random() -> None:
    chosen = [choose_words() for _ in range(3000)]
    assert all(len(each) == 2 and set(each) <= set(WORDS) for each in chosen)
    assert len(set(itertools.chain(*chosen))) > 1000


def test_a_code_is_written_as_it_is_spoken() -> None:
    assert str(CODE) == "7-crossword-puppet"
    assert CODE.password == b"crossword-puppet"
    assert "puppet" not in repr(CODE)


@pytest.mark.parametrize(
    "text",
    [
        "7-crossword-puppet",
        "7-CROSSWORD-Puppet",
        " 7 crossword  puppet \n",
        "7_crossword_puppet",
        "7. crossword, puppet!",
        "07-crossword-puppet",
        "7-cros-pupp",
        "7–crossword—puppet",
        "７-ｃｒｏｓｓｗｏｒｄ-puppet",
        "'7-crossword-puppet'",
    ],
)
def test_what_is_forgiven(text: str) -> None:
    assert Code.parse(text) == CODE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a number and two words, such as 7-crossword-puppet"),
        ("7", "expected a number and two words"),
        ("7-crossword", "expected a number and two words"),
        ("crossword-puppet", "expected a number and two words"),
        ("7-crossword-puppet-puppet", "expected a number and two words"),
        ("-7-crossword", "expected a number and two words"),
        ("0-crossword-puppet", "no code begins with 0"),
        (f"{MAX_NUMBER + 1}-crossword-puppet", "no code begins with 1000000"),
        ("9" * 100 + "-crossword-puppet", "no code begins with 999"),
        ("9" * 1000 + "-crossword-puppet", "this is not a code"),
        ("7-crosswort-puppet", "'crosswort' is none of the words that codes are made of: did you"),
        ("7-crosswort-puppet", "did you mean crossword"),
        ("7-crosword-puppet", "did you mean crossword"),
        ("7-crossword-pupet", "did you mean puppet"),
        ("7-xylophone-puppet", "'xylophone' is none of the words"),
        ("7-cr-puppet", "'cr' may be the beginning of several words"),
        ("7-crossword-p", "'p' may be the beginning of several words"),
        ("7-crossword-zq", "'zq' is none of the words that codes are made of: ask again"),
        ("7-crossword-\x1b[2J", "'2j' is none of the words"),
    ],
)
def test_what_is_none(text: str, said: str) -> None:
    with pytest.raises(CodeInvalid) as refused:
        Code.parse(text)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()


def test_three_letters_are_enough_where_no_other_word_has_them() -> None:
    assert Code.parse("7 zeb zig").words == ("zebra", "zigzag")


def test_a_beginning_that_is_shared_names_the_words() -> None:
    shared = next(
        prefix
        for prefix in sorted({word[:3] for word in WORDS})
        if 2 <= sum(word.startswith(prefix) for word in WORDS) <= 4 and prefix not in WORDS
    )
    meant = [word for word in WORDS if word.startswith(shared)]
    with pytest.raises(CodeInvalid, match=", ".join(meant)):
        Code.parse(f"7-{shared}-puppet")


@given(st.text(max_size=300))
def test_any_text_is_a_code_or_invalid(text: str) -> None:
    said = ""
    try:
        code = Code.parse(text)
    except CodeInvalid as error:
        said = str(error)
    else:
        assert Code.parse(str(code)) == code
    assert said.isprintable()


@given(st.integers(1, MAX_NUMBER), st.sampled_from(WORDS), st.sampled_from(WORDS))
def test_every_code_can_be_read_again(number: int, first: str, second: str) -> None:
    code = Code(number, (first, second))
    assert Code.parse(str(code)) == code
    assert Code.parse(f"{number} {first[:4].upper()} {second[:4]}") == code
    assert looks_like_code(str(code))
    assert not is_name(str(code))


@pytest.mark.parametrize("text", ["7-crossword-puppet", " 12 Cros pupp", "7-x", "7_laptop"])
def test_what_looks_like_a_code(text: str) -> None:
    assert looks_like_code(text)


@pytest.mark.parametrize(
    "text", ["", "laptop", "7", "laptop-7", "ab" * 32, "12" * 32, "sha256:" + "1-" * 32, "-7-a"]
)
def test_what_does_not(text: str) -> None:
    assert not looks_like_code(text)
