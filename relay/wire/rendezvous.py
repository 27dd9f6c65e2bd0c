"""The messages of the rendezvous (docs/protocol.md §10): JSON bodies to values and back.

All that is said with a listener's id stands in bodies: paths get into logs, and an id is a
credential.
"""

import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from .body import (
    MalformedRequest,
    binary,
    encode,
    identifier,
    integer,
    json_object,
    to_base64,
)

CHALLENGE_PATH = "/v1/challenge"
LISTEN_PATH = "/v1/listen"
WAIT_PATH = "/v1/listeners/wait"
END_PATH = "/v1/listeners/end"
INVITES_PATH = "/v1/invites"
NAMES_PATH = "/v1/names"

CHALLENGE_LENGTH = 32
"""Bytes."""
MAX_CERTIFICATE = 2_048
"""Bytes of the largest certificate (DER) that is taken; one of ours has about 300."""
MAX_SIGNATURE = 128
"""Bytes; Ed25519 has 64, ECDSA P-256 at most 72."""
MAX_NAME = 63
"""Characters."""
MAX_INVITE = 4_096
"""Characters of an invite as JSON in ASCII; one has about 1,900."""
MAX_BATCH = 8
"""Invites in one answer."""
MAX_WAIT_S = 25
"""Seconds for which the relay holds a poll at most."""

_CONTEXT = b"quicpipe/1 listen\0"
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(rf"[a-z][a-z0-9._-]{{0,{MAX_NAME - 1}}}")
_SAFE_AUTH = frozenset({"certificate", "pairing-key"})
_MAX_DEPTH = 8
"""Objects and arrays within each other in an invite. It is handed on within others: what only just
could be read here would make a whole answer unreadable there, and so hold back everybody else's."""
_MAX_NUMBER = 2**53 - 1  # what every reader of JSON has as an integer


def is_name(text: str) -> bool:
    """Whether a listener may be called so: a letter, then letters, digits, `.`, `_`, `-`.

    Lower case, ASCII, at most 63: no fingerprint, and no spoken code, which begins with a digit.
    """
    return _NAME.fullmatch(text) is not None


def is_fingerprint(text: str) -> bool:
    """Whether it is a fingerprint in its one form: `sha256:` and 64 lower-case digits."""
    return _FINGERPRINT.fullmatch(text) is not None


def bytes_to_sign(
    relay_fingerprint: str, challenge: bytes, certificate: bytes, name: str | None
) -> bytes:
    """What a listener signs with its certificate's key (docs/protocol.md §10.2).

    No TLS signature can be taken for it: those begin with 64 spaces (RFC 8446 §4.4.3). And the
    relay's own certificate is in it: what one relay was given is worth nothing at another.

    :param relay_fingerprint: of the relay's certificate, as the listener verified it.
    :param certificate: the listener's own, DER.
    """
    relay = bytes.fromhex(relay_fingerprint.removeprefix("sha256:"))
    return _CONTEXT + relay + challenge + sha256(certificate).digest() + (name or "").encode()


@dataclass(frozen=True, slots=True)
class ChallengeAnswer:
    """What the next listener of this connection is to sign, once."""

    challenge: bytes

    def encode(self) -> bytes:
        """The JSON body."""
        return encode(challenge=to_base64(self.challenge))

    @classmethod
    def decode(cls, body: bytes) -> "ChallengeAnswer":
        """:raises MalformedRequest: if it is none."""
        challenge = binary(json_object(body), "challenge", CHALLENGE_LENGTH)
        if len(challenge) != CHALLENGE_LENGTH:
            raise MalformedRequest(f"'challenge' has {len(challenge)} bytes, not 32")
        return cls(challenge)


@dataclass(frozen=True, slots=True)
class ListenRequest:
    """Listen under the fingerprint of a certificate, and perhaps a name."""

    certificate: bytes
    """DER."""
    signature: bytes
    """Of `bytes_to_sign`: Ed25519, or ECDSA P-256 with SHA-256 (DER)."""
    name: str | None = None

    def encode(self) -> bytes:
        """The JSON body."""
        fields = {
            "certificate": to_base64(self.certificate),
            "signature": to_base64(self.signature),
        }
        return encode(**fields, **({} if self.name is None else {"name": self.name}))

    @classmethod
    def decode(cls, body: bytes) -> "ListenRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = json_object(body)
        return cls(
            binary(fields, "certificate", MAX_CERTIFICATE),
            binary(fields, "signature", MAX_SIGNATURE),
            _name(fields, "name") if "name" in fields else None,
        )


@dataclass(frozen=True, slots=True)
class ListenAnswer:
    """The mailbox is one's own."""

    id: str = field(repr=False)
    """128 random bits, 32 hexadecimal digits: whoever has it reads the mailbox."""
    grace: int
    """Seconds for which the listener is kept without a poll."""

    def encode(self) -> bytes:
        """The JSON body."""
        return encode(id=self.id, grace=self.grace)

    @classmethod
    def decode(cls, body: bytes) -> "ListenAnswer":
        """:raises MalformedRequest: if it is none."""
        fields = json_object(body)
        return cls(identifier(fields, "id"), integer(fields, "grace", 1, 86_400))


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """Ask for invites, and wait if there are none."""

    id: str = field(repr=False)
    after: int = 0
    """Those up to this number are acknowledged: they are not wanted again."""
    limit: int = MAX_BATCH
    """How many are wanted; 0: none, only to be known to be there."""
    wait: int = MAX_WAIT_S
    """Seconds."""

    def encode(self) -> bytes:
        """The JSON body."""
        return encode(id=self.id, after=self.after, limit=self.limit, wait=self.wait)

    @classmethod
    def decode(cls, body: bytes) -> "WaitRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = json_object(body)
        return cls(
            identifier(fields, "id"),
            integer(fields, "after", 0, _MAX_NUMBER) if "after" in fields else 0,
            integer(fields, "limit", 0, MAX_BATCH) if "limit" in fields else MAX_BATCH,
            integer(fields, "wait", 0, MAX_WAIT_S) if "wait" in fields else MAX_WAIT_S,
        )


