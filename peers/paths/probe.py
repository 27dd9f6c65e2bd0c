"""Probes on the wire: small datagrams that prove a path, and tell an outsider nothing.

To an observer a probe is a QUIC packet with a short header (RFC 9000 §17.3.1) and a connection ID
that was never seen before. docs/protocol.md §13.4. Each side makes a key for the probes *towards*
it; the other end numbers its probes from 1. From key and number come the 12-byte ID, by which the
receiver knows the number, and the nonce. A number is used once: nothing can be replayed or linked.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from relay.wire.address import Address

KEY_LENGTH = 32
ID_LENGTH = 12
TRANSACTION_LENGTH = 8
"""Random and so unforeseeable: who answers has received (RFC 9000 §8.2.1)."""

SMALL = 72
"""Bytes of a probe to an address that has not answered yet."""
LARGE = 1200
"""Bytes of a probe that proves that a QUIC packet passes (RFC 9000 §14)."""

AHEAD = 64
"""Numbers beyond the highest one seen at which the receiver expects probes, as a rule."""
BEHIND = 64
"""Unused numbers below it that may still come: late, or by a longer path."""
WIDEST = 2048
"""`AHEAD` in birthday probing, where most probes are lost."""

MAX_NUMBER = 2**32 - 1

_FIXED_BIT = 0x40
_HEADER = 1 + ID_LENGTH
_TAG = 16
_ADDRESS_AT = 2 + TRANSACTION_LENGTH
_CHALLENGE_AT = _ADDRESS_AT + 1 + 16 + 2
_BODY = _CHALLENGE_AT + TRANSACTION_LENGTH
"""Kind, flags, transaction; then family, IP, port and challenge, which are zero in a request."""
_USE_FLAG = 0x01
_CHALLENGE_FLAG = 0x02


class ProbeKind(IntEnum):
    """The first byte inside."""

    REQUEST = 1
    RESPONSE = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """What is inside."""

    kind: ProbeKind
    transaction: bytes
    """A response repeats its request's."""
    seen: Address | None = None
    """In a response: from where the request came."""
    use: bool = False
    """In a request of the dialer: it sends the pipe by this path."""
    challenge: bytes = b""
    """In a response: the transaction of a request that it is, too; empty: it is none."""
    size: int = SMALL
    """Bytes of the datagram. A response is as long as its request."""
    number: int = field(default=0, compare=False)
    """Of one that has arrived: which one the other end sent later, if two paths changed places."""


class ProbeDrop(StrEnum):
    """Why a datagram was not a probe."""

    UNKNOWN_ID = "probe: used, or never expected"
    FORGED = "probe: not authentic"
    MALFORMED = "probe: authentic, and malformed"


class ProbeKey:
    """What both ends know: how number and ID belong together, and the seal."""

    def __init__(self, key: bytes) -> None:
        """:param key: 32 bytes."""
        self._key = key
        seal = blake3(b"quicpipe/1 probe seal", key=key).digest(length=32)
        self._aead = ChaCha20Poly1305(seal)

    def id(self, number: int) -> bytes:
        """12 bytes, the highest bit clear (docs/protocol.md §2): to a relay an unknown peer."""
        message = b"quicpipe/1 probe id" + number.to_bytes(4, "big")
        digest = blake3(message, key=self._key).digest(length=ID_LENGTH)
        return bytes([digest[0] & 0x7F]) + digest[1:]

    def seal(self, number: int, probe: Probe, first_byte: int) -> bytes:
        """The datagram: `probe.size` bytes. Never seal two with one number.

        :param first_byte: six random bits.
        """
        header = bytes([_FIXED_BIT | first_byte & 0x3F]) + self.id(number)
        body = _encode(probe).ljust(probe.size - _HEADER - _TAG, b"\0")
        return header + self._aead.encrypt(number.to_bytes(12, "big"), body, header)

    def open(self, number: int, datagram: bytes) -> Probe | ProbeDrop:
        """What is inside, if it is authentic. Any input gives a value."""
        if len(datagram) < _HEADER + _TAG:
            return ProbeDrop.FORGED
        try:
            body = self._aead.decrypt(
                number.to_bytes(12, "big"), datagram[_HEADER:], datagram[:_HEADER]
            )
        except InvalidTag:
            return ProbeDrop.FORGED
        return _decode(body, len(datagram)) or ProbeDrop.MALFORMED


