"""The QUIC connection of a peer: aioquic's, made fit for pipes.

This package is the only one in `peers` that touches what aioquic does not offer publicly.
tests/test_internals.py names every attribute that it relies on. The connection is built in layers:
flow.py (windows), ids.py (connection IDs), handshake.py (TLS), switching.py (another path), and
here its life: waiting, timers, closing. Overridden in all of them:

- `_replenish_connection_ids`: connection IDs are derived and registered, not random;
- `_idle_timeout`: long while a dialer waits, short afterwards;
- `_update_traffic_key`: no early data, and no handshake without the pre-shared key;
- `_write_stream_limits`, `_local_max_*`: windows and stream limits follow the application;
- `_write_reset_stream_frame`, `_write_stop_sending_frame`: not before the stream is allowed;
- `_write_ack_frame`, `_write_connection_close_frame`: acknowledge batches, and before closing;
- `_receive_version_negotiation_packet`, `_receive_retry_packet`: a waiting dialer ignores both;
- `_handle_connection_close_frame`, `_initialize`: to know who closed; to ask for a certificate;
- `_handle_path_challenge_frame`: to know that the other end sees us at another address;
- `change_connection_id`: at a switch of the path only, and the old one stays valid for a while;
- `_write_stream_frame`, `_write_datagram_frame`: nothing of the application while it is held back;
- `_loss`: see recovery.py and congestion.py.
"""

