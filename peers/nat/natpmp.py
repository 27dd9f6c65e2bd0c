"""NAT-PMP (RFC 6886): the messages, bytes to values and back. All integers are big-endian."""

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

VERSION = 0
PORT = 5351
"""The gateway's UDP port, shared with PCP (RFC 6887 §19.2)."""

_MAP_UDP = 1
_ANSWER = 128
_OUTSIDE = struct.Struct("!BBHI4s")
_MAPPED = struct.Struct("!BBHIHHI")
_SHORT = struct.Struct("!BBH")


class ResultCode(IntEnum):
    """Why a request was not granted (§3.5)."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class OutsideAddress:
    """The gateway's own outside address (§3.2)."""

    host: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """A UDP port is mapped, or with a lifetime of 0 no longer (§3.3, §3.4)."""

    internal_port: int
    external_port: int
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The gateway understood, and will not; `code` need not be one of `ResultCode`."""

    is_mapping: bool
    code: int


def encode_outside_request() -> bytes:
    """Ask for the outside address: 2 bytes (§3.2)."""
    return bytes((VERSION, 0))


def encode_map_request(internal_port: int, external_port: int, lifetime_s: int) -> bytes:
    """Ask for a mapping of a UDP port: 12 bytes (§3.3).

    :param external_port: the one that we would like; 0: any.
    :param lifetime_s: seconds; 0 ends the mapping (§3.4).
    """
    return struct.pack("!BBHHHI", VERSION, _MAP_UDP, 0, internal_port, external_port, lifetime_s)


def decode_answer(datagram: bytes) -> OutsideAddress | Mapped | Refused | None:
    """Read what a gateway says; None: it is no answer of this protocol to one of ours."""
    if len(datagram) < _SHORT.size:
        return None
    version, operation, code = _SHORT.unpack_from(datagram)
    if version != VERSION or operation not in (_ANSWER, _ANSWER + _MAP_UDP):
        return None
    is_mapping = operation == _ANSWER + _MAP_UDP
    if code != ResultCode.SUCCESS:
        return Refused(is_mapping, code)
    if is_mapping:
        if len(datagram) < _MAPPED.size:
            return None
        *_, internal, external, lifetime_s = _MAPPED.unpack_from(datagram)
        return Mapped(internal, external, lifetime_s)
    if len(datagram) < _OUTSIDE.size:
        return None
    *_, host = _OUTSIDE.unpack_from(datagram)
    return OutsideAddress(socket.inet_ntoa(host))
