"""The control stream: messages between the two peers themselves (docs/protocol.md §6.5).

Each message is a length, 2 bytes, big-endian, 1 to `MAX_MESSAGE`, and as many bytes.
"""

from .errors import PeersError

MAX_MESSAGE = 4096
"""Bytes of one message's body."""
MAX_QUEUED = 65_536
"""Bytes that may wait for the other end's acknowledgement; what is beyond is not sent."""

_LENGTH_BYTES = 2


class ControlMalformed(PeersError):
    """The other end's control stream is none: the pipe must end."""


def frame(body: bytes) -> bytes:
    """One message, as it is sent.

    :raises ValueError: an empty body, or one longer than `MAX_MESSAGE`.
    """
    if not 1 <= len(body) <= MAX_MESSAGE:
        raise ValueError(f"a message has 1 to {MAX_MESSAGE} bytes, this one has {len(body)}")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class MessageReader:
    """Cuts a stream of bytes into messages. It never holds more than one that is not whole."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the messages that are whole now.

        :raises ControlMalformed: a length of 0, or one above `MAX_MESSAGE`.
        """
        octets = self._rest + data
        bodies = []
        start = 0
        while len(octets) - start >= _LENGTH_BYTES:
            length = int.from_bytes(octets[start : start + _LENGTH_BYTES], "big")
            if not 1 <= length <= MAX_MESSAGE:
                raise ControlMalformed(f"a control message cannot have {length} bytes")
            end = start + _LENGTH_BYTES + length
            if end > len(octets):
                break
            bodies.append(octets[start + _LENGTH_BYTES : end])
            start = end
        self._rest = octets[start:]
        return bodies
