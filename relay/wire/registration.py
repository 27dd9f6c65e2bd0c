"""The messages of the registration protocol (docs/protocol.md §3): bytes to values and back."""

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from .body import MalformedRequest, integer, json_object
from .connection_id import MAX_COUNTER, Derivation, InvalidKey, check_key

MAX_BODY = 4096
"""Bytes of the largest request body that is read. The largest useful one has about 150."""

MAX_CONNECTION_IDS_PER_REQUEST = 1024
"""How many connection IDs one request may register; a peer needs about ten at a time."""

_MAX_LEASE = 2**32
"""Seconds. A number of JSON may be too large for a float, or not finite."""

REGISTER_PATH = "/v1/register"
REGISTRATIONS_PATH = "/v1/registrations"
HEALTH_PATH = "/health"


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """Register connection IDs number `first` to `first + num - 1` of `key`."""

    key: bytes = field(repr=False)  # a credential: it must not get into a log or a traceback
    num: int
    derivation: Derivation = Derivation.BLAKE2B
    first: int = 1

    def encode(self) -> bytes:
        """The JSON body, every field named."""
        fields = {
            "key": base64.b64encode(self.key).decode(),
            "num": self.num,
            "derivation": self.derivation.value,
            "first": self.first,
        }
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, body: bytes) -> "RegisterRequest":
        """Read a request; fields that we do not know are ignored, as later versions may add some.

        :raises MalformedRequest: for anything else than a well-formed request.
        """
        fields = json_object(body)
        derivation = _derivation(fields)
        key = _key(fields, derivation)
        num = integer(fields, "num", 1, MAX_CONNECTION_IDS_PER_REQUEST)
        first = integer(fields, "first", 1, MAX_COUNTER) if "first" in fields else 1
        if first + num - 1 > MAX_COUNTER:
            raise MalformedRequest(f"'first' + 'num' goes past the last counter, {MAX_COUNTER}")
        return cls(key, num, derivation, first)


@dataclass(frozen=True, slots=True)
class RegisterAnswer:
    """What the relay answers: what it holds now for that key."""

    id: str
    """128 random bits, 32 hexadecimal digits: names the registration and permits to end it."""
    address: str
    """The peer's address as the relay sees it, `192.0.2.1:50000` or `[2001:db8::1]:50000`."""
    connection_ids: int
    """How many connection IDs the registration has in all."""
    lease: float
    """Seconds for which it outlives its HTTP/3 connection and the peer's last packet."""

    def encode(self) -> bytes:
        """The JSON body. Whole seconds are an integer there, for readers that want one."""
        fields = {
            "id": self.id,
            "address": self.address,
            "connection_ids": self.connection_ids,
            "lease": int(self.lease) if float(self.lease).is_integer() else self.lease,
        }
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, body: bytes) -> "RegisterAnswer":
        """Read an answer.

        :raises MalformedRequest: if it is not one.
        """
        match json_object(body):
            case {
                "id": str(id_),
                "address": str(address),
                "connection_ids": int(count),
                "lease": int(lease) | float(lease),
            } if count >= 0 and 0 <= lease <= _MAX_LEASE:  # which no NaN is
                return cls(id_, address, count, float(lease))
        raise MalformedRequest(
            "one of 'id', 'address', 'connection_ids', 'lease' is missing or out of range"
        )


def _derivation(fields: dict[str, Any]) -> Derivation:
    name = fields.get("derivation", Derivation.BLAKE2B.value)
    try:
        return Derivation(name)
    except ValueError:
        known = ", ".join(f"'{each.value}'" for each in Derivation)
        raise MalformedRequest(f"'derivation' is none of {known}") from None


def _key(fields: dict[str, Any], derivation: Derivation) -> bytes:
    text = fields.get("key")
    if not isinstance(text, str):
        raise MalformedRequest("'key' is missing or not a string; expected base64")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRequest("'key' is not base64") from None
    try:
        check_key(key, derivation)
    except InvalidKey as error:
        raise MalformedRequest(f"'key': {error}") from None
    return key
