"""The congestion window, packet by packet: RFC 9002 §7, RFC 9438, RFC 9406."""

from itertools import count

from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.tls import Epoch

from peers.quic.congestion import MAXIMUM_WINDOW, PipeCongestionControl
from peers.quic.recovery import PipePacer

PACKET = 1200
RTT_S = 0.05


class Path:
    """A controller, and a way that takes all that it sends."""

    def __init__(self) -> None:
        self.control = PipeCongestionControl(max_datagram_size=PACKET)
        self.now = 10.0
        self._numbers = count()

    @property
    def window(self) -> int:
        return self.control.congestion_window

    def is_slow_start_over(self) -> bool:
        return self.control.ssthresh is not None

    def send(self) -> QuicSentPacket:
        packet = QuicSentPacket(
            epoch=Epoch.ONE_RTT,
            in_flight=True,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=next(self._numbers),
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=self.now,
            sent_bytes=PACKET,
        )
        self.control.on_packet_sent(packet=packet)
        return packet

    def fill(self) -> list[QuicSentPacket]:
        return [self.send() for _ in range((self.window - self.control.bytes_in_flight) // PACKET)]

    def round_trip(self, rtt_s: float = RTT_S, packets: int | None = None) -> None:
        """Use the whole window (or send so many), and have all of it acknowledged in tens."""
        sent = self.fill() if packets is None else [self.send() for _ in range(packets)]
        self.now += rtt_s
        for start in range(0, len(sent), 10):
            for packet in sent[start : start + 10]:
                self.control.on_packet_acked(now=self.now, packet=packet)
            self.control.on_rtt_measurement(now=self.now, rtt=rtt_s)

    def lose(self, packets: int) -> None:
        """Use the whole window and lose the first packets of it; the others arrive."""
        sent = self.fill()
        self.now += RTT_S
        self.control.on_packets_lost(now=self.now, packets=sent[:packets])
        for packet in sent[packets:]:
            self.control.on_packet_acked(now=self.now, packet=packet)
        self.control.on_rtt_measurement(now=self.now, rtt=RTT_S)


def test_slow_start_doubles_the_window_each_round_trip() -> None:
    path = Path()
    assert path.window == 10 * PACKET
    for doubled in (20, 40, 80, 160):
        path.round_trip()
        assert path.window == doubled * PACKET


def test_a_window_that_is_not_used_does_not_grow() -> None:
    path = Path()
    for _ in range(20):
        path.round_trip(packets=2)
    assert path.window == 10 * PACKET


def test_slow_start_ends_when_a_queue_builds_up_and_not_for_jitter() -> None:
    path = Path()
    for n in range(6):
        path.round_trip(RTT_S + 0.001 * (n % 2))
    assert not path.is_slow_start_over()
    window = path.window
    path.round_trip(RTT_S + 0.02)
    path.round_trip(RTT_S + 0.02)
    assert path.is_slow_start_over()
    assert path.window <= 4 * window


def test_a_loss_takes_three_tenths_once_per_round_trip() -> None:
    path = Path()
    for _ in range(5):
        path.round_trip()
    window = path.window
    sent = path.fill()
    path.now += RTT_S
    path.control.on_packets_lost(now=path.now, packets=sent[:5])
    path.control.on_packets_lost(now=path.now, packets=sent[5:9])
    assert path.window == int(window * 0.7)
    path.control.on_packets_expired(packets=sent[9:])
    assert path.control.bytes_in_flight == 0
    path.now += 0.001
    path.lose(1)
    assert path.window < int(window * 0.7)


def test_the_window_never_falls_below_two_packets() -> None:
    path = Path()
    for _ in range(30):
        path.lose(1)
    assert path.window == 2 * PACKET


def test_after_a_loss_the_window_comes_back_slows_down_there_and_goes_on() -> None:
    path = Path()
    for _ in range(7):
        path.round_trip()
    before = path.window
    path.lose(1)
    windows = []
    for _ in range(400):
        path.round_trip()
        windows.append(path.window)
    assert windows == sorted(windows)
    back_after = next(n for n, window in enumerate(windows) if window >= 0.95 * before)
    assert back_after * RTT_S < 15.0
    assert windows[-1] > before


def test_after_an_outage_slow_start_leads_back_to_near_the_old_window() -> None:
    path = Path()
    for _ in range(7):
        path.round_trip()
    before = path.window
    sent = path.fill()
    path.now += 20.0
    path.control.on_packets_lost(now=path.now, packets=sent)
    path.control.on_persistent_congestion()
    assert path.window == 2 * PACKET
    for _ in range(10):
        path.now += 0.001
        path.round_trip()
    assert path.window >= 0.6 * before


def test_the_window_has_an_upper_bound() -> None:
    path = Path()
    path.control.congestion_window = MAXIMUM_WINDOW - PACKET
    for _ in range(3):
        path.round_trip()
    assert path.window <= MAXIMUM_WINDOW + PACKET


def test_a_fast_path_may_send_in_bursts_that_suit_the_timers() -> None:
    pacer = PipePacer(max_datagram_size=PACKET)
    pacer.update_rate(congestion_window=1_000_000, smoothed_rtt=0.001)
    assert pacer.packet_time is not None
    assert round(pacer.bucket_max / pacer.packet_time) == 64
    pacer.update_rate(congestion_window=12_000, smoothed_rtt=0.1)
    assert round(pacer.bucket_max / pacer.packet_time) == 16
    # A little faster than a window per round trip.
    assert 12_000 / PACKET * pacer.packet_time < 0.1
