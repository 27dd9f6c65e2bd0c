"""JSON bodies of requests and answers: what all of them read and write alike."""

import base64
import binascii
import json
import re
from typing import Any

_ID = re.compile(r"[0-9a-f]{32}")


class MalformedRequest(ValueError):
    """A body is not as docs/protocol.md has it; the text says what was wrong and expected."""


def json_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object (RFC 8259: there is no NaN and no infinity in it).

    :raises MalformedRequest: if it is none.
    """
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise MalformedRequest("the body is not a JSON object")
    return value


def encode(**fields: object) -> bytes:
    """Write a JSON object."""
    return json.dumps(fields).encode()


def to_base64(data: bytes) -> str:
    """As `binary` reads it: RFC 4648 §4, padded."""
    return base64.b64encode(data).decode()


def binary(fields: dict[str, Any], name: str, most: int) -> bytes:
    """The bytes of a base64 field, 1 to `most`.

    :raises MalformedRequest: it is missing, or something else.
    """
    text = fields.get(name)
    if not isinstance(text, str):
        raise MalformedRequest(f"'{name}' is missing or not a string; expected base64")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRequest(f"'{name}' is not base64") from None
    if not 1 <= len(data) <= most:
        raise MalformedRequest(f"'{name}' has {len(data)} bytes; expected 1 to {most}")
    return data


def integer(fields: dict[str, Any], name: str, least: int, most: int) -> int:
    """A whole number.

    :raises MalformedRequest: it is missing, out of range, or something else.
    """
    value = fields.get(name)
    if type(value) is not int or not least <= value <= most:
        raise MalformedRequest(f"'{name}' is not a whole number from {least} to {most}")
    return value


def identifier(fields: dict[str, Any], name: str) -> str:
    """128 bits as 32 lower-case hexadecimal digits.

    :raises MalformedRequest: it is missing, or something else.
    """
    text = fields.get(name)
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise MalformedRequest(f"'{name}' is not 32 lower-case hexadecimal digits")
    return text


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")
