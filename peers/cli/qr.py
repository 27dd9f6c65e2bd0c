"""An invite or a code as a QR code on the terminal, by standard error."""

import contextlib
import os
import sys
from io import StringIO

from ..errors import UsageError
from .io import say

_QUIET_ZONE = 4  # modules on each side (ISO/IEC 18004)
_BLOCKS = "█▀▄ "
_WHITE_ON_BLACK, _RESET = "\x1b[97;40m", "\x1b[0m"
_MOST = 2953
"""Bytes of the longest text that the largest QR code holds."""


def show_qr(text: str) -> None:
    """Draw it, if the terminal has room. What is not drawn is said; it is never the only copy.

    :raises UsageError: no QR code holds so much.
    """
    import segno  # not at the top: few need it, and it takes a while to load

    try:
        drawing = segno.make_qr(text, error="l")
    except segno.DataOverflowError:
        raise UsageError(
            f"{len(text)} characters are too many for a QR code, which holds {_MOST} at most:"
            " leave --qr away"
        ) from None
    width = drawing.symbol_size(border=_QUIET_ZONE)[0]
    is_compact = _can_show_blocks()
    columns, lines = (width, (width + 1) // 2) if is_compact else (2 * width, width)
    is_terminal = sys.stderr.isatty()
    if is_terminal:
        room = _terminal_size()
        if room is not None and (columns > room.columns or lines > room.lines):
            say(
                f"the QR code needs {columns} columns and {lines} lines, this terminal has"
                f" {room.columns} and {room.lines}: make the letters smaller or the window larger,"
                " then try again"
            )
            return
    out = StringIO()
    drawing.terminal(out, border=_QUIET_ZONE, compact=is_compact)
    picture = out.getvalue()
    if is_terminal and is_compact:
        # Light on dark whatever the terminal's colours are: not every reader takes the inverse.
        rows = picture.splitlines()
        picture = "".join(f"{_WHITE_ON_BLACK}{row}{_RESET}\n" for row in rows)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(picture)
        sys.stderr.flush()


def _terminal_size() -> os.terminal_size | None:
    """None: nobody knows; serial lines and containers often have a terminal of 0 by 0."""
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        return None
    return size if size.columns and size.lines else None


def _can_show_blocks() -> bool:
    try:
        _BLOCKS.encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
