"""What a setting may be: each kind reads a text (environment, flags) and a TOML value alike."""

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Generic, Protocol, TypeVar

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

MAX_TEXT = 4096
"""Characters of a value that a message repeats, or that is looked at."""

_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DECIMAL = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)

_SIZE_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_PREFIXES = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Unfit(ValueError):
    """The value is not of its kind; the text says what was given and what was expected."""


class Kind(Protocol[_T_co]):
    """Of which values a setting is made."""

    @property
    def metavar(self) -> str:
        """What stands for a value in --help."""

    def from_text(self, text: str) -> _T_co:
        """Read a flag's or variable's value.

        :raises Unfit: it is none.
        """

    def from_toml(self, value: object) -> _T_co:
        """Read what a TOML file says.

        :raises Unfit: it is none.
        """


class Text:
    """Characters that fit a pattern."""

    def __init__(self, expected: str, pattern: str = r"[^\x00-\x1f\x7f]+", metavar: str = "TEXT"):
        """`expected` says what fits, for people."""
        self._expected = expected
        self._pattern = re.compile(pattern)
        self.metavar = metavar

    def from_text(self, text: str) -> str:
        """See `Kind`."""
        if len(text) > MAX_TEXT or not self._pattern.fullmatch(text):
            raise Unfit(f"{quote(text)} is not {self._expected}")
        return text

    def from_toml(self, value: object) -> str:
        """See `Kind`."""
        return self.from_text(_string(value, self._expected))


class FilePath:
    """Where a file or folder is. In a TOML file it may be relative to that file's folder."""

    metavar = "FILE"

    def __init__(self, metavar: str = "FILE") -> None:
        self.metavar = metavar

    def from_text(self, text: str) -> Path:
        """See `Kind`."""
        if not text or "\0" in text or len(text) > MAX_TEXT:
            raise Unfit(f"{quote(text)} is not the path of a file")
        return Path(text)

    def from_toml(self, value: object) -> Path:
        """See `Kind`."""
        return self.from_text(_string(value, "the path of a file"))


class Flag:
    """Yes or no."""

    metavar = "0|1"

    def from_text(self, text: str) -> bool:
        """See `Kind`."""
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("", "0", "false", "no", "off"):
            return False
        raise Unfit(f"{quote(text)} is not yes or no: expected 0 or 1")

    def from_toml(self, value: object) -> bool:
        """See `Kind`."""
        if isinstance(value, bool):
            return value
        raise Unfit(f"{describe(value)} is not yes or no: expected true or false")


class Choice(Generic[_T]):
    """One of a few words."""

    def __init__(self, words: Iterable[str], make: Callable[[str], _T]) -> None:
        """`make` turns a word into what the program uses."""
        self._words = tuple(words)
        self._make = make
        self.metavar = "|".join(self._words)

    def from_text(self, text: str) -> _T:
        """See `Kind`."""
        if text not in self._words:
            raise Unfit(f"{quote(text)} is not one of {', '.join(self._words)}")
        return self._make(text)

    def from_toml(self, value: object) -> _T:
        """See `Kind`."""
        return self.from_text(_string(value, f"one of {', '.join(self._words)}"))


def words(choices: Iterable[str]) -> Choice[str]:
    """A `Choice` of plain words."""
    return Choice(choices, str)


_E = TypeVar("_E", bound=StrEnum)


def members(enum: type[_E]) -> Choice[_E]:
    """A `Choice` of an enumeration's values."""
    return Choice([each.value for each in enum], enum)


class Integer:
    """A whole number within bounds."""

    def __init__(
        self, low: int, high: int, *, or_zero: bool = False, metavar: str = "N", what: str = ""
    ) -> None:
        """Both bounds are allowed.

        :param or_zero: 0 is allowed too, though it is below.
        :param what: said after "a number", such as "of bytes".
        """
        self._low, self._high, self._or_zero = low, high, or_zero
        self.metavar = metavar
        self._expected = (
            f"{'0 or ' if or_zero else ''}a number{what and ' ' + what} from {low} to {high}"
        )

    def from_text(self, text: str) -> int:
        """See `Kind`."""
        digits = text.replace("_", "")
        is_number = digits.isascii() and digits.isdecimal() and len(digits) <= 18
        return self._checked(int(digits) if is_number else None, quote(text))

    def from_toml(self, value: object) -> int:
        """See `Kind`."""
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return self._checked(value if is_number else None, describe(value))

    def _checked(self, number: object, said: str) -> int:
        if isinstance(number, int) and _fits(number, self._low, self._high, self._or_zero):
            return number
        raise Unfit(f"{said} is not {self._expected}")


