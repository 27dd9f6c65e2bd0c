"""The exceptions: one line each, and the data that a program decides on."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers import errors
from peers.errors import (
    CloseCode,
    DatagramTooLarge,
    PeersError,
    PipeClosed,
    PipeLost,
    RegistrationFailed,
    RelayUntrusted,
    StreamReset,
    printable,
)

EXCEPTIONS = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, BaseException)
]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_every_exception_has_one_base_and_shows_its_message_alone(
    exception: type[PeersError],
) -> None:
    assert issubclass(exception, PeersError)
    assert str(exception("what was wrong")) == "what was wrong"


def test_exceptions_carry_what_a_program_decides_on() -> None:
    assert RelayUntrusted("no", "sha256:00").fingerprint == "sha256:00"
    assert RegistrationFailed("no", status=429, retry_after_s=2.5).retry_after_s == 2.5
    assert PipeClosed("no", code=7, reason="enough").reason == "enough"
    assert PipeClosed("no").code == CloseCode.DONE
    assert isinstance(PipeLost("gone"), PipeClosed)
    assert StreamReset("no", 9).code == 9
    assert DatagramTooLarge("no", 1165).limit == 1165


@given(st.text(), st.integers(1, 50))
def test_foreign_text_becomes_one_printable_line(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert len(text) > limit or len(shown) == len(text)


def test_terminal_escapes_do_not_come_through() -> None:
    assert printable("\x1b[2J\nhello\u202e") == "?[2J?hello?"
