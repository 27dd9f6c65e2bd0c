"""Where our token for the relay comes from (docs/protocol.md §14). It is a secret: never shown.

A token is a text that the relay's operator gave us. It is sent to the relay over a connection whose
certificate we trust, and to nobody else; it stands in no invite.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from .errors import FileUnusable, UsageError

MAX_TOKEN = 4_096
"""Characters."""

TokenSource = Callable[[], str | None]
"""Gives the token as it is now; None: there is none."""

_OTHERS = 0o007

_log = logging.getLogger(__name__)


def parse_token(text: str, where: str) -> str:
    """A token, without the white space around it.

    :param where: names the origin in the error.
    :raises UsageError: it is none; the text does not repeat it.
    """
    token = text.strip()
    if not token:
        raise UsageError(f"there is no token in {where}")
    if len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"what is in {where} is no token: expected one word of at most {MAX_TOKEN} characters,"
            " such as 'quicpipe-relay token' prints"
        )
    return token


def fixed_token(text: str, where: str) -> TokenSource:
    """A token that never changes.

    :raises UsageError: it is none.
    """
    token = parse_token(text, where)
    return lambda: token


class TokenFile:
    """A file with a token. It is read again whenever the token is needed: so it can be renewed."""

    def __init__(self, path: Path) -> None:
        """:raises FileUnusable: it cannot be read.
        :raises UsageError: there is no token in it.
        """
        self._path = path
        self._token = self._read()
        try:
            if path.is_file() and path.stat().st_mode & _OTHERS:
                _log.warning("every user of this machine can read the token in %s", path)
        except OSError:
            pass  # it has just been read

    def __call__(self) -> str:
        """The token; the former one while the file cannot be read."""
        try:
            self._token = self._read()
        except (FileUnusable, UsageError) as error:
            _log.info("the token is not renewed: %s", error)
        return self._token

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_TOKEN + 1024)
            return parse_token(content.decode(), str(self._path))
        except OSError as error:
            raise FileUnusable(f"cannot read {self._path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"what is in {self._path} is no token: it is not text") from None


def hint(problem: str, *, had_token: bool) -> str:
    """What to tell the user when the relay answers 401."""
    if had_token:
        return f"the relay does not take our token: {problem}"
    return (
        "the relay wants a token, which its operator gives: --token-file FILE, or"
        " QUICPIPE_TOKEN_FILE, and --relay HOST, for it is sent to a relay that you name only"
    )
