"""Bounds on what one end of a connection makes the other keep in memory.

aioquic raises its receive windows as data arrives, and the number of streams as they close. Here
both follow the application: a window moves when data is read, a stream makes room for another one
when it is released. In the other direction it tells how much still waits to be acknowledged.
"""

from typing import Any

from aioquic.quic.connection import MAX_STREAM_DATA_FRAME_CAPACITY, Limit, QuicConnection
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from ..errors import DatagramTooLarge
from .parts import TransportSettings

_UPDATE_FRACTION = 4
"""A window is announced anew when a quarter of it was read."""

_SHORT_HEADER = 3
"""First byte and packet number (2); the connection ID comes on top."""
_AEAD_TAG = 16
_DATAGRAM_FRAME_HEADER = 3
"""Type (1) and length (2 bytes, as anything over 63)."""


class GrantedLimit(Limit):
    """A limit that grows by `grant` alone: aioquic's own attempts to raise it are in vain."""

    def __init__(self, frame_type: int, name: str, value: int) -> None:
        self._granted = value
        super().__init__(frame_type, name, value)

    @property
    def value(self) -> int:
        """What the other end may use in all."""
        return self._granted

    @value.setter
    def value(self, value: int) -> None:
        pass

    def grant(self, value: int) -> None:
        """Raise the limit to `value`."""
        self._granted = max(self._granted, value)


