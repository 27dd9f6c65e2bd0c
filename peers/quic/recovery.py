"""Loss recovery (RFC 9002) as a pipe needs it: patient with the other end, impatient with the way.

aioquic doubles the probe timeout without an end: after an outage of a minute the next probe comes a
minute later. Here the interval between two probes has a cap, and a probe can be asked for. And a
pipe can go another way: `switch` then begins anew with congestion control and round-trip times.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from logging import LoggerAdapter
from typing import Any

from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import (
    K_MICRO_SECOND,
    QuicPacketPacer,
    QuicPacketRecovery,
    QuicPacketSpace,
)

from .congestion import PipeCongestionControl
from .former import FormerPackets

HANDSHAKE_PROBE_INTERVAL_S = 0.5
"""The most between two probes before the handshake is confirmed. It must get through a way that
loses half of all datagrams in either direction within 15 s: that takes some thirty attempts."""

PROBE_INTERVAL_S = 1.0
"""The most between two probes later on. A way that comes back is noticed within that time even if
nobody asks for a probe. (More if one probe timeout of the path is longer.)"""

_SHORTEST_INITIAL_RTT_S = 0.025
"""The other end may take that long to acknowledge (max_ack_delay)."""

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


REMEMBERED_S = 60.0
"""Seconds for which it is worth to know how a path was that is not used any more."""
REMEMBERED_PATHS = 4
"""So many paths at the most: the relay's, and the latest direct ones."""


class PipePacer(QuicPacketPacer):
    """Spreads packets over the round trip, in bursts that suit the loop's timers."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Take a new window (bytes) and round trip (s)."""
        packet = self._max_datagram_size
        self.packet_time = packet * max(smoothed_rtt, 1e-6) / (congestion_window * _HEADROOM)
        packets = min(_BURST_S / self.packet_time, _LARGEST_BURST_PACKETS)
        self.bucket_max = max(packets, _SMALLEST_BURST_PACKETS) * self.packet_time
        self.bucket_time = min(self.bucket_time, self.bucket_max)


@dataclass(frozen=True, slots=True)
class _PathState:
    """What is known of a path that is not used at present."""

    left_at: float
    congestion: PipeCongestionControl
    round_trip: dict[str, float]


_ROUND_TRIP = ("_rtt_latest", "_rtt_min", "_rtt_smoothed", "_rtt_variance")


