"""The QUIC connection to the relay: it also tells when the relay sees us at another address."""

from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicReceiveContext

from .quic import PeerConnection


class RelayQuicConnection(PeerConnection):
    """As any other, but that its other end validates new paths (RFC 9000 §8.2)."""

    path_challenges = 0
    """How many PATH_CHALLENGE frames came. A relay sends them when our packets come to it from
    another address than before: a NAT, or the device itself, has moved us."""

    def _handle_path_challenge_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self.path_challenges += 1
        super()._handle_path_challenge_frame(context, frame_type, buf)
