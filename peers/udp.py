"""A real UDP socket for one event loop: batched both ways, with large buffers, never blocking.

Receiving drains the socket once per wake-up, so that what stands above it can do its work once per
batch; where the kernel can (UDP_GRO, "generic receive offload"), datagrams that came close together
come in one call, and are cut apart here. Sending hands runs of equally long datagrams to the kernel
in one call where the kernel can cut them apart again (UDP_SEGMENT, "generic segmentation offload").
When the socket's buffer is full, datagrams wait in a bounded queue: the pacing above takes a delay
for what it is, while loss would cost it half its rate.
"""

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import StrEnum

from relay.wire.address import Address, SockAddr

MAX_BATCH = 64
"""Datagrams read per wake-up, and what the last call brings: enough to share the cost, few enough
to acknowledge in time."""

BUFFER_BYTES = 4 * 2**20
"""Socket buffers that we ask for, each way; the system may give less (net.core.rmem_max)."""

MAX_QUEUED = 2048
"""Datagrams (2.5 MB of full ones) that wait for the socket; more are dropped."""

LARGEST_DATAGRAM = 2048
"""Bytes; peers agree on 1,200. A longer one is dropped, for it would be cut."""

_SOL_UDP = 17  # as linux/udp.h has it; the socket module names neither
_UDP_SEGMENT = 103
_UDP_GRO = 104
_LARGEST_BURST = 65_535
"""Bytes that one call may bring: several datagrams of one source."""
_ROOM_FOR_SIZE = socket.CMSG_SPACE(4)
"""A message beside such a burst says how long its datagrams are, as an int of C."""
_MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9."""
_MAX_SEGMENTED_BYTES = 65_000
"""Less than the largest UDP payload of either family (65,507 for IPv4)."""

# linux/in.h and linux/in6.h. PROBE sets "don't fragment" and, unlike DO, believes no ICMP message
# that claims a smaller path MTU: those can be forged, and 1,200 bytes is all that we send.
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3

_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})
_CANNOT_SEGMENT = frozenset(
    {errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE}
)


class Drop(StrEnum):
    """Why a socket dropped a datagram."""

    QUEUE_FULL = "queue_full"
    """The socket's buffer and our queue were full."""
    UNREACHABLE = "unreachable"
    """The system knows no way there: no route, no such network, no address to send from."""
    REFUSED = "refused"
    """The system would not send it: a firewall, its size, or another error."""
    TOO_LONG = "too_long"
    """It came in, and is longer than any that a peer or a relay sends."""
    CLOSED = "closed"
    """The socket was closed before it went out."""