class Seconds:
    """A time: a number of seconds, or with a unit such as `10m`, `1.5h`, `250ms`."""

    metavar = "SECONDS"

    def __init__(self, low: float, high: float, *, or_zero: bool = False) -> None:
        """Both bounds are in seconds and allowed; with `or_zero`, 0 is too."""
        self._low, self._high, self._or_zero = low, high, or_zero
        self._expected = (
            f"{'0 or ' if or_zero else ''}a number of seconds from {low:g} to {high:g} "
            "(or with ms, s, m, h or d)"
        )

    def from_text(self, text: str) -> float:
        """See `Kind`."""
        match = _DECIMAL.fullmatch(text.strip())
        unit = _DURATION_UNITS.get(match[2].lower()) if match else None
        seconds = float(match[1]) * unit if match and unit is not None else None
        return self._checked(seconds, quote(text))

    def from_toml(self, value: object) -> float:
        """See `Kind`."""
        if isinstance(value, str):
            return self.from_text(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return self._checked(value if is_number else None, describe(value))

    def _checked(self, seconds: object, said: str) -> float:
        if isinstance(seconds, int | float) and _fits(
            seconds, self._low, self._high, self._or_zero
        ):
            return float(seconds)
        raise Unfit(f"{said} is not {self._expected}")


class Amount:
    """So many bytes: `1500`, `10kB`, `2.5GB`, `4MiB`."""

    metavar = "BYTES"

    def __init__(self, low: int, high: int, *, or_zero: bool = False) -> None:
        """Both bounds are in bytes and allowed; with `or_zero`, 0 is too."""
        self._low, self._high, self._or_zero = low, high, or_zero
        self._expected = (
            f"{'0 or ' if or_zero else ''}an amount from {low} to {high} bytes "
            "(as in 1500, 10kB, 4MiB, 2.5GB)"
        )

    def from_text(self, text: str) -> int:
        """See `Kind`."""
        return _within(self, _bytes(text, ("", "b", "byte", "bytes"), 1), quote(text))

    def from_toml(self, value: object) -> int:
        """See `Kind`."""
        if isinstance(value, str):
            return self.from_text(value)
        return _within(self, _whole(value), describe(value))

    def allows(self, number: int) -> bool:
        """Whether it is within the bounds."""
        return _fits(number, self._low, self._high, self._or_zero)

    @property
    def expected(self) -> str:
        """For people."""
        return self._expected


class ByteRate(Amount):
    """So many bytes in a second: `20mbit` (bits), `2.5MB` (bytes), or a bare number of bytes."""

    metavar = "RATE"

    def __init__(self, low: int, high: int, *, or_zero: bool = False) -> None:
        super().__init__(low, high, or_zero=or_zero)
        self._expected = (
            f"{'0 or ' if or_zero else ''}a rate from {low} to {high} bytes a second "
            "(as in 20mbit, 2.5MB, 1gbit)"
        )

    def from_text(self, text: str) -> int:
        """See `Kind`."""
        bare = text.strip().lower().removesuffix("/s").removesuffix("ps")
        found = _bytes(bare, ("", "b", "byte", "bytes"), 1)
        if found is None:
            found = _bytes(bare, ("bit", "bits"), 8)
        return _within(self, found, quote(text))


class Several(Generic[_T]):
    """A list: in TOML an array, in the environment separated by commas, as a flag repeated."""

    def __init__(self, each: Kind[_T], *, at_most: int = 64) -> None:
        """A value that is repeated counts once."""
        self.each = each
        self._at_most = at_most
        self.metavar = each.metavar

    def from_text(self, text: str) -> tuple[_T, ...]:
        """See `Kind`."""
        return self.of([self.each.from_text(one) for one in _pieces(text)])

    def from_toml(self, value: object) -> tuple[_T, ...]:
        """See `Kind`."""
        if not isinstance(value, list):
            raise Unfit(f"{describe(value)} is no array: expected one, as in [...]")
        return self.of([self.each.from_toml(one) for one in value])

    def of(self, values: Iterable[_T]) -> tuple[_T, ...]:
        """Put single values together.

        :raises Unfit: there are too many.
        """
        unique = tuple(dict.fromkeys(values))
        if len(unique) > self._at_most:
            raise Unfit(f"there are {len(unique)}; expected at most {self._at_most}")
        return unique


def quote(text: str) -> str:
    """A text as messages repeat it: bounded, on one line."""
    shown = text if len(text) <= 80 else text[:77] + "..."
    return "'" + "".join(each if each.isprintable() else "?" for each in shown) + "'"


def describe(value: object) -> str:
    """A TOML value as messages repeat it."""
    match value:
        case str():
            return quote(value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return quote(str(value)).strip("'")
        case list():
            return "an array"
        case dict():
            return "a table"
    return f"a {type(value).__name__}"


def _string(value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise Unfit(f"{describe(value)} is not {expected}: expected a string in quotes")
    return value


def _fits(number: float, low: float, high: float, or_zero: bool) -> bool:
    return low <= number <= high or (or_zero and number == 0)  # no NaN does


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _within(kind: Amount, number: int | None, said: str) -> int:
    if number is None or not kind.allows(number):
        raise Unfit(f"{said} is not {kind.expected}")
    return number


def _bytes(text: str, units: tuple[str, ...], divisor: int) -> int | None:
    match = _DECIMAL.fullmatch(text.strip().lower())
    if match is None:
        return None
    for prefix, factor in (*_BINARY_PREFIXES.items(), *_SIZE_PREFIXES.items()):
        if match[2].startswith(prefix) and match[2].removeprefix(prefix) in units:
            return round(float(match[1]) * factor / divisor)
    return None


def _pieces(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