class PipeRecovery(QuicPacketRecovery):
    """Decides what is lost and when to probe. Counts what it does."""

    _cc: PipeCongestionControl

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
        self._max_datagram_size = max_datagram_size
        self._path: Hashable = None
        self._left: dict[Hashable, _PathState] = {}  # the latest last
        self._former = FormerPackets()
        # When to give up all that a dead path has swallowed; None: each when its time is over.
        self._verdict_at: float | None = None
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

    @property
    def acknowledged_at(self) -> float | None:
        """When a packet that the present path has carried was last acknowledged; None: none was."""
        return self._cc.acknowledged_at

    @property
    def asked_at(self) -> float:
        """When an ack-eliciting packet was last sent; 0.0: never."""
        return self._time_of_last_sent_ack_eliciting_packet

    def switch(self, path: Hashable, now: float, round_trip_s: float | None) -> None:
        """The connection goes another way from now on (RFC 9000 §9.4); probe it at once.

        What was sent by the former path neither measures the new one nor congests it. It is given
        up a probe timeout of the former path after it was sent: so what that path still carries
        is not sent twice. If some of it is that old already, the former path has swallowed it, or
        the acknowledgements: the first one that comes by the new path tells what is to be sent
        again.

        :param path: names the way; None is the one that the connection began with. One that was
            left less than `REMEMBERED_S` ago is taken for what it was then.
        :param round_trip_s: of a path that is not remembered; None: not known.
        """
        timeout_s = self.get_probe_timeout()
        packets = [packet for space in self.spaces for packet in self._drain(space)]
        if self._rtt_initialized:
            round_trip = {each: getattr(self, each) for each in _ROUND_TRIP}
            self._left[self._path] = _PathState(now, self._cc, round_trip)
        while len(self._left) > REMEMBERED_PATHS:
            del self._left[next(iter(self._left))]
        self._path = path
        known = self._left.pop(path, None)
        self._pacer = PipePacer(max_datagram_size=self._max_datagram_size)
        if known is not None and now - known.left_at < REMEMBERED_S:
            self._resume_path(known)
        else:
            self._begin_path(round_trip_s)
        # Their acknowledgements may come by the new path, in its time.
        self._former.add(packets, timeout_s + (self.smoothed_rtt or round_trip_s or 0.0))
        has_swallowed = any(
            each.is_ack_eliciting and (each.sent_time or 0.0) + timeout_s <= now for each in packets
        )
        self._verdict_at = now + self.get_probe_timeout() if has_swallowed else None
        self._rtt_first_sample_time = now
        self._pto_count = 0
        self._send_probe()

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
        at = self._detection_time(amplification_limited)
        if not self._former:
            return at
        former_at = self._former.next_at if self._verdict_at is None else self._verdict_at
        return former_at if at is None else min(at, former_at)

    def on_loss_detection_timeout(self, *, now: float) -> None:
        """The time of `get_loss_detection_time` has come."""
        if self._former:
            if self._verdict_at is None:
                self.packets_lost += self._former.expire(now)
            elif self._verdict_at <= now:
                self._give_up_swallowed()
            at = self._detection_time(False)
            if at is None or now < at:
                return
        if self._get_loss_space() is None:
            self.probe_timeouts += 1
        # A microsecond later: aioquic sets the timer to `sent + delay` and decides by
        # `now - delay`, which may round the other way; the timer would come again and again.
        super().on_loss_detection_timeout(now=now + K_MICRO_SECOND)
        self._pto_count = min(self._pto_count, _MAX_BACKOFF)

    def on_ack_received(
        self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace
    ) -> None:
        """RFC 9002 §A.7; what the former path has carried counts for nothing but itself."""
        if self._former and space.is_application_data:
            self._former.acknowledge(ack_rangeset)
        super().on_ack_received(
            ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space
        )
        if self._verdict_at is not None and self._cc.acknowledged_at is not None:
            self._give_up_swallowed()

    def _give_up_swallowed(self) -> None:
        self.packets_lost += self._former.expire(float("inf"))
        self._verdict_at = None

    def _detection_time(self, amplification_limited: bool) -> float | None:
        at = super().get_loss_detection_time(amplification_limited=amplification_limited)
        if at is None or self._get_loss_space() is not None:
            return at
        return self.probe_at()

    def _drain(self, space: QuicPacketSpace) -> list[QuicSentPacket]:
        """Take all packets in flight away from a space: nothing of it counts any more."""
        packets = list(space.sent_packets.values())
        self._cc.on_packets_expired(packets=[each for each in packets if each.in_flight])
        space.sent_packets.clear()
        space.ack_eliciting_in_flight = 0
        space.loss_time = None
        return packets

    def _resume_path(self, known: _PathState) -> None:
        self._cc = known.congestion
        self._cc.resume()
        for name, value in known.round_trip.items():
            setattr(self, name, value)
        self._rtt_initialized = True
        self._pacer.update_rate(self._cc.congestion_window, self._rtt_smoothed)

    def _begin_path(self, round_trip_s: float | None) -> None:
        self._cc = PipeCongestionControl(max_datagram_size=self._max_datagram_size)
        self._rtt_initialized = False
        self._rtt_latest = self._rtt_smoothed = self._rtt_variance = 0.0
        self._rtt_min = float("inf")
        if round_trip_s is not None:
            # RFC 9002 §6.2.2: for the first probe timeout only; it is no sample.
            self._rtt_initial = max(round_trip_s, _SHORTEST_INITIAL_RTT_S)

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
