"""Asking for a secret on the terminal."""

import contextlib
import getpass
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


def ask_unseen(prompt: str) -> str | None:
    """Ask on the terminal itself, without an echo: standard input may carry an invite, or data.

    It is left at once by Ctrl-C and the signals that end a process. None: there is no terminal, or
    the input ended.

    :raises KeyboardInterrupt: on Ctrl-C.
    :raises SystemExit: on SIGTERM, with a shell's exit code.
    """
    try:
        # getpass would fall back to standard input where there is no terminal.
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        with _ended_by_signals():
            return getpass.getpass(prompt)
    except (OSError, EOFError):
        return None


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """An event loop keeps signals for later, when it is waited for, and nothing runs meanwhile."""
    former = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, _end),
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
