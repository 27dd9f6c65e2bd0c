"""How the commands hand the invite over: by standard output and input, or by a file."""

import contextlib
import os
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ..errors import FileUnusable, InviteInvalid
from ..invite import MAX_LINE, Invite, read_line
from ..private_file import write_private
from .io import in_daemon_thread, put, say
from .options import STANDARD_STREAM

WAIT_FOR_FILE_S = 10.0
"""Seconds to wait for a file that is not there yet: both ends may be started at once."""
_POLL_S = 0.1


def is_standard_stream(path: Path | None) -> bool:
    """Whether the invite goes by standard output or input."""
    return path is None or path == STANDARD_STREAM


async def publish(invite: Invite, path: Path | None) -> None:
    """Write the invite to standard output, or to a file that nobody else can read.

    A file is replaced if it holds an invite that has expired; a device or a pipe is written to.

    :raises FileUnusable: if it cannot be written, or holds something else, or a live invite.
    """
    line = invite.encode()
    if path is None or is_standard_stream(path):
        await in_daemon_thread(partial(put, line))
    elif _is_special(path):
        # A named pipe, say: it cannot be opened before somebody reads it.
        await in_daemon_thread(partial(_write_special, path, line))
    else:
        _write_file(path, line)


def withdraw(invite: Invite, path: Path | None) -> None:
    """Remove the file again once the invite is used up, if it is still the one we wrote."""
    if path is None or is_standard_stream(path):
        return
    with contextlib.suppress(OSError):
        if path.is_file() and path.read_bytes() == invite.encode().encode():
            path.unlink()


def obtain(path: Path | None) -> Invite:
    """Read the invite from standard input, leaving what follows, or from a file. Blocks.

    :raises InviteInvalid: if it is none.
    :raises FileUnusable: if there is no such file, also after `WAIT_FOR_FILE_S`.
    """
    if path is None or is_standard_stream(path):
        is_terminal = os.isatty(0)
        if is_terminal:
            say("paste the invite here:")
        try:
            invite = Invite.decode(read_line(_ByteWise(0)))
        except OSError as error:
            raise FileUnusable(f"cannot read standard input: {error.strerror}") from None
        if is_terminal:
            # Else whoever goes on typing sees the echo, and takes it for sent.
            say("receiving only: for two-way use hand the invite over with --invite FILE")
        return invite
    _wait_for(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LINE + 1)
    except OSError as error:
        raise FileUnusable(f"cannot read {path}: {error.strerror}") from None
    return Invite.decode(content)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _write_special(path: Path, line: str) -> None:
    try:
        path.write_text(line)
    except OSError as error:
        raise FileUnusable(f"cannot write {path}: {error.strerror}") from None


def _write_file(path: Path, line: str) -> None:
    try:
        if path.exists():
            _check_replaceable(path)
    except OSError as error:
        raise FileUnusable(f"cannot read {path}: {error.strerror}") from None
    write_private(path, line.encode(), overwrite=True)


def _check_replaceable(path: Path) -> None:
    """Let go of nothing yet (as `mktemp` makes it), or an invite that nobody waits behind.

    The original's kind does not say when it expires, so it may be replaced.

    :raises FileUnusable: for anything else, and says what to do.
    """
    with path.open("rb") as file:
        content = file.read(MAX_LINE + 1)
    if not content:
        return
    try:
        there = Invite.decode(content)
    except InviteInvalid:
        raise FileUnusable(f"{path} exists and is not an invite: it is not overwritten") from None
    if there.expires is not None and time.time() < there.expires:
        until = datetime.fromtimestamp(there.expires, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        raise FileUnusable(
            f"{path} holds another invite that is still valid, until {until}: remove it if nobody"
            " waits behind it, or choose another file"
        )


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + WAIT_FOR_FILE_S
    if not path.exists():
        say(f"waiting for {path}")
    while not path.exists():
        if time.monotonic() > deadline:
            raise FileUnusable(
                f"there is no file {path}: bring the one that 'quicpipe dial --invite FILE' wrote"
            )
        time.sleep(_POLL_S)


class _ByteWise:
    """Lines straight from a descriptor: what follows them is left to whoever reads it next."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readline(self, limit: int, /) -> bytes:
        """A line with its newline, at most `limit` bytes; less at the end."""
        line = bytearray()
        while len(line) < limit and not line.endswith(b"\n"):
            byte = os.read(self._descriptor, 1)
            if not byte:
                break
            line += byte
        return bytes(line)
