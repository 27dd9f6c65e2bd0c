"""A connection that is told when what it sends goes another way (RFC 9000 §9.4, §9.5)."""

from collections.abc import Hashable

from aioquic import tls
from aioquic.quic.connection import QuicConnectionState

from .handshake import HandshakeConnection
from .recovery import PipeRecovery

_REORDERING = 4096
"""Packets. What a slower path still carries after a switch may be so far behind: 5 MB."""


class SwitchingConnection(HandshakeConnection):
    """The path is chosen below QUIC: there, the other end has one address."""

    _loss: PipeRecovery

    def switch_path(self, path: Hashable, now: float, round_trip_s: float | None = None) -> None:
        """What is sent goes another way from now on: begin anew there.

        With a fresh connection ID, if the other end has one left, with a congestion window and
        round-trip times of its own, and with a probe at once.

        :param path: names the way; None is the one that the connection began with.
        :param round_trip_s: what is known of it from elsewhere.
        """
        if self._state is not QuicConnectionState.CONNECTED or not self._handshake_confirmed:
            return
        self.take_fresh_connection_id(now)
        # What comes by the slower of two paths must not be taken for a duplicate.
        self._spaces[tls.Epoch.ONE_RTT].received_packets._size = _REORDERING
        self._loss.switch(path, now, round_trip_s)

    @property
    def acknowledged_at(self) -> float | None:
        """When something that the present path has carried was last acknowledged; None: never."""
        return self._loss.acknowledged_at

    @property
    def asked_at(self) -> float:
        """When something was last sent that must be acknowledged; 0.0: never."""
        return self._loss.asked_at

    @property
    def smoothed_rtt_s(self) -> float:
        """Of the present path, in seconds; 0.0: not measured yet."""
        return self._loss.smoothed_rtt
