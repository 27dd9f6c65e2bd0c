"""The requests about slots (docs/protocol.md §11.2): JSON bodies to values and back.

All are POSTs, and every token stands in a body: paths get into logs, and a token is a credential.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .registration import MalformedRequest

OPEN_PATH = "/v1/slots"
CLAIM_PATH = "/v1/slots/claim"
SEND_PATH = "/v1/slots/send"
RECEIVE_PATH = "/v1/slots/receive"
END_PATH = "/v1/slots/end"

MAX_MESSAGES = 4
"""Messages of one end; the exchange of a code takes three."""
MAX_MESSAGE = 2944
"""Bytes of one message: as base64 with the rest of its request they are within 4,096."""
MAX_NUMBER = 999_999
"""The largest number of a slot."""
MAX_WAIT_S = 25

_TOKEN = re.compile(r"[0-9a-f]{32}")
_MAX_LIFETIME_S = 86_400


class End(StrEnum):
    """How a slot ended; the value is its name on the wire."""

    DONE = "done"
    """The exchange is complete."""
    WRONG_CODE = "wrong_code"
    """One end found that the other one, or the relay, does not know the words."""
    LEFT = "left"
    """One end gave up, or was not heard of for a while."""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Open a slot. The same token again names the same slot."""

    token: str = field(repr=False)
    """128 random bits of the client's, 32 hexadecimal digits: whoever has it is that end."""

    def encode(self) -> bytes:
        """The JSON body."""
        return _encode(token=self.token)

    @classmethod
    def decode(cls, body: bytes) -> "OpenRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        return cls(_token(_json_object(body)))


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """The slot's number, and for how many seconds it waits to be claimed."""

    slot: int
    lifetime: int

    def encode(self) -> bytes:
        """The JSON body."""
        return _encode(slot=self.slot, lifetime=self.lifetime)

    @classmethod
    def decode(cls, body: bytes) -> "OpenAnswer":
        """:raises MalformedRequest: if it is none."""
        fields = _json_object(body)
        return cls(
            _integer(fields, "slot", 1, MAX_NUMBER),
            _integer(fields, "lifetime", 1, _MAX_LIFETIME_S),
        )


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Be the other end of a slot, with a first message. The same again changes nothing."""

    slot: int
    token: str = field(repr=False)
    message: bytes

    def encode(self) -> bytes:
        """The JSON body."""
        return _encode(slot=self.slot, token=self.token, message=_base64(self.message))

    @classmethod
    def decode(cls, body: bytes) -> "ClaimRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = _json_object(body)
        slot = _integer(fields, "slot", 1, MAX_NUMBER)
        return cls(slot, _token(fields), _message(fields))


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Leave a message for the other end. The same again changes nothing."""

    token: str = field(repr=False)
    number: int
    """Counts the messages of this end, from 0; a claim's is number 0."""
    message: bytes

    def encode(self) -> bytes:
        """The JSON body."""
        return _encode(token=self.token, number=self.number, message=_base64(self.message))

    @classmethod
    def decode(cls, body: bytes) -> "SendRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = _json_object(body)
        number = _integer(fields, "number", 0, MAX_MESSAGES - 1)
        return cls(_token(fields), number, _message(fields))


@dataclass(frozen=True, slots=True)
class ReceiveRequest:
    """Ask for a message of the other end."""

    token: str = field(repr=False)
    number: int
    wait: int = 0
    """Seconds for which the relay may wait for it, at most `MAX_WAIT_S`."""

    def encode(self) -> bytes:
        """The JSON body."""
        return _encode(token=self.token, number=self.number, wait=self.wait)

    @classmethod
    def decode(cls, body: bytes) -> "ReceiveRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = _json_object(body)
        number = _integer(fields, "number", 0, MAX_MESSAGES - 1)
        wait = _integer(fields, "wait", 0, MAX_WAIT_S) if "wait" in fields else 0
        return cls(_token(fields), number, wait)


@dataclass(frozen=True, slots=True)
class Received:
    """What there is to receive: the message, or how the slot ended, or neither yet."""

    message: bytes | None
    end: End | None

    def encode(self) -> bytes:
        """The JSON body."""
        message = None if self.message is None else _base64(self.message)
        return _encode(message=message, end=self.end)

    @classmethod
    def decode(cls, body: bytes) -> "Received":
        """Read an answer; an end of a name that we do not know is taken for `LEFT`.

        :raises MalformedRequest: if it is none.
        """
        fields = _json_object(body)
        if fields.get("message") is not None:
            return cls(_message(fields), None)
        match fields.get("end"):
            case None:
                return cls(None, None)
            case str(name) if name in set(End):
                return cls(None, End(name))
            case str():
                return cls(None, End.LEFT)
        raise MalformedRequest("'end' is not a string")


@dataclass(frozen=True, slots=True)
class EndRequest:
    """End a slot, and say why; `EXPIRED` is the relay's to say."""

    token: str = field(repr=False)
    end: End

    def encode(self) -> bytes:
        """The JSON body."""
        return _encode(token=self.token, end=self.end)

    @classmethod
    def decode(cls, body: bytes) -> "EndRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = _json_object(body)
        match fields.get("end"):
            case End.DONE | End.WRONG_CODE | End.LEFT as name:
                return cls(_token(fields), End(name))
        raise MalformedRequest(f"'end' is none of {End.DONE}, {End.WRONG_CODE}, {End.LEFT}")


def _encode(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _base64(message: bytes) -> str:
    return base64.b64encode(message).decode()


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise MalformedRequest("the body is not a JSON object")
    return value


def _token(fields: dict[str, Any]) -> str:
    token = fields.get("token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise MalformedRequest("'token' is not 32 lower-case hexadecimal digits")
    return token


def _message(fields: dict[str, Any]) -> bytes:
    text = fields.get("message")
    if not isinstance(text, str):
        raise MalformedRequest("'message' is missing or not a string; expected base64")
    try:
        message = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRequest("'message' is not base64") from None
    if not 1 <= len(message) <= MAX_MESSAGE:
        raise MalformedRequest(f"'message' has {len(message)} bytes, expected 1 to {MAX_MESSAGE}")
    return message


def _integer(fields: dict[str, Any], name: str, least: int, most: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= most:
        raise MalformedRequest(f"'{name}' is not a whole number from {least} to {most}")
    return value
