"""Who may open a connection: version negotiation, Retry, and what must stop at the door.

Sans I/O, and before any state is made. It answers only datagrams of at least 1,200 bytes, and with
less than it got, so that nobody can use the relay to flood somebody else (RFC 9000 §14.1).
"""

from dataclasses import dataclass

from aioquic._buffer import Buffer
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler

from relay.core.path import Path
from relay.http3.quic import SUPPORTED_VERSION, new_connection_id
from relay.http3.report import Refused
from relay.wire.connection_id import CONNECTION_ID_LENGTH
from relay.wire.invariants import LongHeader

_MIN_FIRST_CID = 8
"""Bytes of the destination connection ID that a client makes up (RFC 9000 §7.2)."""

_CLOSE_CAPACITY = 16
"""Bytes of a CONNECTION_CLOSE frame without a reason."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A connection may be made."""

    first_cid: bytes
    """The destination connection ID of this very datagram, and of more that may follow it."""
    original_destination_cid: bytes
    """The one that the client made up; another than `first_cid` after a Retry."""
    retry_source_cid: bytes | None
    """Our own connection ID in the Retry packet that the client answers, if there was one: then
    the client has shown that it receives at its address."""

    @property
    def is_validated(self) -> bool:
        """Whether the client's address is."""
        return self.retry_source_cid is not None


@dataclass(frozen=True, slots=True)
class MustRetry:
    """The client is to show first that it receives at its address."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """No connection; `answer` is what to say to the client, if anything."""

    reason: Refused
    answer: bytes | None = None


class Admission:
    """Holds the key of the tokens, and nothing about any client."""

    def __init__(self) -> None:
        self._tokens = QuicRetryTokenHandler()

    def decide(
        self, datagram: bytes, header: LongHeader, path: Path, *, ask_retry: bool, now: float
    ) -> Admitted | MustRetry | Rejected:
        """Judge a datagram whose destination connection ID is not ours. Any input gives a value.

        With `ask_retry` only those are admitted that bring a token.
        """
        if len(datagram) < SMALLEST_MAX_DATAGRAM_SIZE:
            return Rejected(Refused.TOO_SMALL)
        if header.version != SUPPORTED_VERSION:
            return _negotiate(header)
        try:
            initial = pull_quic_header(Buffer(data=datagram), CONNECTION_ID_LENGTH)
        except ValueError:
            return Rejected(Refused.MALFORMED)
        if initial.packet_type is not QuicPacketType.INITIAL:
            return Rejected(Refused.UNKNOWN_CONNECTION)
        if len(initial.destination_cid) < _MIN_FIRST_CID:
            return Rejected(Refused.MALFORMED)
        if initial.token:
            return self._check_token(initial, path, now)
        if ask_retry:
            return MustRetry(self._retry(initial, path, now))
        return Admitted(initial.destination_cid, initial.destination_cid, None)

    def _check_token(self, initial: QuicHeader, path: Path, now: float) -> Admitted | Rejected:
        try:
            original = self._tokens.validate_token(
                address=path.remote,
                destination_cid=initial.destination_cid,
                token=initial.token,
                now=now,
            )
        except ValueError:
            # The relay issues no other tokens than these. RFC 9000 §8.1.3: close at once, since
            # a client takes no second Retry.
            return Rejected(Refused.INVALID_TOKEN, _invalid_token(initial))
        return Admitted(initial.destination_cid, original, initial.destination_cid)

    def _retry(self, initial: QuicHeader, path: Path, now: float) -> bytes:
        source_cid = new_connection_id()
        token = self._tokens.create_token(
            address=path.remote,
            original_destination_connection_id=initial.destination_cid,
            retry_source_connection_id=source_cid,
            now=now,
        )
        return encode_quic_retry(
            version=SUPPORTED_VERSION,
            source_cid=source_cid,
            destination_cid=initial.source_cid,
            original_destination_cid=initial.destination_cid,
            retry_token=token,
        )


def _negotiate(header: LongHeader) -> Rejected:
    if header.version == QuicProtocolVersion.NEGOTIATION:
        return Rejected(Refused.FOREIGN_VERSION)  # RFC 9000 §6.1: never answer one with another
    return Rejected(
        Refused.FOREIGN_VERSION,
        encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=[SUPPORTED_VERSION],
        ),
    )


def _invalid_token(initial: QuicHeader) -> bytes:
    """An Initial packet that closes the connection that the client wants (RFC 9000 §10.2.3)."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=initial.destination_cid, is_client=False, version=SUPPORTED_VERSION)
    builder = QuicPacketBuilder(
        host_cid=initial.destination_cid,
        is_client=False,
        max_datagram_size=SMALLEST_MAX_DATAGRAM_SIZE,
        peer_cid=initial.source_cid,
        version=SUPPORTED_VERSION,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=_CLOSE_CAPACITY)
    frame.push_uint_var(QuicErrorCode.INVALID_TOKEN)
    frame.push_uint_var(QuicFrameType.PADDING)
    frame.push_uint_var(0)
    datagrams, _ = builder.flush()
    return datagrams[0]
