"""PCP (RFC 6887): MAP and ANNOUNCE, bytes to values and back. All integers are big-endian."""

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from relay.wire.address import Address

VERSION = 2
NONCE_LENGTH = 12
"""Bytes of the mapping nonce (§11.1): who does not know it cannot change the mapping."""
MAX_MESSAGE = 1100
"""Bytes (§7)."""

_ANNOUNCE = 0
_MAP = 1
_ANSWER = 0x80
_UDP = 17
_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
"""An IPv4 address is written as an IPv4-mapped IPv6 one (§5)."""

_REQUEST = struct.Struct("!BBHI16s")
_HEADER = struct.Struct("!BBBBII12x")
_MAP_FIELDS = struct.Struct("!12sB3xHH16s")


class ResultCode(IntEnum):
    """Why a request was not granted (§7.4)."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPPORTED_OPCODE = 4
    UNSUPPORTED_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPPORTED_PROTOCOL = 9
    USER_EXCEEDED_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class Announced:
    """A PCP server is there (§14.1)."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A UDP port is mapped, or with a lifetime of 0 no longer."""

    nonce: bytes
    internal_port: int
    external: Address
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The server will not. `code` need not be one of `ResultCode`."""

    code: int
    is_mapping: bool
    nonce: bytes = b""
    """Of the request, as far as the answer repeats it; else empty."""
    retry_s: int = 0
    """Seconds for which the same would be refused again."""


def encode_announce(client: str) -> bytes:
    """Ask whether a server is there: 24 bytes. `client` is our own IPv4 address."""
    return _REQUEST.pack(VERSION, _ANNOUNCE, 0, 0, _ipv6(client))


def encode_map_request(
    client: str, nonce: bytes, internal_port: int, external: Address, lifetime_s: int
) -> bytes:
    """Ask for a mapping of a UDP port: 60 bytes (§11.1).

    :param client: our own IPv4 address, the one from which this is sent (§8.1).
    :param nonce: 12 random bytes, the same ones for as long as the mapping lives.
    :param external: what we would like; the host `0.0.0.0` and the port 0 stand for any.
    :param lifetime_s: seconds; 0 ends the mapping (§15.1).
    :raises ValueError: the nonce has another length.
    """
    if len(nonce) != NONCE_LENGTH:
        raise ValueError(f"a nonce has {NONCE_LENGTH} bytes, not {len(nonce)}")
    header = _REQUEST.pack(VERSION, _MAP, 0, lifetime_s, _ipv6(client))
    wanted = _ipv6(external.host)
    return header + _MAP_FIELDS.pack(nonce, _UDP, internal_port, external.port, wanted)


def decode_answer(datagram: bytes) -> Announced | Mapped | Refused | None:
    """Read what a server says; None: it is no answer of this version to one of ours."""
    if not _HEADER.size <= len(datagram) <= MAX_MESSAGE:
        return None
    version, operation, _, code, lifetime_s, _ = _HEADER.unpack_from(datagram)
    if version != VERSION or operation not in (_ANSWER | _ANNOUNCE, _ANSWER | _MAP):
        return None
    is_mapping = operation == _ANSWER | _MAP
    whole = len(datagram) >= _HEADER.size + _MAP_FIELDS.size
    if code != ResultCode.SUCCESS:
        nonce = datagram[_HEADER.size :][:NONCE_LENGTH] if is_mapping and whole else b""
        return Refused(code, is_mapping, nonce, lifetime_s)
    if not is_mapping:
        return Announced()
    if not whole:
        return None
    nonce, protocol, internal, port, host = _MAP_FIELDS.unpack_from(datagram, _HEADER.size)
    if protocol != _UDP:
        return None
    return Mapped(nonce, internal, Address.from_packed(host, port), lifetime_s)


def is_older_version(datagram: bytes) -> bool:
    """Whether it is how a server that knows NAT-PMP only refuses our version (Appendix A)."""
    return len(datagram) >= 4 and datagram[0] == 0 and datagram[1] & _ANSWER != 0


def _ipv6(host: str) -> bytes:
    return _MAPPED_PREFIX + socket.inet_aton(host)
