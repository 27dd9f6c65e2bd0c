"""As much of a TURN client as one allocation needs (RFC 8656), to measure coturn beside us."""

import os
import socket
import struct
from collections.abc import Iterator

MAGIC = 0x2112A442
"""RFC 8489 §5."""
CHANNEL = 0x4000
"""RFC 8656 §12: the first channel number."""
ALLOCATE, CHANNEL_BIND = 0x003, 0x009
SUCCESS = 0x100
CHANNEL_NUMBER, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS, REQUESTED_TRANSPORT = (
    0x000C,
    0x0012,
    0x0016,
    0x0019,
)
UDP_PROTOCOL = 17

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_ADDRESS = struct.Struct("!xBHI")
_V4 = 1
_TRIES = 50
_PATIENCE_S = 0.1


class TurnFailed(Exception):
    """The server did not do as it was asked."""


def allocate(
    client: socket.socket, server: tuple[str, int], peer: tuple[str, int]
) -> tuple[str, int]:
    """Get an address at which `peer` reaches `client`, and bind it to `CHANNEL`.

    :raises TurnFailed: the server refused, or never answered.
    """
    transport = _attribute(REQUESTED_TRANSPORT, bytes([UDP_PROTOCOL, 0, 0, 0]))
    answer = dict(_attributes(_request(client, server, ALLOCATE, transport)))
    if XOR_RELAYED_ADDRESS not in answer:
        raise TurnFailed("the answer names no relayed address")
    _, port, ip = _ADDRESS.unpack(answer[XOR_RELAYED_ADDRESS])
    host = socket.inet_ntoa((ip ^ MAGIC).to_bytes(4, "big"))
    relayed = (host, port ^ MAGIC >> 16)
    ip = int.from_bytes(socket.inet_aton(peer[0]), "big") ^ MAGIC
    bound = _attribute(CHANNEL_NUMBER, struct.pack("!HH", CHANNEL, 0))
    bound += _attribute(XOR_PEER_ADDRESS, _ADDRESS.pack(_V4, peer[1] ^ MAGIC >> 16, ip))
    _request(client, server, CHANNEL_BIND, bound)
    return relayed


def channel_header(size: int) -> bytes:
    """What stands before each packet of `size` bytes (RFC 8656 §12.4)."""
    return struct.pack("!HH", CHANNEL, size)


def _request(sock: socket.socket, server: tuple[str, int], method: int, attributes: bytes) -> bytes:
    transaction = os.urandom(12)
    message = _HEADER.pack(method, len(attributes), MAGIC, transaction) + attributes
    sock.settimeout(_PATIENCE_S)
    try:
        for _ in range(_TRIES):
            sock.sendto(message, server)
            try:
                answer = sock.recv(2048)
            except TimeoutError:
                continue
            if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[3] != transaction:
                continue
            if _HEADER.unpack_from(answer)[0] != method | SUCCESS:
                raise TurnFailed(f"the server refused method {method:#x}")
            return answer[_HEADER.size :]
    finally:
        sock.settimeout(None)
    raise TurnFailed("the server does not answer")


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while len(data) - position >= _ATTRIBUTE.size:
        kind, length = _ATTRIBUTE.unpack_from(data, position)
        position += _ATTRIBUTE.size
        yield kind, data[position : position + length]
        position += length + -length % 4
