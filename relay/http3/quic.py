"""The relay's end of one QUIC connection: aioquic's, with bounded memory and our connection IDs.

This module touches aioquic's private attributes: test_http3_internals.py names each. What it adds:

- connection IDs of 12 bytes with the highest bit set (docs/protocol.md §2);
- flow control windows that slide or stay. aioquic doubles them whenever half is used, also by a
  single byte at the far end, so that a client could make the relay buffer anything;
- a bound on what a handshake may buffer, and on unacknowledged packets.
"""

import logging
import os

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    Limit,
    QuicConnection,
    QuicConnectionAdapter,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicReceiveContext,
    dump_cid,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from relay.certificate import ServerCertificate
from relay.core.path import Path
from relay.http3.limits import Http3Limits
from relay.wire.connection_id import CONNECTION_ID_LENGTH

SUPPORTED_VERSION = QuicProtocolVersion.VERSION_1
"""The one version that the relay itself speaks; forwarding knows none."""

STREAM_WINDOW = 16_384
"""Bytes that a client may ever send on one stream: a request's headers and body, or a whole life
of HTTP/3 control frames. It never grows."""

CONNECTION_WINDOW = 65_536
"""Bytes of streams that may be under way, out of order, on one connection."""

_MAX_CLIENT_STREAMS = 8
"""Unidirectional streams of a client; HTTP/3 needs three (RFC 9114 §6.2)."""

_MAX_CRYPTO = 16_384
"""Bytes of handshake that a client may send in each encryption level; a ClientHello with
post-quantum keys has about 2,000. RFC 9000 §7.5 asks for 4,096 at least."""

_ACKS_BEFORE_PING = 32
"""Packets without an acknowledgement after which we ask for one."""

_MAX_UNACKNOWLEDGED = 1024
"""Packets that a client may leave unacknowledged: the relay remembers each."""

_HTTP3_BIT = 0x80

logger = logging.getLogger("relay.http3.quic")
logger.setLevel(logging.CRITICAL)  # what clients do wrong is counted; aioquic warns of each


def new_connection_id() -> bytes:
    """12 random bytes with the highest bit set: towards HTTP/3."""
    cid = os.urandom(CONNECTION_ID_LENGTH)
    return bytes([cid[0] | _HTTP3_BIT]) + cid[1:]


def server_configuration(certificate: ServerCertificate, limits: Http3Limits) -> QuicConfiguration:
    """What all connections share."""
    return QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=False,
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=limits.idle_timeout_s,
        max_data=CONNECTION_WINDOW,
        max_stream_data=STREAM_WINDOW,
        supported_versions=[SUPPORTED_VERSION],
        certificate=certificate.chain[0],
        certificate_chain=list(certificate.chain[1:]),
        private_key=certificate.private_key,
    )


