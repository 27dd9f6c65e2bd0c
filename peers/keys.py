"""Pairing keys: a secret that two peers share beforehand, as text that a person can carry.

The text is the prefix, then base32 (RFC 4648 §6, lower case, without padding) of the key followed
by 4 bytes of checksum. Whoever sees an invite can try keys against it without asking anybody
(RFC 9257 §4), so nothing that a person could remember is taken: a key is made by `generate`.
"""

import base64
import binascii
import hashlib
import secrets
from pathlib import Path

from .errors import FileUnusable, KeyInvalid
from .private_file import read_private

PREFIX = "quicpipe-key-1-"
KEY_LENGTH = 32
"""Bytes of a key that we make."""
MINIMUM_LENGTH = 16
"""Bytes of the shortest key that we take: 128 bits."""
MAXIMUM_LENGTH = 64

_CHECKSUM_LENGTH = 4
_MAX_TEXT = 1024
# 16 random bytes have fewer different values than this once in 10¹⁵ or so.
_FEWEST_VALUES = 6


def generate() -> bytes:
    """Make a key of 256 random bits."""
    return secrets.token_bytes(KEY_LENGTH)


def encode(key: bytes) -> str:
    """Write a key as text, without a newline.

    :raises KeyInvalid: if it is too weak or too long.
    """
    check_strength(key)
    return PREFIX + base64.b32encode(key + _checksum(key)).decode().rstrip("=").lower()


def decode(text: str) -> bytes:
    """Read a key from its text. Case, white space and line breaks do not matter.

    :raises KeyInvalid: and says why; never shows the text, which may be nearly right.
    """
    compact = "".join(text[:_MAX_TEXT].split()).lower()
    if not compact:
        raise KeyInvalid("the pairing key is empty: make one with 'quicpipe keygen'")
    if not compact.startswith(PREFIX) or len(text) > _MAX_TEXT:
        raise KeyInvalid(
            f"this is not a pairing key: expected '{PREFIX}' and letters and digits;"
            " make one with 'quicpipe keygen'"
        )
    digits = compact.removeprefix(PREFIX)
    try:
        data = base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
    except (binascii.Error, ValueError):
        raise KeyInvalid("the pairing key is mistyped or cut: it is not base32") from None
    key, checksum = data[:-_CHECKSUM_LENGTH], data[-_CHECKSUM_LENGTH:]
    # The last base32 digit has spare bits: another digit there would decode to the same bytes.
    if checksum != _checksum(key) or _spare_bits_used(digits, data):
        raise KeyInvalid("the pairing key is mistyped or cut: its checksum is wrong")
    check_strength(key)
    return key


def check_strength(key: bytes) -> None:
    """Refuse a key that could be guessed.

    :raises KeyInvalid: below 128 bits, above 64 bytes, or visibly not random.
    """
    if len(key) < MINIMUM_LENGTH:
        raise KeyInvalid(
            f"the pairing key has {8 * len(key)} bits, and at least {8 * MINIMUM_LENGTH} are"
            " needed: make one with 'quicpipe keygen'"
        )
    if len(key) > MAXIMUM_LENGTH:
        raise KeyInvalid(f"the pairing key has {len(key)} bytes; at most {MAXIMUM_LENGTH} are used")
    if len(set(key)) < _FEWEST_VALUES:
        raise KeyInvalid("the pairing key is not random: make one with 'quicpipe keygen'")


def load(path: Path) -> bytes:
    """Read a key from a file that only its owner can read.

    :raises KeyInvalid: if there is no usable key in it, or others can read it.
    """
    try:
        content = read_private(path, limit=_MAX_TEXT)
        return decode(content.decode("ascii", errors="replace"))
    except KeyInvalid as error:
        raise KeyInvalid(f"{path}: {error}") from None
    except FileUnusable as error:
        raise KeyInvalid(str(error)) from None


def _checksum(key: bytes) -> bytes:
    return hashlib.blake2b(PREFIX.encode() + key, digest_size=_CHECKSUM_LENGTH).digest()


def _spare_bits_used(digits: str, data: bytes) -> bool:
    return base64.b32encode(data).decode().rstrip("=").lower() != digits