class UdpSocket:
    """One non-blocking UDP socket, bound to the wildcard address and a free port.

    It follows the device from network to network: the kernel picks the local address anew for
    each datagram.
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        """:raises OSError: the system has no such family, or no socket left."""
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            _prepare(self._socket, family)
            self._socket.bind(("", 0))
        except OSError:
            self._socket.close()
            raise
        self._local = Address.from_sockaddr(self._socket.getsockname())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receive: Callable[[list[tuple[bytes, Address]]], None] | None = None
        self._queue: deque[tuple[bytes, SockAddr]] = deque()
        self._segmenting = sys.platform == "linux"
        # One relay, one address: the last one is nearly always the next one.
        self._last_source: tuple[SockAddr, Address] | None = None
        self._last_destination: tuple[Address, SockAddr] | None = None
        self.dropped: Counter[Drop] = Counter()
        """Datagrams dropped since the start, by reason."""

    @property
    def local(self) -> Address:
        """The wildcard address and the port."""
        return self._local

    def start(self, receive: Callable[[list[tuple[bytes, Address]]], None]) -> None:
        """Hand batches to `receive` from now on. To be called once, inside the event loop."""
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        """Send in order; drops and counts what cannot be sent or queued."""
        if self._socket.fileno() < 0:
            self.dropped[Drop.CLOSED] += len(datagrams)
            return
        try:
            sockaddr = self._sockaddr(destination)
        except OSError:
            self.dropped[Drop.UNREACHABLE] += len(datagrams)
            return
        done = 0 if self._queue else self._send_now(datagrams, sockaddr)
        if done < len(datagrams):
            self._enqueue(datagrams[done:], sockaddr)

    def close(self) -> None:
        """Stop at once."""
        if self._socket.fileno() < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        self.dropped[Drop.CLOSED] += len(self._queue)
        self._queue.clear()
        self._receive = None
        self._socket.close()

    def _readable(self) -> None:
        batch: list[tuple[bytes, Address]] = []
        receive = self._socket.recvmsg
        for _ in range(MAX_BATCH):
            try:
                burst, beside, _, sockaddr = receive(_LARGEST_BURST, _ROOM_FOR_SIZE)
            except BlockingIOError:
                break
            except OSError:
                continue  # an earlier send's ICMP error, reported here and with that gone
            last = self._last_source
            if last is None or last[0] != sockaddr:
                self._last_source = last = (sockaddr, canonical(sockaddr))
            size = _size_of_each(beside) or len(burst)
            if size > LARGEST_DATAGRAM:
                self.dropped[Drop.TOO_LONG] += -(-len(burst) // size)
            elif size == len(burst):
                batch.append((burst, last[1]))
            else:
                source = last[1]
                batch += [
                    (burst[start : start + size], source) for start in range(0, len(burst), size)
                ]
            if len(batch) >= MAX_BATCH:
                break
        if batch and self._receive is not None:
            self._receive(batch)

    def _send_now(self, datagrams: Sequence[bytes], sockaddr: SockAddr) -> int:
        """Send until the buffer is full; returns how many are dealt with."""
        done = 0
        while done < len(datagrams):
            run = _run_length(datagrams, done) if self._segmenting else 1
            try:
                if run > 1:
                    self._send_run(datagrams[done : done + run], sockaddr)
                else:
                    self._socket.sendto(datagrams[done], sockaddr)
            except OSError as error:
                if error.errno in _FULL:
                    break
                if run > 1 and error.errno in _CANNOT_SEGMENT:
                    self._segmenting = False  # an old kernel, or a device that cannot: one by one
                    continue
                self.dropped[_reason(error)] += run
            done += run
        return done

    def _send_run(self, run: Sequence[bytes], sockaddr: SockAddr) -> None:
        size = struct.pack("=H", len(run[0]))
        self._socket.sendmsg(run, [(_SOL_UDP, _UDP_SEGMENT, size)], 0, sockaddr)

    def _enqueue(self, datagrams: Sequence[bytes], sockaddr: SockAddr) -> None:
        room = MAX_QUEUED - len(self._queue)
        if room < len(datagrams):
            self.dropped[Drop.QUEUE_FULL] += len(datagrams) - room
        self._queue.extend((datagram, sockaddr) for datagram in datagrams[:room])
        if self._loop is None:  # not started: nobody would ever empty the queue
            self.dropped[Drop.QUEUE_FULL] += len(self._queue)
            self._queue.clear()
        elif self._queue:
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        while self._queue:
            datagram, sockaddr = self._queue[0]
            if not self._send_now([datagram], sockaddr):
                return
            self._queue.popleft()
        if self._loop is not None:
            self._loop.remove_writer(self._socket.fileno())

    def _sockaddr(self, destination: Address) -> SockAddr:
        last = self._last_destination
        if last is None or last[0] != destination:
            self._last_destination = last = (destination, _to_sockaddr(destination))
        return last[1]


def _prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    if family == socket.AF_INET6:
        # One family per socket: addresses then have one spelling only.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # kernels before 5.0
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)


def _size_of_each(beside: Sequence[tuple[int, int, bytes]]) -> int:
    """How long the datagrams of a burst are, but perhaps the last; 0: it is one datagram."""
    for level, kind, data in beside:
        if (level, kind) == (_SOL_UDP, _UDP_GRO):
            return int.from_bytes(data, sys.byteorder)
    return 0


def _run_length(datagrams: Sequence[bytes], start: int) -> int:
    """How many from `start` on may go in one call: equally long, but the last may be shorter."""
    size = len(datagrams[start])
    if size == 0:
        return 1
    limit = min(len(datagrams) - start, _MAX_SEGMENTS, _MAX_SEGMENTED_BYTES // size)
    count = 1
    while count < limit:
        length = len(datagrams[start + count])
        if length > size or length == 0:
            break
        count += 1
        if length < size:
            break
    return count


def _reason(error: OSError) -> Drop:
    match error.errno:
        case (
            errno.ENETUNREACH
            | errno.EHOSTUNREACH
            | errno.ENETDOWN
            | errno.EHOSTDOWN
            | errno.EADDRNOTAVAIL
            | errno.EAFNOSUPPORT
        ):
            return Drop.UNREACHABLE
        case _:
            return Drop.REFUSED


def canonical(sockaddr: SockAddr) -> Address:
    """Spell it as `Address` does; a link-local address names its interface."""
    if len(sockaddr) == 4 and sockaddr[3] and "%" not in sockaddr[0]:
        try:
            interface = socket.if_indextoname(sockaddr[3])
        except OSError:  # it has just gone
            interface = str(sockaddr[3])
        return Address(f"{sockaddr[0]}%{interface}", sockaddr[1])
    return Address.from_sockaddr(sockaddr)


def _to_sockaddr(address: Address) -> SockAddr:
    """:raises OSError: it names an interface that does not exist."""
    if "%" not in address.host:
        return (address.host, address.port)
    host, _, interface = address.host.partition("%")
    scope = int(interface) if interface.isdecimal() else socket.if_nametoindex(interface)
    return (host, address.port, 0, scope)