class FlowControlledConnection(QuicConnection):
    """A connection whose windows move by `consumed`, and its stream limits by `release_stream`."""

    def __init__(self, settings: TransportSettings, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._settings = settings
        self._max_data = GrantedLimit(
            QuicFrameType.MAX_DATA, "max_data", settings.connection_window
        )
        self._local_max_data = self._max_data
        self._local_max_streams_bidi = GrantedLimit(
            QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", settings.max_streams
        )
        self._local_max_streams_uni: GrantedLimit = GrantedLimit(
            QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", settings.max_streams
        )
        self._consumed = 0
        self._consumed_of: dict[int, int] = {}
        """Bytes read, by stream, until the stream's receiving part ends."""
        self._datagram_frames_dropped = 0
        self._control_stream: int | None = None  # ours, when it is open
        self.is_held = False
        """Whether what the application sends waits. Only the control stream goes on."""

    # Receiving

    def consumed(self, stream_id: int, count: int) -> bool:
        """The application has read `count` bytes of that stream: there is room for as many.

        Returns whether that is to be announced now.
        """
        announce = False
        self._consumed += count
        of_stream = self._consumed_of.get(stream_id, 0) + count
        self._consumed_of[stream_id] = of_stream
        window = self._settings.connection_window
        limit = self._max_data
        if self._consumed + window - limit.value >= window // _UPDATE_FRACTION:
            limit.grant(self._consumed + window)
            announce = True
        stream = self._streams.get(stream_id)
        if stream is None or stream.receiver.is_finished:
            return announce
        window = self._settings.stream_window
        if of_stream + window - stream.max_stream_data_local >= window // _UPDATE_FRACTION:
            stream.max_stream_data_local = of_stream + window
            announce = True
        return announce

    def give_up_receiving(self, stream_id: int, code: int) -> None:
        """Ask the other end to stop (STOP_SENDING), if it still can."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished:
            self.stop_stream(stream_id, code)

    def end_receiving(self, stream_id: int) -> None:
        """Nothing more of that stream will be read: it was read to its end, or given up.

        What the other end used up of the connection's window for it becomes free again. To be
        called while the event is handled that says so: afterwards aioquic forgets the stream.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            unread = stream.receiver.highest_offset - self._consumed_of.get(stream_id, 0)
            if unread > 0:
                self.consumed(stream_id, unread)
        self._consumed_of.pop(stream_id, None)

    def release_stream(self, stream_id: int) -> None:
        """The application is done with a stream of the other end: it may open another one."""
        limit = self._stream_limit(stream_id)
        assert isinstance(limit, GrantedLimit)
        limit.grant(limit.value + 1)

    def is_local_stream(self, stream_id: int) -> bool:
        """Whether we opened it (RFC 9000 §2.1: bit 0 is set on those of the server)."""
        return (stream_id & 1 == 0) == self._is_client

    # The peers' own streams (docs/protocol.md §6.5)

    def reserve_control_streams(self) -> None:
        """Keep the first unidirectional stream of each end from the application."""
        self._local_next_stream_id_uni += 4
        self._local_max_streams_uni.grant(self._settings.max_streams + 1)

    @property
    def control_stream_ids(self) -> tuple[int, int]:
        """Ours, and the other end's (RFC 9000 §2.1)."""
        return (2, 3) if self._is_client else (3, 2)

    def send_control(self, data: bytes) -> None:
        """Send on our control stream. Not before the handshake is complete."""
        following = self._local_next_stream_id_uni
        if self._control_stream is None:
            # aioquic makes streams in order, and takes what it has passed for finished.
            self._control_stream = self._local_next_stream_id_uni = self.control_stream_ids[0]
        self.send_stream_data(self._control_stream, data)
        self._local_next_stream_id_uni = following

    # Sending

    def open_stream(self, *, unidirectional: bool) -> int:
        """Make the next stream. The other end learns of it with its first data."""
        stream_id = self.get_next_available_stream_id(is_unidirectional=unidirectional)
        self.send_stream_data(stream_id, b"")
        return stream_id

    def unacknowledged(self, stream_id: int) -> int:
        """Bytes written to a stream that we must keep: not sent, or not acknowledged."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else len(stream.sender._buffer)

    def is_sending_finished(self, stream_id: int) -> bool:
        """Whether all data and FIN, or a reset, were acknowledged."""
        stream = self._streams.get(stream_id)
        return stream is None or stream.sender.is_finished

    @property
    def datagram_limit(self) -> int:
        """The largest DATAGRAM payload, bytes; 0: none yet, or the other end takes none at all."""
        theirs = self._remote_max_datagram_frame_size
        if theirs is None:
            return 0
        overhead = _SHORT_HEADER + len(self._peer_cid.cid) + _AEAD_TAG
        ours = self._max_datagram_size - overhead
        return max(min(ours, theirs) - _DATAGRAM_FRAME_HEADER, 0)

    def send_datagram(self, data: bytes) -> None:
        """Queue a DATAGRAM frame. When too many wait already, the oldest is dropped.

        :raises DatagramTooLarge: aioquic would block all that follow it, for good.
        """
        limit = self.datagram_limit
        if len(data) > limit:
            raise DatagramTooLarge(
                f"a datagram of {len(data)} bytes does not fit: {limit} is the most here", limit
            )
        if len(self._datagrams_pending) >= self._settings.datagram_queue:
            self._datagrams_pending.popleft()
            self._datagram_frames_dropped += 1
        self.send_datagram_frame(data)

    # Overridden

    def _write_stream_frame(
        self,
        builder: QuicPacketBuilder,
        space: QuicPacketSpace,
        stream: QuicStream,
        max_offset: int,
    ) -> int:
        if self.is_held and stream.stream_id != self._control_stream:
            return 0
        return super()._write_stream_frame(builder, space, stream, max_offset)

    def _write_datagram_frame(
        self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType
    ) -> bool:
        if self.is_held:
            raise QuicPacketBuilderStop  # as if the packet had no room for it
        return super()._write_datagram_frame(builder, data, frame_type)

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        """Announce a window that `consumed` has moved, or whose announcement was lost."""
        maximum = stream.max_stream_data_local
        if stream.max_stream_data_local_sent == maximum or stream.receiver.is_finished:
            return
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buffer.push_uint_var(stream.stream_id or 0)  # None is for TLS's own streams
        buffer.push_uint_var(maximum)
        stream.max_stream_data_local_sent = maximum

    def _write_reset_stream_frame(self, builder: QuicPacketBuilder, stream: QuicStream) -> None:
        """Not for a stream that the other end does not allow yet: aioquic would break the limit."""
        if not stream.is_blocked:
            super()._write_reset_stream_frame(builder, stream)

    def _write_stop_sending_frame(self, builder: QuicPacketBuilder, stream: QuicStream) -> None:
        """The same."""
        if not stream.is_blocked:
            super()._write_stop_sending_frame(builder, stream)
