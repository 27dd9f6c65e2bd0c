"""What the command line asks for, as values, and the types that read its texts."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .. import keys
from ..errors import PeersError, printable
from ..identity import parse_fingerprint
from ..known_peers import check_label
from ..paths.path import PathPolicy
from ..relay_name import RelayName
from ..rendezvous.code import Code
from ..rendezvous.listener import check_name

_LONGEST_LIFETIME_S = 30 * 86400.0
_DURATION = re.compile(r"(\d{1,7})([smhd]?)", re.ASCII)
_DIGIT_FIRST = re.compile(r"[\W_]*\d")  # quotes may stand before it
_LONGEST_CODE = 64
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

STANDARD_STREAM = Path("-")

Parsed = TypeVar("Parsed")


class Options(argparse.Namespace):
    """The options of all commands; those that a command does not have keep their default."""

    command: str | None = None
    verbose: bool = False
    relay: RelayName | None = None
    relay_fingerprint: str | None = None
    peer: str | None = None
    """Whom to dial: a fingerprint in its one form, or what may be a label, a name or a code."""
    peers: list[str] | None = None
    """Whom to let in: fingerprints in their one form, and labels."""
    anyone: bool = False
    listen: bool = False
    name: str | None = None
    keep_open: bool = False
    code: bool = False
    qr: bool = False
    save: str | None = None
    label: str = ""
    fingerprint: str = ""
    pairing_key_file: Path | None = None
    pairing_key_prompt: bool = False
    token_file: Path | None = None
    token_prompt: bool = False
    identity: Path | None = None
    invite: Path | None = None
    expires_s: float | None = None
    """None: not given."""
    original: bool = False
    relay_only: bool = False
    direct_only: bool = False
    json: bool = False
    output: Path | None = None

    @property
    def path_policy(self) -> PathPolicy:
        """Whether the pipe may leave the relay, or must."""
        if self.relay_only:
            return PathPolicy.RELAY_ONLY
        return PathPolicy.DIRECT_ONLY if self.direct_only else PathPolicy.ANY


def relay_name(text: str) -> RelayName:
    """`HOST[:PORT]`."""
    return _checked(RelayName.parse, text)


def fingerprint(text: str) -> str:
    """A certificate's fingerprint, in any spelling."""
    return _checked(parse_fingerprint, text)


def peer_or_label(text: str) -> str:
    """A certificate's fingerprint, in any spelling, or a label of `quicpipe pin`."""
    if not _looks_like_label(text):
        return fingerprint(text)
    return label(text)


def whom_to_dial(text: str) -> str:
    """A fingerprint, a label, a name, or a code, each in its one form."""
    if text.lstrip().startswith("{"):
        raise argparse.ArgumentTypeError(
            "an invite does not belong on the command line, which others can see: it is for"
            " 'quicpipe accept', on standard input or by --invite FILE"
        )
    if is_code(text):
        return str(_checked(Code.parse, text))
    if "sha256" in text.lower() or re.fullmatch(r"[0-9A-Fa-f:\s]{32,}", text):
        return fingerprint(text)
    try:
        return check_label(text)
    except PeersError:
        raise argparse.ArgumentTypeError(
            f"'{printable(text, 60)}' is no code such as 7-crossword-puppet, no fingerprint"
            " (sha256:…), and no label or name: a letter, then letters, digits, '.', '_' and '-'"
        ) from None


def is_code(text: str) -> bool:
    """Whether somebody who wrote this meant a spoken code: no label or name begins like it."""
    return len(text) < _LONGEST_CODE and _DIGIT_FIRST.match(text) is not None


def listener_name(text: str) -> str:
    """A name to listen under."""
    return _checked(check_name, text)


def label(text: str) -> str:
    """A label for a peer."""
    return _checked(check_label, text)


def file_path(text: str) -> Path:
    """The path of a file."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("expected the name of a file")
    return Path(text)


def key_file(text: str) -> Path:
    """The path of a file with a pairing key; a key itself does not belong on a command line."""
    if text.lower().startswith(keys.PREFIX):
        raise argparse.ArgumentTypeError(
            "this is a key, and a command line can be seen by others: write it into a file, or"
            " better make a new one with 'quicpipe keygen --output FILE'"
        )
    return file_path(text)


def token_file(text: str) -> Path:
    """The path of a file with a token; a token itself does not belong on a command line."""
    if text.startswith("eyJ") and text.count(".") == 2:
        raise argparse.ArgumentTypeError(
            "this is a token, and a command line can be seen by others: write it into a file, or"
            " set QUICPIPE_TOKEN"
        )
    return file_path(text)


def duration(text: str) -> float:
    """A time such as `90s`, `10m`, `1h`, `2d`, or `90`, in seconds."""
    matched = _DURATION.fullmatch(text.strip())
    seconds = float(matched[1]) * _UNITS_S[matched[2]] if matched else 0.0
    if not 1 <= seconds <= _LONGEST_LIFETIME_S:
        raise argparse.ArgumentTypeError(
            "expected a time from 1s to 30d: 90s, 10m, 1h, 2d, or a plain number of seconds"
        )
    return seconds


def _looks_like_label(text: str) -> bool:
    return len(text) < 64 and ":" not in text


def _checked(parse: Callable[[str], Parsed], text: str) -> Parsed:
    try:
        return parse(text)
    except (ValueError, PeersError) as error:
        # argparse shows the text of this exception only.
        raise argparse.ArgumentTypeError(str(error)) from None
