"""The invite: the dialer's first datagram and what the accepter needs to answer it, as one line.

docs/protocol.md §5. It goes through shells, chats, mails and files, so reading it takes any bytes
and gives an `Invite` or says in one line what is wrong. The original's form, the packet alone, is
read as well (§7).
"""

import base64
import binascii
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from blake3 import blake3

from relay.wire.invariants import LongHeader, parse_invariants

from .errors import IdentityInvalid, InviteExpired, InviteInvalid, printable
from .identity import parse_fingerprint
from .relay_name import RelayName
from .rendezvous.code import looks_like_code

VERSION = 1
MAX_LINE = 16384
"""Bytes of the longest invite, with its newline. A usual one has about 2,000."""
KEY_LENGTH = 32
"""Bytes of a one-time key."""
DEFAULT_LIFETIME_S = 3600.0
"""Seconds for which an invite can be answered, unless the dialer says otherwise."""

# RFC 9000 §14.1: no Initial packet comes in a smaller datagram. 65527: what UDP can carry.
_PACKET_LENGTHS = range(1200, 65528)
_PACKET_TYPE = 0x30  # RFC 9000 §17.2: the bits for a long header's type; Initial is 0.
_LAST_SECOND = 253402300799  # 9999-12-31: what `datetime` can show.
_OURS = {"relay", "fingerprint", "expires", "auth", "key", "check"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class AuthKind(StrEnum):
    """How the two ends authenticate (docs/protocol.md §6.2); the value is its name on the wire."""

    INVITE_KEY = "invite-key"
    PAIRING_KEY = "pairing-key"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Invite:
    """What an accepter needs. In the original's form everything but `packet` is None."""

    packet: bytes = field(repr=False)
    """The dialer's first datagram: one QUIC v1 Initial packet, at least 1,200 bytes."""
    relay: RelayName | None = None
    """Where the dialer is registered."""
    fingerprint: str | None = None
    """The relay's certificate as the dialer verified it, `sha256:` and 64 hexadecimal digits."""
    expires: int | None = None
    """Seconds since 1970; after that the dialer no longer waits."""
    auth: AuthKind | None = None
    key: bytes | None = field(default=None, repr=False)
    """The one-time key, 32 bytes, with `AuthKind.INVITE_KEY` only: then the invite is a secret."""

    @property
    def is_original(self) -> bool:
        """Whether it has the original's form: a packet and nothing else."""
        return self.auth is None

    def check_expiry(self, now: float) -> None:
        """Refuse an invite whose time is over.

        :param now: seconds since 1970.
        :raises InviteExpired: and says when.
        """
        if self.expires is not None and now >= self.expires:
            at = datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            raise InviteExpired(
                f"the invite expired at {at}, {_duration(now - self.expires)} ago:"
                " ask the dialer for a new one"
            )

    def encode(self) -> str:
        """The line, with its newline. ASCII, unless the relay's name is not."""
        fields: dict[str, Any] = {"packet": base64.b64encode(self.packet).decode()}
        if not self.is_original:
            fields |= {
                "v": VERSION,
                "relay": str(self.relay),
                "fingerprint": self.fingerprint,
                "expires": self.expires,
                "auth": self.auth,
            }
            if self.key is not None:
                fields["key"] = base64.b64encode(self.key).decode()
            fields["check"] = _check(fields)
        return json.dumps(fields, ensure_ascii=False) + "\n"

    @classmethod
    def decode(cls, line: str | bytes) -> "Invite":
        """Read an invite. Line breaks inside it, as a mail program puts them, do not matter.

        It may have expired: see `check_expiry`.

        :raises InviteInvalid: for anything else than a well-formed invite; says why.
        """
        fields = _object(_text(line))
        if "v" not in fields and not fields.keys() & _OURS:
            return cls(_packet(fields))
        _check_version(fields)
        if fields.get("check") != _check(fields):
            raise InviteInvalid(
                "the invite is damaged: its checksum is wrong; copy it whole, or ask for a new one"
            )
        auth = _auth(fields)
        return cls(
            packet=_packet(fields),
            relay=_relay(fields),
            fingerprint=_fingerprint(fields),
            expires=_expires(fields),
            auth=auth,
            key=_key(fields, auth),
        )


class LineSource(Protocol):
    """A binary stream that gives lines, such as `sys.stdin.buffer`."""

    def readline(self, limit: int, /) -> bytes:
        """Up to `limit` bytes of a line with its newline; less at the end of the stream."""


def read_line(source: LineSource) -> bytes:
    """Take one invite from a stream and leave what follows it. Blocks.

    Empty lines before it are passed over, and an invite that was wrapped is put together again.

    :raises InviteInvalid: if there is none, or it is longer than `MAX_LINE`.
    """
    text = b""
    budget = MAX_LINE + 1
    while budget > 0:
        line = source.readline(budget)
        budget -= len(line)
        text = (text + line).lstrip()
        if not line or _is_whole(text):
            break
    else:
        raise _too_long()
    if not text:
        raise InviteInvalid("there is no invite: the input ended before any; did the dialer fail?")
    return text


def _is_whole(text: bytes) -> bool:
    """Whether no further line can belong to it. What is no JSON object at all never gets whole."""
    begun = text.removeprefix(_BYTE_ORDER_MARK)
    return bool(begun) and (not begun.startswith(b"{") or begun.rstrip().endswith(b"}"))


def _too_long() -> InviteInvalid:
    return InviteInvalid(f"the invite is too long: more than {MAX_LINE} bytes")


def _text(line: str | bytes) -> str:
    if len(line) > MAX_LINE:
        raise _too_long()
    if isinstance(line, bytes):
        try:
            line = line.decode()
        except UnicodeDecodeError:
            raise InviteInvalid("this is not an invite: it is not text in UTF-8") from None
    text = line.strip("\ufeff \t\r\n").replace("\r", "").replace("\n", "")
    if not text:
        raise InviteInvalid("the invite is empty: expected one line of JSON")
    return text


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        is_followed = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        if text.startswith("{") and is_followed:
            raise InviteInvalid(
                "something follows the invite on its line or in its file: give the invite alone"
            ) from None
        if text.startswith("{") and not text.endswith("}"):
            raise InviteInvalid(
                f"the invite is truncated: it ends after {len(text)} characters; copy it whole"
            ) from None
        if looks_like_code(text):
            raise InviteInvalid(
                "this is not an invite but a spoken code: say 'quicpipe dial' and the code"
            ) from None
        why = printable(str(error), 80)
        raise InviteInvalid(
            f"this is not an invite: it is not JSON ({why}); expected the line that begins"
            " with '{' and that 'quicpipe dial' prints"
        ) from None
    if not isinstance(value, dict):
        raise InviteInvalid("this is not an invite: it is JSON, but not an object")
    return value


def _check_version(fields: dict[str, Any]) -> None:
    if "v" not in fields:
        raise InviteInvalid("the invite is damaged: it does not say its version ('v')")
    version = fields["v"]
    # `True == 1` in Python, not in JSON.
    if type(version) is not int or version != VERSION:
        raise InviteInvalid(
            f"the invite has version {printable(str(version), 20)}, this program reads version"
            f" {VERSION}: use the same release at both ends"
        )


def _check(fields: dict[str, Any]) -> str:
    """The `check` of an invite with these fields: 16 hexadecimal digits."""
    others = {name: value for name, value in fields.items() if name != "check"}
    try:
        text = json.dumps(others, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        raise InviteInvalid("this is not an invite: its JSON is nested too deeply") from None
    # A lone surrogate is JSON, but not text: it gets bytes of its own, and no writer's digits.
    return blake3(text.encode(errors="surrogatepass")).hexdigest(length=8)


def _packet(fields: dict[str, Any]) -> bytes:
    if "packet" not in fields:
        raise InviteInvalid("this is not an invite: it has no 'packet'")
    packet = _base64(fields, "packet")
    if len(packet) not in _PACKET_LENGTHS:
        raise InviteInvalid(
            f"the invite's packet has {len(packet)} bytes: a first packet of QUIC has at least"
            f" {_PACKET_LENGTHS.start}"
        )
    header = parse_invariants(packet)
    match header:
        case LongHeader(version=1) if packet[0] & _PACKET_TYPE == 0:
            return packet
    raise InviteInvalid("the invite's packet is not a first packet of QUIC version 1")


def _relay(fields: dict[str, Any]) -> RelayName:
    text = fields.get("relay")
    try:
        if isinstance(text, str):
            return RelayName.parse(text, default_port=None)
    except ValueError:
        pass
    raise InviteInvalid("the invite's 'relay' is not host:port")


def _fingerprint(fields: dict[str, Any]) -> str:
    text = fields.get("fingerprint")
    try:
        if isinstance(text, str):
            return parse_fingerprint(text)
    except IdentityInvalid:
        pass
    raise InviteInvalid("the invite's 'fingerprint' is not 'sha256:' and 64 hexadecimal digits")


def _expires(fields: dict[str, Any]) -> int:
    value = fields.get("expires")
    if type(value) is not int or not 0 <= value <= _LAST_SECOND:
        raise InviteInvalid("the invite's 'expires' is not a time in seconds since 1970")
    return value


def _auth(fields: dict[str, Any]) -> AuthKind:
    value = str(fields.get("auth"))
    try:
        return AuthKind(value)
    except ValueError:
        raise InviteInvalid(
            f"the invite's 'auth' is '{printable(value, 40)}', this program knows"
            f" {', '.join(AuthKind)}: use the same release at both ends"
        ) from None


def _key(fields: dict[str, Any], auth: AuthKind) -> bytes | None:
    if auth is not AuthKind.INVITE_KEY:
        if "key" in fields:
            raise InviteInvalid(f"the invite has a 'key', which does not belong to {auth}")
        return None
    key = _base64(fields, "key")
    if len(key) != KEY_LENGTH:
        raise InviteInvalid(f"the invite's 'key' has {len(key)} bytes, expected {KEY_LENGTH}")
    return key


def _base64(fields: dict[str, Any], name: str) -> bytes:
    text = fields.get(name)
    if not isinstance(text, str):
        raise InviteInvalid(f"the invite's '{name}' is missing or not text; expected base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InviteInvalid(f"the invite's '{name}' is not base64: copy the invite whole") from None


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