class HostConnection(QuicConnection):
    """See the module's text. aioquic's NetworkAddress is our Path."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        limits: Http3Limits,
        original_destination_cid: bytes,
        retry_source_cid: bytes | None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_cid,
            retry_source_connection_id=retry_source_cid,
        )
        self._logger = QuicConnectionAdapter(logger, {"id": dump_cid(original_destination_cid)})
        self._loss._logger = self._logger
        self._host_cids = [
            QuicConnectionId(
                cid=new_connection_id(),
                sequence_number=0,
                stateless_reset_token=os.urandom(16),
                was_sent=True,
            )
        ]
        self.host_cid = self._host_cids[0].cid
        self._local_initial_source_connection_id = self.host_cid
        self._window = _SlidingLimit(QuicFrameType.MAX_DATA, "max_data", CONNECTION_WINDOW)
        self._local_max_data = self._window
        self._local_max_streams_bidi = Limit(
            QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", limits.max_streams
        )
        self._local_max_streams_uni = Limit(
            QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", _MAX_CLIENT_STREAMS
        )

    @property
    def has_begun(self) -> bool:
        """Whether a packet of the client could be decrypted."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def is_over(self) -> bool:
        """Closed by either side; nothing more is to be sent."""
        return self._state in END_STATES

    @property
    def is_idle_closed(self) -> bool:
        """Over without either side having said so."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def is_closed_by_us(self) -> bool:
        """Over because we said so."""
        return self._state is QuicConnectionState.CLOSING

    @property
    def validated_path(self) -> Path | None:
        """The path in use, if it is validated (RFC 9000 §8). aioquic raises no event for it."""
        if self._network_paths and self._network_paths[0].is_validated:
            path: Path = self._network_paths[0].addr
            return path
        return None

    def validate_first_path(self) -> None:
        """The client's Retry token has shown that it receives there (RFC 9000 §8.1.2)."""
        for path in self._network_paths[:1]:
            path.is_validated = True

    def takes_from(self, path: Path) -> bool:
        """Whether a datagram that came by `path` may be given to `receive_datagram`.

        A handshake stays where it began (RFC 9000 §9): aioquic would take any Handshake packet as
        a proof that its source receives, though the keys went to the address of the Initial. Once
        it is complete, aioquic has no Handshake keys, and only a PATH_RESPONSE validates.
        """
        return (
            self._handshake_complete
            or not self._network_paths
            or self._network_paths[0].addr == path
        )

    def can_send(self, stream_id: int) -> bool:
        """Whether the stream takes data: the client has not stopped it, nor have we ended it."""
        stream = self._streams.get(stream_id)
        return (
            stream is not None
            and not self.is_over
            and stream.sender._reset_error_code is None
            and stream.sender._buffer_fin is None
        )

    def refuse_rest(self, stream_id: int, error_code: int) -> None:
        """Ask the client not to send the rest of a stream (STOP_SENDING)."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished:
            stream.receiver.stop(error_code)

    def reset(self, stream_id: int, error_code: int) -> None:
        """End our half of a stream at once, unless it has ended."""
        if self.can_send(stream_id):
            self.reset_stream(stream_id, error_code)

    def release_handshake(self) -> None:
        """Give back what only the handshake needed."""
        self._crypto_buffers = {epoch: Buffer(capacity=0) for epoch in self._crypto_buffers}

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Path]]:
        """As ever, after the windows have been moved."""
        if self._network_paths and not self.is_over:
            self._slide_window()
            self._want_acknowledgement()
            return super().datagrams_to_send(now)
        return []

    def _slide_window(self) -> None:
        missing = sum(
            stream.receiver.highest_offset - stream.receiver.starting_offset()
            for stream in self._streams.values()
            if not stream.receiver.is_finished
        )
        self._window.slide(self._window.used - missing)

    def _want_acknowledgement(self) -> None:
        """A client that only pings gets acknowledgements only, and acknowledges none of them."""
        if not self._handshake_complete:
            return
        space = self._spaces[tls.Epoch.ONE_RTT]
        if len(space.sent_packets) > _MAX_UNACKNOWLEDGED:
            self.close(QuicErrorCode.INTERNAL_ERROR, reason_phrase="too much unacknowledged")
        elif len(space.sent_packets) > _ACKS_BEFORE_PING and not space.ack_eliciting_in_flight:
            self.send_ping(0)  # RFC 9000 §13.2.4

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        if end > _MAX_CRYPTO:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="the handshake is too long",
            )
        buf.seek(start)
        super()._handle_crypto_frame(context, frame_type, buf)

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < min(8, self._remote_active_connection_id_limit):
            self._host_cids.append(
                QuicConnectionId(
                    cid=new_connection_id(),
                    sequence_number=self._host_cid_seq,
                    stateless_reset_token=os.urandom(16),
                )
            )
            self._host_cid_seq += 1

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        """Stream windows never grow, so there is nothing to announce."""


class _SlidingLimit(Limit):
    """A window of constant size, moved on when half of it is used up."""

    def __init__(self, frame_type: int, name: str, size: int) -> None:
        self._size = size
        self._value = size
        super().__init__(frame_type=frame_type, name=name, value=size)

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, _: int) -> None:
        """aioquic would double it."""

    def slide(self, delivered: int) -> None:
        """`delivered` bytes have left the buffers."""
        if delivered + self._size - self._value >= self._size // 2:
            self._value = delivered + self._size
