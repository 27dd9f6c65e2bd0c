"""The requests about slots (docs/protocol.md §11.2): JSON bodies to values and back.

All are POSTs, and every token stands in a body: paths get into logs, and a token is a credential.
"""

from dataclasses import dataclass, field
from enum import StrEnum
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
        return encode(token=self.token)

    @classmethod
    def decode(cls, body: bytes) -> "OpenRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        return cls(_token(json_object(body)))


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """The slot's number, and for how many seconds it waits to be claimed."""

    slot: int
    lifetime: int

    def encode(self) -> bytes:
        """The JSON body."""
        return encode(slot=self.slot, lifetime=self.lifetime)

    @classmethod
    def decode(cls, body: bytes) -> "OpenAnswer":
        """:raises MalformedRequest: if it is none."""
        fields = json_object(body)
        return cls(
            integer(fields, "slot", 1, MAX_NUMBER),
            integer(fields, "lifetime", 1, _MAX_LIFETIME_S),
        )


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Be the other end of a slot, with a first message. The same again changes nothing."""

    slot: int
    token: str = field(repr=False)
    message: bytes

    def encode(self) -> bytes:
        """The JSON body."""
        return encode(slot=self.slot, token=self.token, message=to_base64(self.message))

    @classmethod
    def decode(cls, body: bytes) -> "ClaimRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = json_object(body)
        slot = integer(fields, "slot", 1, MAX_NUMBER)
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
        return encode(token=self.token, number=self.number, message=to_base64(self.message))

    @classmethod
    def decode(cls, body: bytes) -> "SendRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = json_object(body)
        number = integer(fields, "number", 0, MAX_MESSAGES - 1)
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
        return encode(token=self.token, number=self.number, wait=self.wait)

    @classmethod
    def decode(cls, body: bytes) -> "ReceiveRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = json_object(body)
        number = integer(fields, "number", 0, MAX_MESSAGES - 1)
        wait = integer(fields, "wait", 0, MAX_WAIT_S) if "wait" in fields else 0
        return cls(_token(fields), number, wait)


@dataclass(frozen=True, slots=True)
class Received:
    """What there is to receive: the message, or how the slot ended, or neither yet."""

    message: bytes | None
    end: End | None

    def encode(self) -> bytes:
        """The JSON body."""
        message = None if self.message is None else to_base64(self.message)
        return encode(message=message, end=self.end)

    @classmethod
    def decode(cls, body: bytes) -> "Received":
        """Read an answer; an end of a name that we do not know is taken for `LEFT`.

        :raises MalformedRequest: if it is none.
        """
        fields = json_object(body)
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
        return encode(token=self.token, end=self.end)

    @classmethod
    def decode(cls, body: bytes) -> "EndRequest":
        """:raises MalformedRequest: for anything else than a well-formed request."""
        fields = json_object(body)
        match fields.get("end"):
            case End.DONE | End.WRONG_CODE | End.LEFT as name:
                return cls(_token(fields), End(name))
        raise MalformedRequest(f"'end' is none of {End.DONE}, {End.WRONG_CODE}, {End.LEFT}")


def _token(fields: dict[str, Any]) -> str:
    return identifier(fields, "token")


def _message(fields: dict[str, Any]) -> bytes:
    return binary(fields, "message", MAX_MESSAGE)
