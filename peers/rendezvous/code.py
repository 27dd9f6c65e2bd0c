"""Spoken codes such as `7-crossword-puppet`: written, read, forgiven (docs/protocol.md §11.1).

The number is the relay's, the words are the secret: 20 random bits, and one guess. The list has
1,024 words of four to nine letters. Their first four letters differ, and no letter changed, added,
left out or swapped makes one word out of another: so four letters name a word, and a slip of the
tongue or the finger is noticed before anybody is asked.
"""

import difflib
import re
import secrets
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

from relay.wire.slots import MAX_NUMBER

from ..errors import CodeInvalid, printable

WORDS = 2
"""How many words a code has."""
SHORTEST_PREFIX = 3
"""Letters of a word that must be given at least, if they say which one."""

_MAX_TEXT = 200
_BEGINNING = re.compile(r"\s*\d{1,6}[\s_-]+[^\W\d_]")
_SEPARATOR = re.compile(r"[\W_]+")
_EXAMPLE = "expected a number and two words, such as 7-crossword-puppet"


@dataclass(frozen=True, slots=True)
class Code:
    """A slot's number at the relay, and the words that nobody else knows."""

    slot: int
    words: tuple[str, ...] = field(repr=False)  # a secret as long as the code lives

    def __str__(self) -> str:
        """As it is shown and spoken."""
        return "-".join((str(self.slot), *self.words))

    @property
    def password(self) -> bytes:
        """The words alone: the number is no secret."""
        return "-".join(self.words).encode()

    @classmethod
    def parse(cls, text: str) -> "Code":
        """Read a code. Case does not matter, nor do spaces or dashes; words may be cut short.

        :raises CodeInvalid: and says which word is none, and what it may have been.
        """
        if len(text) > _MAX_TEXT:
            raise CodeInvalid(f"this is not a code: {_EXAMPLE}")
        plain = unicodedata.normalize("NFKC", text).casefold()
        number, *words = [each for each in _SEPARATOR.split(plain) if each] or [""]
        if not (number.isascii() and number.isdigit()) or len(words) != WORDS:
            raise CodeInvalid(f"'{printable(text, 60)}' is not a code: {_EXAMPLE}")
        if not 1 <= int(number) <= MAX_NUMBER:
            raise CodeInvalid(f"no code begins with {number[:20]}: {_EXAMPLE}")
        return cls(int(number), tuple(_complete(each) for each in words))


def looks_like_code(text: str) -> bool:
    """Whether somebody who wrote this meant a code: digits, a dash or a space, then a letter."""
    return _BEGINNING.match(unicodedata.normalize("NFKC", text[:_MAX_TEXT])) is not None


def choose_words() -> tuple[str, ...]:
    """Words for a new code: 20 random bits."""
    return tuple(secrets.choice(word_list()) for _ in range(WORDS))


@lru_cache(maxsize=1)
def word_list() -> tuple[str, ...]:
    """The 1,024 words, in alphabetical order."""
    text = files("peers.rendezvous").joinpath("words.txt").read_text("ascii")
    return tuple(text.split())


def _complete(word: str) -> str:
    """The word that is meant.

    :raises CodeInvalid: there is none, or more than one.
    """
    words = word_list()
    if word in words:
        return word
    begun = [each for each in words if each.startswith(word)]
    if len(begun) > 1 or (begun and len(word) < SHORTEST_PREFIX):
        some = f": {', '.join(begun)}" if len(begun) <= 4 else ""
        raise CodeInvalid(f"'{printable(word, 30)}' may be the beginning of several words{some}")
    if begun:
        return begun[0]
    similar = difflib.get_close_matches(word[:30], words, n=3)
    hint = f": did you mean {' or '.join(similar)}?" if similar else ": ask again for the code"
    raise CodeInvalid(f"'{printable(word, 30)}' is none of the words that codes are made of{hint}")
