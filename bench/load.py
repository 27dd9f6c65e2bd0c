"""The load: packets from one end through a forwarder to the other, counted, and timed.

Two UDP sockets on loopback are the two ends. A run is bounded by time, and either by the number of
packets on their way (closed loop: the capacity) or by a rate (open loop: loss and latency). Packets
have a QUIC short header, a registered connection ID, and the time when they were sent.
"""

import errno
import ipaddress
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relay.forwarding.batch_buffers import (
    Bytes,
    ReceiveBuffers,
    SendMessages,
    address_of,
    addresses_of_rows,
)
from relay.forwarding.batch_calls import (
    CONTROL,
    CONTROL_LENGTH,
    NAME,
    NAME_LENGTH,
    SOL_UDP,
    UDP_SEGMENT,
    load_calls,
    set_gro,
)
from relay.forwarding.batch_table import encode_control, encode_name
from relay.wire.address import Address

BATCH = 64
CID_AT = 1
"""A short header is one byte, then the connection ID (RFC 8999 §5.2)."""
STAMP_AT = 13
SHORT_HEADER = 0x40
MAX_SECONDS = 30.0
MAX_PACKETS_PER_SECOND = 5_000_000
LOST_AFTER_S = 0.02
"""With nothing received for so long, what was on its way is counted as lost."""

_calls = load_calls()


@dataclass(frozen=True, slots=True)
class Burst:
    """What one end sends."""

    size: int
    """Bytes of a packet (UDP payload)."""
    segments: int = 1
    """Packets that leave as one GSO message, with one connection ID; 1: no GSO."""
    mixed: bool = False
    """Every packet of a GSO message has its own connection ID."""
    prefix: bytes = b""
    """Before the packet: a TURN channel header."""