@dataclass(frozen=True, slots=True)
class WaitAnswer:
    """The oldest invites, each with its number. None: the time is over; ask again."""

    invites: tuple[tuple[int, str], ...]
    """Numbers, rising; and the invites, each one JSON object in ASCII."""

    def encode(self) -> bytes:
        """The JSON body."""
        parts = [f'{{"number": {number}, "invite": {text}}}' for number, text in self.invites]
        return f'{{"invites": [{", ".join(parts)}]}}'.encode()

    @classmethod
    def decode(cls, body: bytes, after: int) -> "WaitAnswer":
        """Read an answer to a request with that `after`.

        :raises MalformedRequest: if it is none.
        """
        found = json_object(body).get("invites")
        if not isinstance(found, list) or len(found) > MAX_BATCH:
            raise MalformedRequest(f"'invites' is not a list of at most {MAX_BATCH}")
        invites = []
        for each in found:
            if not isinstance(each, dict) or not isinstance(each.get("invite"), dict):
                raise MalformedRequest("'invites' has something that is none")
            after = integer(each, "number", after + 1, _MAX_NUMBER)
            invites.append((after, _dump(each["invite"])))
        return cls(tuple(invites))


@dataclass(frozen=True, slots=True)
class EndRequest:
    """Listen no more."""

    id: str = field(repr=False)

    def encode(self) -> bytes:
        """The JSON body."""
        return encode(id=self.id)

    @classmethod
    def decode(cls, body: bytes) -> "EndRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        return cls(identifier(json_object(body), "id"))


@dataclass(frozen=True, slots=True)
class InviteRequest:
    """Hand an invite to whoever listens under a fingerprint or name."""

    to: str
    """A fingerprint in its one form, or a name."""
    invite: str = field(repr=False)
    """One JSON object in ASCII."""

    def encode(self) -> bytes:
        """The JSON body."""
        return f'{{"to": {json.dumps(self.to)}, "invite": {self.invite}}}'.encode()

    @classmethod
    def decode(cls, body: bytes) -> "InviteRequest":
        """Read a request.

        :raises MalformedRequest: for anything else than a well-formed request; also for an invite
            that carries a secret, or none of the kinds that need no secret.
        """
        fields = json_object(body)
        to = fields.get("to")
        if not isinstance(to, str) or not (is_fingerprint(to) or is_name(to)):
            raise MalformedRequest("'to' is neither a fingerprint nor a name")
        invite = fields.get("invite")
        if not isinstance(invite, dict) or not isinstance(invite.get("packet"), str):
            raise MalformedRequest("'invite' is not an invite: a JSON object with a 'packet'")
        auth = invite.get("auth")
        if "key" in invite or not isinstance(auth, str) or auth not in _SAFE_AUTH:
            raise MalformedRequest(
                "an invite with a one-time key, or without authentication, does not go through a"
                " relay: the relay could use it; 'auth' must be 'certificate' or 'pairing-key'"
            )
        if not _is_shallow(invite, _MAX_DEPTH):
            raise MalformedRequest(f"the invite is nested more than {_MAX_DEPTH} deep")
        text = _dump(invite)
        if len(text) > MAX_INVITE:
            raise MalformedRequest(f"the invite has more than {MAX_INVITE} characters")
        return cls(to, text)


@dataclass(frozen=True, slots=True)
class NameAnswer:
    """Who listens under a name, as the relay says: a hint, and no proof."""

    fingerprint: str

    def encode(self) -> bytes:
        """The JSON body."""
        return encode(fingerprint=self.fingerprint)

    @classmethod
    def decode(cls, body: bytes) -> "NameAnswer":
        """:raises MalformedRequest: if it is none."""
        text = json_object(body).get("fingerprint")
        if not isinstance(text, str) or not is_fingerprint(text):
            raise MalformedRequest("'fingerprint' is missing, or is none")
        return cls(text)


def _dump(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise MalformedRequest("the JSON is nested too deeply") from None
    except ValueError:  # 1e999, say, which Python reads as infinity, and JSON has no word for
        raise MalformedRequest("the JSON has a number that is too large") from None


def _is_shallow(value: object, depth: int) -> bool:
    """Whether there are no more than `depth` objects and arrays within each other."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in inner)


def _name(fields: dict[str, Any], key: str) -> str:
    text = fields.get(key)
    if not isinstance(text, str) or not is_name(text):
        raise MalformedRequest(
            f"'{key}' is not a name: a letter, then letters, digits, '.', '_' and '-', lower"
            f" case, at most {MAX_NAME}"
        )
    return text
