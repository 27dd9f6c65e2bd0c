"""A QUIC client without manners, for the tests of the relay's HTTP/3 server."""

from collections.abc import Sequence

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicReceiveContext
from aioquic.quic.events import StopSendingReceived
from aioquic.quic.packet_builder import QuicPacketBuilder


class UnrulyConnection(QuicConnection):
    """A QUIC client that does not stop when it is told to, and sends any frame."""

    def __init__(self, configuration: QuicConfiguration) -> None:
        super().__init__(configuration=configuration)
        self._injected: list[tuple[int, bytes]] = []

    def inject(self, frame_type: int, payload: bytes) -> None:
        """Send a frame of any kind in the next 1-RTT packet: at most about 1,100 bytes."""
        self._injected.append((frame_type, payload))
        self.send_ping(0)

    def _write_ping_frame(
        self, builder: QuicPacketBuilder, uids: Sequence[int] = (), comment: str = ""
    ) -> None:
        injected, self._injected = self._injected, []
        for frame_type, payload in injected:
            builder.start_frame(frame_type, capacity=len(payload) + 8).push_bytes(payload)
        super()._write_ping_frame(builder, list(uids), comment)

    def _handle_stop_sending_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        stream_id = buf.pull_uint_var()
        error_code = buf.pull_uint_var()
        self._events.append(StopSendingReceived(error_code=error_code, stream_id=stream_id))
