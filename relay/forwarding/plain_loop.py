"""The forwarding loop in plain Python: one `recvmsg_into` and one `sendmsg` per datagram.

It implements `relay.forwarding.worker.ForwardingLoop`; a quicker one can take its place behind the
same.
"""

import errno
import math
import select
import socket
import time
from collections.abc import Sequence

from relay.core.bucket import Used
from relay.core.path import Path
from relay.crowding import short_while_forwarding
from relay.forwarding import ancillary
from relay.forwarding.ancillary import Ancillary
from relay.forwarding.channel import MAX_UP_DATAGRAM, Command, Counters, Sent, up_header
from relay.forwarding.door import HEAVY_OVER_S, Door
from relay.forwarding.raw_table import (
    ALLOWANCE_USED,
    CONTROL_QUEUE_FULL,
    FORWARDED,
    HTTP3,
    HTTP3_TOO_OFTEN,
    OUTCOMES,
    RATE_LIMITED,
    SEND_FAILED,
    TOO_BIG,
    RawTable,
    Route,
)
from relay.forwarding.sockets import is_wildcard
from relay.wire.address import Address, SockAddr

BATCH = 64
"""Datagrams read from one socket before the others, and the commands, get their turn."""

_BUFFER_SIZE = 65_536
"""No UDP datagram is longer, so none is ever cut."""


class PlainLoop:
    """Forwards what arrives on one socket per listener."""

    def __init__(
        self, sockets: Sequence[socket.socket], up: socket.socket, wake: Sequence[int]
    ) -> None:
        """All sockets are non-blocking.

        :param sockets: this worker's own, by the listener's index.
        :param up: takes messages for the control process.
        :param wake: file descriptors for which `forward` returns when one is readable.
        """
        self._up = up
        self._hosts = [Address.from_sockaddr(each.getsockname()).host for each in sockets]
        wildcard = [is_wildcard(Address(host, 0)) for host in self._hosts]
        self._table = RawTable(sockets, wildcard)
        self._counts = [0] * len(OUTCOMES)
        is_core_short = short_while_forwarding(lambda: self._counts[FORWARDED], HEAVY_OVER_S)
        self.door = Door[SockAddr](is_core_short=is_core_short)
        """What of the datagrams that may be HTTP/3 is passed up."""
        self._bytes_forwarded = 0
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._wake = frozenset(wake)
        self._listeners = {each.fileno(): (index, each) for index, each in enumerate(sockets)}
        self._owed: list[int] = []
        """Readable sockets that wait until the commands have been followed."""
        self._poll = select.poll()
        for descriptor in (*self._listeners, *wake):
            self._poll.register(descriptor, select.POLLIN)

    def apply(self, command: Command) -> None:
        """Follow one command before the next datagram."""
        self._table.apply(command)

    def forward(self, until: float) -> None:
        """Forward until the monotonic clock says `until` or a `wake` descriptor is readable.

        Those come first: what a peer sends after the relay has answered its registration finds
        the registration followed. But each call serves every readable socket once.
        """
        while True:
            owed, self._owed = self._owed, []
            for descriptor in owed:
                self._drain(*self._listeners[descriptor])
            left = until - time.monotonic()
            if left <= 0:
                return
            ready = [descriptor for descriptor, _ in self._poll.poll(math.ceil(left * 1000))]
            self._owed = [descriptor for descriptor in ready if descriptor not in self._wake]
            if len(self._owed) < len(ready):
                return

    def counters(self) -> Counters:
        """Totals since the start."""
        return Counters(tuple(self._counts), self._bytes_forwarded)

    @property
    def is_metered(self) -> bool:
        """Whether anybody is charged for what he sends."""
        return bool(self._table.meter.payers)

    def take_used(self, at_most: int) -> list[Used]:
        """What was taken from the buckets since each was last returned."""
        return self._table.meter.take_used(at_most)

    def take_sent(self, at_most: int) -> list[Sent]:
        """What senders have had forwarded since each was last returned, if they are counted."""
        tally = self._table.tally
        taken = tally.take(at_most) if tally is not None else []
        return [Sent(Address.from_sockaddr(each), *counts) for each, *counts in taken]

    def take_heard(self, at_most: int) -> list[Address]:
        """Registered sources heard from since they were last returned."""
        return self._table.take_heard(at_most)

    def _drain(self, listener: int, receiver: socket.socket) -> None:
        """Handle what waits in one socket, at most `BATCH` datagrams."""
        receive = receiver.recvmsg_into
        decide = self._table.decide
        payers, meter, tally = self._table.meter.payers, self._table.meter, self._table.tally
        buffer = self._buffer
        buffers = [buffer]
        counts = self._counts
        beside: list[Ancillary]
        source: SockAddr
        ecn_type, ecn_at = ancillary.ECN_PLACES[receiver.family]
        for _ in range(BATCH):
            try:
                size, beside, _, source = receive(buffers, ancillary.RECEIVE_SIZE)
            except BlockingIOError:
                return
            decision = decide(buffer, size, source)
            if isinstance(decision, Route):
                if payers and (full := meter.take(source, 1, size)) is not None:
                    counts[ALLOWANCE_USED if full.is_shut else RATE_LIMITED] += 1
                    continue
                ecn = 0
                for _, kind, data in beside:
                    if kind == ecn_type:
                        ecn = data[ecn_at] & ancillary.ECN_MASK
                messages = decision.ancillary[ecn]
                try:
                    if messages:
                        decision.socket.sendmsg((buffer[:size],), messages, 0, decision.destination)
                    else:  # the usual case, and quicker
                        decision.socket.sendto(buffer[:size], decision.destination)
                except OSError as error:
                    counts[TOO_BIG if error.errno == errno.EMSGSIZE else SEND_FAILED] += 1
                else:
                    counts[FORWARDED] += 1
                    self._bytes_forwarded += size
                    if tally is not None:
                        tally.add(source, 1, size)
            elif decision == HTTP3:
                if self.door.admits(source, self._table.is_source(source)):
                    counts[self._pass_up(listener, size, beside, source)] += 1
                else:
                    counts[HTTP3_TOO_OFTEN] += 1
            else:
                counts[decision] += 1

    def _pass_up(self, listener: int, size: int, beside: list[Ancillary], source: SockAddr) -> int:
        """Give the datagram in the buffer to the control process; returns what became of it."""
        if size > MAX_UP_DATAGRAM:
            return TOO_BIG
        local = ancillary.read_local(beside) or self._hosts[listener]
        path = Path(Address.from_sockaddr(source), listener, local)
        header = up_header(path, ancillary.read_ecn(beside))
        try:
            self._up.sendmsg((header, self._buffer[:size]))
        except OSError:  # full, or the control process is gone and the stream will soon tell
            return CONTROL_QUEUE_FULL
        return HTTP3