class ProbeSender:
    """Numbers the probes towards the other end, no further than it expects them."""

    def __init__(self, key: bytes) -> None:
        self._key = ProbeKey(key)
        self._next = 1
        self._arrived = 0  # the highest number that we know to be known there
        self._ahead = AHEAD

    @property
    def next_number(self) -> int:
        """Of the next probe."""
        return self._next

    @property
    def credit(self) -> int:
        """How many more probes the other end expects; not more than 0: none."""
        return min(self._arrived + self._ahead, MAX_NUMBER) - self._next + 1

    def seal(self, probe: Probe, first_byte: int) -> tuple[int, bytes]:
        """Its number, and the datagram. Only while there is `credit`.

        :raises ValueError: there is none.
        """
        if self.credit <= 0:
            raise ValueError("the other end expects no further probe")
        number = self._next
        self._next += 1
        return number, self._key.seal(number, probe, first_byte)

    def arrived(self, number: int) -> None:
        """The other end has got this number, or was told of it. Foreign numbers are ignored."""
        if number < self._next:
            self._arrived = max(self._arrived, number)

    def widen(self, ahead: int) -> None:
        """The other end expects so many ahead."""
        self._ahead = max(0, min(ahead, WIDEST))


class ProbeReceiver:
    """Expects the probes towards us: the window of their numbers, and of their IDs."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._key = ProbeKey(key)
        self._numbers: dict[bytes, int] = {}  # per probe: which number has this ID?
        self._ids: dict[int, bytes] = {}  # in the order of the numbers
        self._ahead = AHEAD
        self._top = 0  # the highest number seen or told
        self._end = 1  # the first number without an ID
        self.added: list[bytes] = []
        """IDs that the endpoint must be told of; whoever tells it empties the list."""
        self.removed: list[bytes] = []
        """Likewise those that it may forget."""

    def start(self) -> None:
        """Expect the first ones."""
        self._slide()

    def open(self, datagram: bytes) -> Probe | ProbeDrop:
        """What is inside; its number is used up if it is authentic. Any input gives a value."""
        number = self._numbers.get(datagram[1:_HEADER])
        if number is None:
            return ProbeDrop.UNKNOWN_ID
        probe = self._key.open(number, datagram)
        if probe is not ProbeDrop.FORGED:
            self._forget(number)
            self.expect(number)
        return probe if isinstance(probe, ProbeDrop) else replace(probe, number=number)

    def expect(self, number: int) -> None:
        """The other end is, or will be, at this number."""
        if number > self._top:
            self._top = min(number, MAX_NUMBER)
            self._slide()

    def widen(self, ahead: int) -> None:
        """Expect so many ahead from now on; the other end must be told."""
        self._ahead = ahead
        for number in [each for each in self._ids if each > self._top + ahead]:
            self._forget(number)
        self._end = min(self._end, self._top + ahead + 1)
        self._slide()

    def _slide(self) -> None:
        for number in list(self._ids):
            if number >= self._top - BEHIND:
                break
            self._forget(number)
        # After a leap the skipped numbers far below are never expected.
        first = max(self._end, self._top - BEHIND)
        self._end = min(self._top + self._ahead, MAX_NUMBER) + 1
        for number in range(first, self._end):
            new = self._key.id(number)
            self._ids[number] = new
            self._numbers[new] = number
            self.added.append(new)

    def _forget(self, number: int) -> None:
        old = self._ids.pop(number)
        del self._numbers[old]
        self.removed.append(old)


def _encode(probe: Probe) -> bytes:
    flags = (_USE_FLAG if probe.use else 0) | (_CHALLENGE_FLAG if probe.challenge else 0)
    head = bytes([probe.kind, flags]) + probe.transaction
    if probe.seen is None:
        return head
    ip = probe.seen.packed
    family = 4 if len(ip) == 4 else 6
    address = bytes([family]) + ip.ljust(16, b"\0") + probe.seen.port.to_bytes(2, "big")
    return head + address + probe.challenge


def _decode(body: bytes, size: int) -> Probe | None:
    """None: malformed. What comes after what we know is ignored."""
    if len(body) < _BODY or body[0] not in (ProbeKind.REQUEST, ProbeKind.RESPONSE):
        return None
    flags, at = body[1], _ADDRESS_AT
    transaction = body[2:at]
    if body[0] == ProbeKind.REQUEST:
        return Probe(ProbeKind.REQUEST, transaction, use=bool(flags & _USE_FLAG), size=size)
    if body[at] not in (4, 6):
        return None
    ip = body[at + 1 : at + (5 if body[at] == 4 else 17)]
    seen = Address.from_packed(ip, int.from_bytes(body[at + 17 : at + 19], "big"))
    challenge = body[_CHALLENGE_AT:_BODY] if flags & _CHALLENGE_FLAG else b""
    return Probe(ProbeKind.RESPONSE, transaction, seen=seen, challenge=challenge, size=size)