import logging

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.connection import (
    END_STATES,
    QuicConnectionAdapter,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicHeader
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace

from ..connection_ids import ConnectionIdSource
from .farewell import Farewell
from .handshake import SMALLEST_INITIAL
from .parts import (
    CRYPTO_ERROR,
    PIPE_ALPN,
    End,
    EndedBy,
    QuicStatistics,
    TlsParts,
    TransportSettings,
)
from .recovery import PipeRecovery
from .switching import SwitchingConnection

PEER = ("peer", 0)
"""The one address that the other end has, to QUIC (docs/protocol.md §6.4)."""

MAX_REASON = 200
"""Bytes of a reason phrase that we send: it must fit in one packet beside an acknowledgement."""

_ACK_EVERY = 10
"""So many packets are acknowledged at once; fewer after aioquic's delay of a millisecond."""
_ACKS_BEFORE_PING = 32
"""So many packets that elicit no acknowledgement are kept before a PING goes along."""
_FULL_FLIGHT = 3 * SMALLEST_INITIAL
"""Bytes that a server may need for its first flight: two datagrams with a certificate, and room."""
_SHORTEST_IDLE_S = 3.0
"""The other end may wish for less, but three probe timeouts must fit (RFC 9000 §10.1)."""
_MOST_CLOSING_RANGES = 32
"""Of an acknowledgement beside a close: 16 bytes each at most, and both must fit in one packet."""

_logger = logging.getLogger(__name__)
_logger.addHandler(logging.NullHandler())


class PeerConnection(SwitchingConnection):
    """One QUIC connection to another peer, or to the relay's HTTP/3.

    The times that it is given are the event loop's, in seconds.

    A client is made without `first_datagram`; begin it with `start` or `start_muted`. A server is
    made with the client's first datagram; begin it with `start_server`. After that feed what comes
    (`receive`), look at the events, send what `outgoing` gives, and keep the timer.
    """

    def __init__(
        self,
        *,
        parts: TlsParts,
        connection_ids: ConnectionIdSource,
        settings: TransportSettings | None = None,
        first_datagram: bytes | None = None,
    ) -> None:
        """:raises ValueError: if the first datagram does not begin with a v1 long header, or no
        connection ID is left to take."""
        settings = settings or TransportSettings()
        super().__init__(settings, connection_ids, parts, first_datagram)
        self._logger = QuicConnectionAdapter(
            _logger, {"id": self.original_destination_connection_id.hex()}
        )
        self._loss = PipeRecovery(
            initial_rtt=self.configuration.initial_rtt,
            max_datagram_size=settings.max_datagram_size,
            is_client=self._is_client,
            send_probe=self._send_probe,
            logger=self._logger,
        )
        if parts.alpn == PIPE_ALPN:
            self.reserve_control_streams()
        self._muted = False
        self._idle_s = settings.idle_timeout_s
        self._now = 0.0
        self._ended_by: EndedBy | None = None
        self._acknowledged = -1
        """The largest packet number of the application's space that we have acknowledged."""
        self._key_since = 0
        """The first packet number that we sent with the present keys."""
        self._farewell: Farewell | None = None
        """Set from our close on."""
        self._datagrams_sent = self._datagrams_received = 0
        self._bytes_sent = self._bytes_received = 0
        self._malformed = 0
        self.path_challenges = 0
        """How many PATH_CHALLENGE frames came (RFC 9000 §8.2). A relay sends them when our packets
        come to it from another address than before: a NAT, or the device itself, has moved us."""

    # Beginning

    def start(self, now: float) -> None:
        """Begin as a client; `outgoing` has the first flight."""
        self.connect(PEER, now)

    def start_muted(self, now: float, wait_s: float) -> list[bytes]:
        """Begin as a client whose first flight goes another way: it is returned.

        Nothing is sent, and no timer but the end of the wait runs, until an authentic packet
        answers it. (docs/protocol.md §6.1. So the wait is no round trip, and costs nothing.)
        """
        self._idle_s = wait_s
        self.connect(PEER, now)
        flight = self.outgoing(now)
        self._loss.forget_the_wait()
        self._muted = True
        return flight

    def start_server(self, now: float) -> bool:
        """Begin as a server with the client's first datagram; False: it is not authentic."""
        if self._first_datagram is None:
            raise ValueError("a client has no first datagram to begin with")
        self.receive(self._first_datagram, now)
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    # Driving

    def receive(self, datagram: bytes, now: float) -> None:
        """Take one UDP payload. Never raises: what breaks the parser closes the connection."""
        self._datagrams_received += 1
        self._bytes_received += len(datagram)
        self._now = now
        if self._state is QuicConnectionState.CLOSING:
            if self._farewell is not None:
                self._farewell.answer(now)
            return
        try:
            self.receive_datagram(datagram, PEER, now)
        except Exception as error:  # any: aioquic promises no list for malformed input
            self._malformed += 1
            self._logger.info("malformed input: %s: %s", type(error).__name__, error)
            self.close(QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.PADDING, "malformed input")
        if self._muted and self._state is not QuicConnectionState.FIRSTFLIGHT:
            self._unmute(now)

    def outgoing(self, now: float) -> list[bytes]:
        """The UDP payloads to send now. Ask `next_timer` afterwards."""
        self._now = now
        if self._muted:
            if self._close_pending:
                self._close_end()  # nobody knows of us yet
            return []
        if self._state in END_STATES:
            closing = self._state is QuicConnectionState.CLOSING
            return self._farewell.due(now) if self._farewell is not None and closing else []
        if not self._network_paths:
            return []
        closing = self._close_pending
        self.retire_old_connection_ids(now)
        self._acknowledge_batch(now)
        self._renew_keys()
        datagrams = [datagram for datagram, _ in self.datagrams_to_send(now)]
        self._datagrams_sent += len(datagrams)
        self._bytes_sent += sum(map(len, datagrams))
        if closing:
            self._ended_by = self._ended_by or EndedBy.US
            self._farewell = Farewell(datagrams, now, self._loss.get_probe_timeout())
        return datagrams

    def next_timer(self) -> float | None:
        """When to call `handle_time`; None: never again."""
        if self._close_at is None or self._muted:
            return self._close_at
        timer = self.get_timer()
        if timer is not None and self._farewell is not None:
            timer = min(timer, self._farewell.next_at())
        if timer is not None and self.is_blocked_by_amplification:
            timer = min(timer, self._loss.probe_at())
        if timer is not None and self._old_ids:
            timer = min(timer, self._old_ids[0][0])
        return timer

    def handle_time(self, now: float) -> None:
        """The time of `next_timer` has come."""
        self._now = now
        if self._close_at is None:
            return
        if now >= self._close_at and self._close_event is None:
            self._ended_by = EndedBy.SILENCE
        elif self._muted or (now < self._close_at and self._state in END_STATES):
            return
        elif self.is_blocked_by_amplification and now >= self._loss.probe_at():
            self._feed_first_datagram_again(now)
        self.handle_timer(now)

    def probe_now(self, now: float) -> None:
        """The way may have come back: find out within a round trip (docs/protocol.md §6.4)."""
        if self._state is QuicConnectionState.CONNECTED and not self._muted:
            self._loss.probe_now(now)

    def finish(self, code: int, reason: str) -> None:
        """Close with an application error code (docs/protocol.md §6.3)."""
        self.close(code, None, _short(reason))

    def refuse(self, alert: int, reason: str) -> None:
        """Close with a TLS alert: what a client says that the server cannot decrypt more from."""
        self.close(CRYPTO_ERROR + alert, QuicFrameType.CRYPTO, _short(reason))

    # Looking

    @property
    def is_muted(self) -> bool:
        """Whether it waits for the answer to a first flight that went another way."""
        return self._muted

    @property
    def end(self) -> End | None:
        """How it ended, as soon as that is settled; packets may still have to be sent."""
        event = self._close_event
        if event is None:
            return None
        return End(
            by=self._ended_by or EndedBy.US,
            code=event.error_code,
            is_application=event.frame_type is None,
            reason=event.reason_phrase,
        )

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left to send or to wait for."""
        return self._state in (QuicConnectionState.DRAINING, QuicConnectionState.TERMINATED)

    @property
    def is_blocked_by_amplification(self) -> bool:
        """Whether a server may send no full flight before it hears more (RFC 9000 §8.1)."""
        if self._first_datagram is None or self._handshake_complete or self._state in END_STATES:
            return False
        path = self._network_paths[0]
        return not path.is_validated and not path.can_send(_FULL_FLIGHT)

    @property
    def has_unacknowledged(self) -> bool:
        """Whether anything in flight awaits an acknowledgement."""
        return any(space.ack_eliciting_in_flight for space in self._loss.spaces)

    def statistics(self) -> QuicStatistics:
        """A snapshot."""
        return QuicStatistics(
            smoothed_rtt_s=self._loss.smoothed_rtt,
            smallest_rtt_s=self._loss.smallest_rtt,
            congestion_window=self._loss.congestion_window,
            bytes_in_flight=self._loss.bytes_in_flight,
            datagrams_sent=self._datagrams_sent,
            datagrams_received=self._datagrams_received,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            packets_lost=self._loss.packets_lost,
            probe_timeouts=self._loss.probe_timeouts,
            datagram_frames_dropped=self._datagram_frames_dropped,
            malformed_received=self._malformed,
        )

    # Overridden

    def _idle_timeout(self) -> float:
        # RFC 9000 §10.1: the smaller of the two; 0 stands for none.
        theirs = self._remote_max_idle_timeout
        if not theirs or theirs > self._idle_s:
            return self._idle_s
        return max(theirs, _SHORTEST_IDLE_S)

    def _receive_version_negotiation_packet(self, header: QuicHeader, now: float) -> None:
        pass  # anybody can forge one (RFC 9000 §21.12), and there is one version

    def _receive_retry_packet(
        self, header: QuicHeader, packet_without_tag: bytes, now: float
    ) -> None:
        if not self._muted:  # there is no Retry between peers, but the relay may send one
            super()._receive_retry_packet(header, packet_without_tag, now)

    def _handle_connection_close_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        if self._close_event is None:
            self._ended_by = EndedBy.PEER
        super()._handle_connection_close_frame(context, frame_type, buf)

    def _handle_path_challenge_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self.path_challenges += 1
        super()._handle_path_challenge_frame(context, frame_type, buf)

    def _write_ack_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float
    ) -> None:
        super()._write_ack_frame(builder, space, now)
        if space.is_application_data:
            self._acknowledged = space.largest_received_packet

    def _write_connection_close_frame(
        self,
        builder: QuicPacketBuilder,
        epoch: tls.Epoch,
        error_code: int,
        frame_type: int | None,
        reason_phrase: str,
    ) -> None:
        # The other end may wait for the acknowledgement of its last data: let it come along.
        if epoch is tls.Epoch.ONE_RTT:
            space = self._spaces[epoch]
            if 0 < len(space.ack_queue) <= _MOST_CLOSING_RANGES:
                self._write_ack_frame(builder, space, self._now)
        super()._write_connection_close_frame(builder, epoch, error_code, frame_type, reason_phrase)

    # Own

    def _renew_keys(self) -> None:
        used = self._packet_number - self._key_since
        if used >= self._settings.packets_per_key and self._handshake_confirmed:
            self._key_since = self._packet_number
            self.request_key_update()

    def _unmute(self, now: float) -> None:
        self._muted = False
        self._idle_s = self._settings.idle_timeout_s
        self._loss.resume(now)
        if self._state is QuicConnectionState.CONNECTED:
            self._close_at = now + self._idle_timeout()

    def _feed_first_datagram_again(self, now: float) -> None:
        # docs/protocol.md §6.1.3. It is a duplicate, so only its size counts (RFC 9000 §8.1).
        if self._first_datagram is not None:
            self.receive_datagram(self._first_datagram, PEER, now)
        self.get_timer()  # aioquic notes there what is due, now that it may send again

    def _acknowledge_batch(self, now: float) -> None:
        space = self._spaces.get(tls.Epoch.ONE_RTT)
        if space is None or space.ack_at is None:
            return
        if space.largest_received_packet - self._acknowledged >= _ACK_EVERY:
            # In the past, not now: aioquic lets only an overdue acknowledgement pass its pacer.
            space.ack_at = min(space.ack_at, now - 1e-6)
        if len(space.sent_packets) > _ACKS_BEFORE_PING and not space.ack_eliciting_in_flight:
            # RFC 9000 §13.2.4: who only acknowledges must ask for an acknowledgement now and then,
            # or keeps a record of each packet for ever.
            self._send_probe()


def _short(reason: str) -> str:
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
