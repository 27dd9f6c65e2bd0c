"""Loss recovery (RFC 9002) as a pipe needs it: patient with the other end, impatient with the way.

aioquic doubles the probe timeout without an end: after an outage of a minute the next probe comes a
minute later. Here the interval between two probes has a cap, and a probe can be asked for.
"""

from collections.abc import Callable, Iterable
from logging import LoggerAdapter
from typing import Any

from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import (
    K_MICRO_SECOND,
    QuicPacketPacer,
    QuicPacketRecovery,
    QuicPacketSpace,
)

from .congestion import PipeCongestionControl

HANDSHAKE_PROBE_INTERVAL_S = 0.5
"""The most between two probes before the handshake is confirmed. It must get through a way that
loses half of all datagrams in either direction within 15 s: that takes some thirty attempts."""

PROBE_INTERVAL_S = 1.0
"""The most between two probes later on. A way that comes back is noticed within that time even if
nobody asks for a probe. (More if one probe timeout of the path is longer.)"""

_MAX_BACKOFF = 10
"""Doublings of the probe timeout; more would only overflow."""

_BURST_S = 0.004
"""Timers of the event loop are no finer than a millisecond or two, so on a fast path each must
let several milliseconds' worth of packets go."""
_SMALLEST_BURST_PACKETS = 16
_LARGEST_BURST_PACKETS = 64
"""A socket with the system's default receive buffer takes about 180 packets."""
_HEADROOM = 1.25
"""RFC 9002 §7.7: pace a little faster than the window allows, or it is never used up."""


class PipePacer(QuicPacketPacer):
    """Spreads packets over the round trip, in bursts that suit the loop's timers."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Take a new window (bytes) and round trip (s)."""
        packet = self._max_datagram_size
        self.packet_time = packet * max(smoothed_rtt, 1e-6) / (congestion_window * _HEADROOM)
        packets = min(_BURST_S / self.packet_time, _LARGEST_BURST_PACKETS)
        self.bucket_max = max(packets, _SMALLEST_BURST_PACKETS) * self.packet_time
        self.bucket_time = min(self.bucket_time, self.bucket_max)


class PipeRecovery(QuicPacketRecovery):
    """Decides what is lost and when to probe. Counts what it does."""

    def __init__(
        self,
        *,
        initial_rtt: float,
        max_datagram_size: int,
        is_client: bool,
        send_probe: Callable[[], None],
        logger: "LoggerAdapter[Any]",
    ) -> None:
        super().__init__(
            congestion_control_algorithm="reno",  # replaced below
            initial_rtt=initial_rtt,
            max_datagram_size=max_datagram_size,
            peer_completed_address_validation=not is_client,
            send_probe=send_probe,
            logger=logger,
        )
        self._cc = PipeCongestionControl(max_datagram_size=max_datagram_size)
        self._pacer = PipePacer(max_datagram_size=max_datagram_size)
        self.packets_lost = 0
        """Packets declared lost, those that a probe repeats too early included."""
        self.probe_timeouts = 0
        """How often the probe timer fired."""

    @property
    def smoothed_rtt(self) -> float:
        """Seconds; 0.0 before the first measurement."""
        return self._rtt_smoothed if self._rtt_initialized else 0.0

    @property
    def smallest_rtt(self) -> float:
        """Seconds; 0.0 before the first measurement."""
        return self._rtt_min if self._rtt_initialized else 0.0

    def probe_at(self) -> float:
        """When the next probe would be due, whatever may forbid to send it."""
        timeout = self.get_probe_timeout(include_max_ack_delay=self.handshake_confirmed)
        cap = PROBE_INTERVAL_S if self.handshake_confirmed else HANDSHAKE_PROBE_INTERVAL_S
        backed_off = timeout * float(1 << self._pto_count)
        interval = min(backed_off, max(cap, timeout))
        return self._time_of_last_sent_ack_eliciting_packet + interval

    def probe_now(self, now: float) -> None:
        """Repeat the oldest packet in flight, or send a PING, and begin the back-off anew."""
        self._pto_count = 0
        self.reschedule_data(now=now)

    def forget_the_wait(self) -> None:
        """What is in flight was handed over by other means: let its delay not count as a round
        trip, nor as a reason to probe. (Packets that elicit no acknowledgement measure nothing.)
        """
        for space in self.spaces:
            space.ack_eliciting_in_flight = 0
            for packet in space.sent_packets.values():
                packet.is_ack_eliciting = False

    def resume(self, now: float) -> None:
        """The wait is over: the timers run from now on."""
        self._pto_count = 0
        self._time_of_last_sent_ack_eliciting_packet = now

    def get_loss_detection_time(self, *, amplification_limited: bool) -> float | None:
        """As RFC 9002 §A.8, with the back-off capped."""
        at = super().get_loss_detection_time(amplification_limited=amplification_limited)
        if at is None or self._get_loss_space() is not None:
            return at
        return self.probe_at()

    def on_loss_detection_timeout(self, *, now: float) -> None:
        """The time of `get_loss_detection_time` has come."""
        if self._get_loss_space() is None:
            self.probe_timeouts += 1
        # A microsecond later: aioquic sets the timer to `sent + delay` and decides by
        # `now - delay`, which may round the other way; the timer would come again and again.
        super().on_loss_detection_timeout(now=now + K_MICRO_SECOND)
        self._pto_count = min(self._pto_count, _MAX_BACKOFF)

    def _on_packets_lost(
        self,
        *,
        congestion_event: bool = True,
        now: float,
        packets: Iterable[QuicSentPacket],
        persistent_congestion: bool = False,
        space: QuicPacketSpace,
    ) -> None:
        lost = list(packets)
        self.packets_lost += len(lost)
        super()._on_packets_lost(
            congestion_event=congestion_event,
            now=now,
            packets=lost,
            persistent_congestion=persistent_congestion,
            space=space,
        )