class Sender:
    """Sends batches of prepared packets from `sock` to `destination`."""

    def __init__(
        self,
        sock: socket.socket,
        destination: tuple[str, int],
        burst: Burst,
        connection_ids: Sequence[bytes],
    ) -> None:
        if not ipaddress.ip_address(destination[0]).is_loopback:
            raise ValueError(f"{destination[0]} is not a loopback address")
        self._fd = sock.fileno()
        self.segments = burst.segments
        self._messages = SendMessages(BATCH)
        step = len(burst.prefix) + burst.size
        self._data: Bytes = np.zeros((BATCH, burst.segments * step), np.uint8)
        packets = self._data.reshape(BATCH, burst.segments, step)
        packets[:, :, : len(burst.prefix)] = np.frombuffer(burst.prefix, np.uint8)
        packets[:, :, len(burst.prefix)] = SHORT_HEADER
        self._ids = _fields(self._data, step, len(burst.prefix) + CID_AT, np.dtype("V12"))
        self._stamps = _fields(self._data, step, len(burst.prefix) + STAMP_AT, np.dtype("<i8"))
        self._per_message = burst.segments if burst.mixed else 1
        # A batch more than there are, so that every batch is one slice of it.
        self._period = len(connection_ids)
        most = BATCH * self._per_message
        pool = list(connection_ids) + list(connection_ids) * -(-most // self._period)
        self._pool = np.frombuffer(b"".join(pool), "V12")
        self._next = 0
        self.step = max(1, BATCH // burst.segments)
        """Messages that are BATCH packets."""
        self._point(Address(*destination), burst.segments * step, step)

    def _point(self, destination: Address, length: int, segment: int) -> None:
        headers, parts = self._messages.headers, self._messages.parts
        self._name = np.frombuffer(encode_name(destination), np.uint8)
        headers[:, NAME] = address_of(self._name)
        headers[:, NAME_LENGTH] = len(self._name)
        parts[:, 0] = addresses_of_rows(self._data)
        parts[:, 1] = length
        if self.segments > 1:
            cut = (SOL_UDP, UDP_SEGMENT, segment.to_bytes(2, "little"))
            self._control = np.frombuffer(encode_control([cut]), np.uint8)
            headers[:, CONTROL] = address_of(self._control)
            headers[:, CONTROL_LENGTH] = len(self._control)

    def send(self, count: int) -> int:
        """Send up to `count` messages (at most BATCH); returns how many packets left."""
        picked = count * self._per_message
        ids = self._pool[self._next : self._next + picked].reshape(count, self._per_message)
        self._ids[:count] = ids
        self._next = (self._next + picked) % self._period
        self._stamps[:count] = time.perf_counter_ns()
        done = _calls.send(self._fd, self._messages.address, count, socket.MSG_DONTWAIT)
        if done < 0 and -done not in (errno.EAGAIN, errno.ENOBUFS):
            raise OSError(-done, errno.errorcode[-done])
        return max(done, 0) * self.segments


class Receiver:
    """Counts what arrives at `sock`, without blocking; only the first bytes are copied."""

    def __init__(
        self, sock: socket.socket, *, gro: bool = False, timed: bool = False, prefix: int = 0
    ) -> None:
        """`prefix`: bytes that stand before each packet."""
        self._fd = sock.fileno()
        set_gro(sock, on=gro)
        self._gro = gro
        self._buffers = ReceiveBuffers(BATCH, 64, 28, socket.CMSG_SPACE(4))
        data = self._buffers.data
        self._stamps = np.ndarray((BATCH,), "<i8", data, STAMP_AT + prefix, (data.strides[0],))
        self._segments = self._buffers.control.view(np.uint32)[:, 4]
        self._timed = timed
        self.delays: list[NDArray[np.int64]] = []
        """Nanoseconds from send to receipt, a batch each, when `timed`."""

    def receive(self) -> int:
        """Take up to one batch; returns how many packets it was."""
        buffers = self._buffers
        if self._gro:
            buffers.rearm()
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        count = _calls.receive(self._fd, buffers.address, BATCH, flags)
        if count <= 0:
            return 0
        if self._timed:
            self.delays.append(time.perf_counter_ns() - self._stamps[:count])
        if not self._gro:
            return count
        lengths = buffers.lengths[:count].astype(np.int64)
        sizes = np.where(buffers.control_lengths[:count], self._segments[:count], lengths)
        return int((-(-lengths // sizes)).sum())


@dataclass(slots=True)
class Counts:
    """What one run did."""

    sent: int = 0
    received: int = 0
    lost: int = 0
    seconds: float = 0.0
    before: int = 0
    """Received in the warm-up."""


def closed_loop(
    flows: Sequence[tuple[Sender, Receiver]], window: int, seconds: float, warm_up: float = 0.2
) -> Counts:
    """Keep `window` packets of each flow on their way; count what arrives after the warm-up."""
    _check_time(seconds + warm_up)
    on_way = [0] * len(flows)
    counts = Counts()
    start = time.perf_counter()
    counting = start + warm_up
    end = counting + seconds
    last = start
    began = 0.0
    while (now := time.perf_counter()) < end:
        if not began and now >= counting:
            counts, began = Counts(before=counts.received), now
        for index, (sender, receiver) in enumerate(flows):
            arrived = receiver.receive()
            if arrived:
                last = now
                counts.received += arrived
                on_way[index] = max(0, on_way[index] - arrived)
            if on_way[index] < window:
                left = sender.send(sender.step)
                on_way[index] += left
                counts.sent += left
        if now - last > LOST_AFTER_S:
            counts.lost += sum(on_way)
            on_way = [0] * len(flows)
            last = now
    counts.seconds = time.perf_counter() - began
    return counts


def open_loop(
    flows: Sequence[tuple[Sender, Receiver]], rate: float, seconds: float, linger: float = 0.2
) -> Counts:
    """Send `rate` packets/s, shared among the flows, whatever arrives; then wait for the rest."""
    _check_time(seconds)
    if not 0 < rate <= MAX_PACKETS_PER_SECOND:
        raise ValueError(f"rate {rate} is not in 0 to {MAX_PACKETS_PER_SECOND} packets/s")
    counts = Counts()
    start = time.perf_counter()
    stop = start + seconds
    while (now := time.perf_counter()) < stop + linger:
        due = int(min(now, stop) * rate - start * rate) - counts.sent
        for number, (sender, receiver) in enumerate(flows):
            share = (due + number) // len(flows)
            if share > 0:
                counts.sent += sender.send(min(-(-share // sender.segments), BATCH))
            counts.received += receiver.receive()
        if now > stop and counts.received >= counts.sent:
            break
    counts.seconds = seconds
    counts.lost = counts.sent - counts.received
    return counts


def quantiles(receivers: Sequence[Receiver]) -> dict[str, float]:
    """Latency in microseconds: p50, p99, p99.9 and the greatest."""
    parts = [part for receiver in receivers for part in receiver.delays]
    if not parts:
        return {}
    delays = np.concatenate(parts) / 1000.0
    p50, p99, p999, most = np.quantile(delays, [0.5, 0.99, 0.999, 1.0])
    return {"p50": float(p50), "p99": float(p99), "p999": float(p999), "max": float(most)}


def settle(sock: socket.socket, seconds: float = 0.05) -> None:
    """Throw away what is still on its way to `sock` until nothing came for `seconds`."""
    while select.select([sock], [], [], seconds)[0]:
        sock.recv(65536)


def _fields(
    data: Bytes, step: int, offset: int, dtype: "np.dtype[np.void] | np.dtype[np.int64]"
) -> NDArray[np.generic]:
    # One field of every packet, as an array of messages by segments.
    shape = (data.shape[0], data.shape[1] // step)
    return np.ndarray(shape, dtype, data, offset, (data.strides[0], step))


def _check_time(seconds: float) -> None:
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{seconds} s is not in 0 to {MAX_SECONDS} s")
