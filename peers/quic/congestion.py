"""Congestion control: CUBIC (RFC 9438) with a HyStart++ exit from slow start (RFC 9406).

aioquic's own two collapse after an outage: CUBIC computes the new threshold from what is left in
flight (nothing, after an outage), and both leave slow start at the first jitter of a short path.
"""

from collections.abc import Iterable

from aioquic.quic.congestion.base import K_INITIAL_WINDOW, QuicCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

MINIMUM_WINDOW_PACKETS = 2
"""RFC 9002 §7.2."""
MAXIMUM_WINDOW = 16 * 1024 * 1024
"""Bytes. No more than a pipe's receive window can ever be in flight."""

_BETA = 0.7
_C = 0.4
"""RFC 9438 §4.6 and §5; time in seconds, windows in packets."""
_RENO_ALPHA = 3 * (1 - _BETA) / (1 + _BETA)

_HYSTART_ROUND_SAMPLES = 8
_HYSTART_MIN_DELAY_S = 0.004
_HYSTART_MAX_DELAY_S = 0.016
"""RFC 9406 §4.3: how much longer a round's fastest packet must take than the path's own time."""


class PipeCongestionControl(QuicCongestionControl):
    """The congestion window of one connection, in bytes."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._packet = max_datagram_size
        self._growth = 1.0
        """By how many bytes the window grows for each byte acknowledged; 1 is slow start."""
        self._recovery_start = -1.0
        self._peak = 0
        """The most bytes in flight in this round trip, and in the one before."""
        self._former_peak = 0
        self._peak_since = 0.0
        self._smallest_rtt = float("inf")
        self._round_start = 0.0
        self._round_smallest = float("inf")
        self._round_samples = 0
        self._epoch_start: float | None = None
        """When congestion avoidance began after the last loss; None: not yet."""
        self._window_before_loss = 0.0
        self._plateau_after = 0.0
        """Seconds after `_epoch_start` at which CUBIC is back at the window before the loss (K)."""
        self._reno_window = 0.0
        self._reno_at = 0.0
        self.acknowledged_at: float | None = None
        """When a packet that counts here was last acknowledged; None: none was yet."""

    def resume(self) -> None:
        """The path is used again, after a while, with nothing in flight: begin at half the window.

        Slow start leads back to what it was (RFC 9000 §9.4 permits to keep what is still true);
        if it had not found out yet how much the path takes, slow start goes on.
        """
        self.bytes_in_flight = self._peak = self._former_peak = 0
        if self.ssthresh is not None:
            self.ssthresh = max(self.ssthresh, self.congestion_window)
        least = K_INITIAL_WINDOW * self._packet
        self.congestion_window = max(self.congestion_window // 2, least)
        self._recovery_start = -1.0
        self._epoch_start = None
        self.acknowledged_at = None

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """Count the packet as in flight."""
        self.bytes_in_flight += packet.sent_bytes
        self._peak = max(self._peak, self.bytes_in_flight)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Forget packets without drawing a conclusion."""
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Let the window grow, unless it was not used (RFC 9002 §7.8) or is recovering (§7.3.2)."""
        size = packet.sent_bytes
        self.bytes_in_flight -= size
        self.acknowledged_at = now
        is_used = max(self._peak, self._former_peak) * 2 > self.congestion_window
        if not is_used or packet.sent_time is None or packet.sent_time <= self._recovery_start:
            return
        if self.ssthresh is not None and self.congestion_window < self.ssthresh:
            self.congestion_window += size
        elif self.congestion_window < MAXIMUM_WINDOW:
            self.congestion_window += int(size * self._growth)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """Reduce the window, once for all that was sent before the first of these losses."""
        latest = -1.0
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            latest = max(latest, packet.sent_time or 0.0)
        if latest <= self._recovery_start:
            return
        self._recovery_start = now
        window = float(self.congestion_window)
        # RFC 9438 §4.7, fast convergence: leave room to newcomers.
        shrinking = window < self._window_before_loss
        self._window_before_loss = window * (1 + _BETA) / 2 if shrinking else window
        self.congestion_window = max(int(window * _BETA), MINIMUM_WINDOW_PACKETS * self._packet)
        self.ssthresh = self.congestion_window
        self._epoch_start = None
        self._growth = 0.0

    def on_persistent_congestion(self) -> None:
        """RFC 9002 §7.6.2. The threshold stays: slow start leads back to it in few round trips."""
        self.congestion_window = MINIMUM_WINDOW_PACKETS * self._packet
        self._recovery_start = -1.0

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Once per acknowledgement: decide how the window grows until the next one."""
        self._smallest_rtt = min(self._smallest_rtt, rtt)
        if now - self._peak_since >= rtt:
            self._former_peak, self._peak = self._peak, self.bytes_in_flight
            self._peak_since = now
        if self.ssthresh is None:
            if self._queue_builds_up(now, rtt):
                self.ssthresh = self.congestion_window
                self._window_before_loss = float(self.congestion_window)
        elif self.congestion_window >= self.ssthresh:
            self._growth = self._cubic_growth(now, rtt)

    def _queue_builds_up(self, now: float, rtt: float) -> bool:
        # RFC 9406 §4.2: compare the fastest packet of a round trip with the fastest of all.
        self._round_smallest = min(self._round_smallest, rtt)
        self._round_samples += 1
        if now - self._round_start < rtt or self._round_samples < _HYSTART_ROUND_SAMPLES:
            return False
        base = self._smallest_rtt
        allowed = min(max(base / 8, _HYSTART_MIN_DELAY_S), _HYSTART_MAX_DELAY_S)
        queued = self._round_smallest >= base + allowed
        self._round_start, self._round_smallest, self._round_samples = now, float("inf"), 0
        return queued

    def _cubic_growth(self, now: float, rtt: float) -> float:
        window = self.congestion_window / self._packet
        before_loss = self._window_before_loss / self._packet
        if self._epoch_start is None:
            self._epoch_start = self._reno_at = now
            self._reno_window = window
            self._plateau_after = (max(before_loss - window, 0.0) / _C) ** (1 / 3)
        # RFC 9438 §4.2: the window as a function of the time since the last loss, not of the
        # round trips: long paths are not at a disadvantage.
        since = now - self._epoch_start + rtt
        target = _C * (since - self._plateau_after) ** 3 + before_loss
        target = min(max(target, window), 1.5 * window)
        # §4.3: never slower than Reno would be, which matters on short paths.
        self._reno_window += _RENO_ALPHA * (now - self._reno_at) / max(rtt, 0.001)
        self._reno_at = now
        return max(target, self._reno_window, window) / window - 1.0
