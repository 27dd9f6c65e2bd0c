"""HTTP/3 framing: aioquic's H3Connection without what a relay needs not and a client can misuse.

No dynamic QPACK table in either direction (RFC 9204 §3.2.3: capacity 0), so no stream ever waits
for another one's headers; no WebSockets (RFC 9220); a bound on the size of decoded headers. Like
http3_quic it touches aioquic's private attributes.
"""

import pylsqpack
from aioquic.h3.connection import (
    ErrorCode,
    FrameType,
    H3Connection,
    ProtocolError,
    Setting,
    parse_settings,
)
from aioquic.h3.events import Headers

_MAX_FIELD_SECTION = 16_384
"""Bytes of one request's decoded headers, by the count of RFC 9114 §4.2.2. Announced to clients:
QPACK turns one byte into eighty."""

_FIELD_OVERHEAD = 32


class FrameConnection(H3Connection):
    """See the module's text."""

    def buffered(self, stream_id: int) -> int:
        """Bytes of the stream that wait for the rest of their frame."""
        stream = self._stream.get(stream_id)
        return len(stream.buffer) if stream is not None else 0

    def _init_connection(self) -> None:
        self._max_table_capacity = 0
        self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: _MAX_FIELD_SECTION,
        }

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        if frame_type != FrameType.SETTINGS:
            super()._handle_control_frame(frame_type, frame_data)
            return
        # As aioquic does, but without telling our encoder of the table that the client offers.
        settings = parse_settings(frame_data)
        self._validate_settings(settings)
        self._received_settings = settings
        self._settings_received = True

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        headers = super()._decode_headers(stream_id, frame_data)
        size = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in headers)
        if size > _MAX_FIELD_SECTION:
            raise _TooMuch("the headers are too long")
        return headers


class _TooMuch(ProtocolError):
    error_code = ErrorCode.H3_EXCESSIVE_LOAD
