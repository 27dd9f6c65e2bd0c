"""Packets that were sent by a path which is no longer used (RFC 9000 §9.4).

They may still arrive, or be acknowledged; of the path in use they say nothing.
"""

from bisect import bisect_left
from collections.abc import Iterable

from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet


class FormerPackets:
    """Each is acknowledged, or lost when its time is over: by the clock, not by others' fate."""

    def __init__(self) -> None:
        # By number, in rising order: when each is lost, and the packet.
        self._packets: dict[int, tuple[float, QuicSentPacket]] = {}
        self._next_at = float("inf")

    def __bool__(self) -> bool:
        return bool(self._packets)

    @property
    def next_at(self) -> float:
        """When `expire` is to be called; infinity: never."""
        return self._next_at

    def add(self, packets: Iterable[QuicSentPacket], patience_s: float) -> None:
        """Take packets over, sent later than all before; each is lost `patience_s` after that."""
        for packet in packets:
            at = (packet.sent_time or 0.0) + patience_s
            self._packets[packet.packet_number] = (at, packet)
            self._next_at = min(self._next_at, at)

    def acknowledge(self, ranges: RangeSet) -> None:
        """The other end has received these packet numbers."""
        numbers = list(self._packets)
        for each in ranges:
            start, stop = bisect_left(numbers, each.start), bisect_left(numbers, each.stop)
            for number in numbers[start:stop]:
                _, packet = self._packets.pop(number)
                _tell(packet, QuicDeliveryState.ACKED)
        self._settle()

    def expire(self, now: float) -> int:
        """Give up those whose time is over: their data is sent again.

        Returns how many of them should have been acknowledged.
        """
        due = [number for number, (at, _) in self._packets.items() if at <= now]
        lost = 0
        for number in due:
            _, packet = self._packets.pop(number)
            lost += packet.is_ack_eliciting
            _tell(packet, QuicDeliveryState.LOST)
        self._settle()
        return lost

    def _settle(self) -> None:
        self._next_at = min((at for at, _ in self._packets.values()), default=float("inf"))


def _tell(packet: QuicSentPacket, state: QuicDeliveryState) -> None:
    for handler, arguments in packet.delivery_handlers:
        handler(state, *arguments)
