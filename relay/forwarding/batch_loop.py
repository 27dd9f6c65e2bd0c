"""The forwarding loop in batches: two system calls and a handful of array steps for 64 datagrams.

It implements `relay.forwarding.worker.ForwardingLoop` with the decisions of `relay.core.table`.
Most batches are plain: short headers, known connection IDs, registered sources. Those go through
without a step per datagram but its dictionary lookups. In any other batch each message that is not
plain is looked at by itself; the rest still leaves together, in the order in which it came.

With GRO one message may be many datagrams, of several connections: each is decided by itself, and
only neighbours that go the same way leave as one GSO message.
"""

import errno
import math
import select
import socket
import time
from collections.abc import Sequence

import numpy as np

from relay.core.bucket import Used
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.crowding import short_while_forwarding
from relay.forwarding.ancillary import read_ecn, read_local
from relay.forwarding.batch_calls import BatchCalls, set_gro
from relay.forwarding.batch_inlet import Inlet
from relay.forwarding.batch_outlet import Outlet, Pieces, Staged
from relay.forwarding.batch_table import BatchTable, SourceKey, address_of_key
from relay.forwarding.channel import MAX_UP_DATAGRAM, Command, Counters, Sent, up_header
from relay.forwarding.door import HEAVY_OVER_S, Door
from relay.forwarding.sockets import is_wildcard
from relay.wire.address import Address
from relay.wire.connection_id import is_towards_http3
from relay.wire.invariants import (
    LONG_HEADER_BIT,
    SHORT_HEADER_MINIMUM,
    LongHeader,
    Malformed,
    parse_invariants,
)

BATCH = 64
"""Messages read from one socket before the others, and the commands, get their turn."""

_FEW = 3
"""So few messages are quicker done one by one than as arrays."""

_SEND_BATCH = 256
"""Messages that leave in one call at most; a batch with GRO may make more of them than it had."""

_OUTCOMES = tuple(Outcome)
_FORWARDED = _OUTCOMES.index(Outcome.FORWARDED)
_HTTP3 = _OUTCOMES.index(Outcome.HTTP3)
_MALFORMED = _OUTCOMES.index(Outcome.MALFORMED)
_UNKNOWN_CID = _OUTCOMES.index(Outcome.UNKNOWN_CID)
_UNREGISTERED_SOURCE = _OUTCOMES.index(Outcome.UNREGISTERED_SOURCE)
_STRAY_PEER_PACKET = _OUTCOMES.index(Outcome.STRAY_PEER_PACKET)
_TOO_BIG = _OUTCOMES.index(Outcome.TOO_BIG)
_SEND_FAILED = _OUTCOMES.index(Outcome.SEND_FAILED)
_RATE_LIMITED = _OUTCOMES.index(Outcome.RATE_LIMITED)
_ALLOWANCE_USED = _OUTCOMES.index(Outcome.ALLOWANCE_USED)
_HTTP3_TOO_OFTEN = _OUTCOMES.index(Outcome.HTTP3_TOO_OFTEN)
_CONTROL_QUEUE_FULL = _OUTCOMES.index(Outcome.CONTROL_QUEUE_FULL)

_NO_GSO_HERE = frozenset({errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT})
"""The way out cannot cut messages, now or ever (EIO: no checksum offload)."""


class BatchLoop:
    """Forwards what arrives on one socket per listener."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        up: socket.socket,
        wake: Sequence[int],
        calls: BatchCalls,
    ) -> None:
        """All sockets are non-blocking; `relay.forwarding.plain_loop` describes the parameters."""
        self._up = up
        self._hosts = [Address.from_sockaddr(each.getsockname()).host for each in sockets]
        wildcard = [is_wildcard(Address(host, 0)) for host in self._hosts]
        for each in sockets:
            set_gro(each, on=True)
        self._inlets = [
            Inlet(each, wild, calls, BATCH) for each, wild in zip(sockets, wildcard, strict=True)
        ]
        self._outlets = [
            Outlet(each, wild, calls, _SEND_BATCH)
            for each, wild in zip(sockets, wildcard, strict=True)
        ]
        self._can_cut = True
        self._table = BatchTable(wildcard)
        self._meter = self._table.meter
        self._counts = [0] * len(_OUTCOMES)
        is_core_short = short_while_forwarding(lambda: self._counts[_FORWARDED], HEAVY_OVER_S)
        self.door = Door[SourceKey](is_core_short=is_core_short)
        """What of the datagrams that may be HTTP/3 is passed up."""
        self._only_listener: int | None = None
        self._bytes_forwarded = 0
        self._wake = frozenset(wake)
        self._listeners = {each.fileno(): index for index, each in enumerate(sockets)}
        self._owed: list[int] = []
        """Readable sockets that wait until the commands have been followed."""
        self._poll = select.poll()
        for descriptor in (*self._listeners, *wake):
            self._poll.register(descriptor, select.POLLIN)

    def apply(self, command: Command) -> None:
        """Follow one command before the next datagram."""
        self._table.apply(command)
        self._only_listener = self._table.only_listener

    def forward(self, until: float) -> None:
        """Forward until the monotonic clock says `until` or a `wake` descriptor is readable.

        Those come first, but each call serves every readable socket once.
        """
        poll = self._poll.poll
        wake = self._wake
        while True:
            owed, self._owed = self._owed, []
            for descriptor in owed:
                self._drain(self._listeners[descriptor])
            left = until - time.monotonic()
            if left <= 0:
                return
            ready = [descriptor for descriptor, _ in poll(math.ceil(left * 1000))]
            self._owed = [descriptor for descriptor in ready if descriptor not in wake]
            if len(self._owed) < len(ready):
                return

    def counters(self) -> Counters:
        """Totals since the start."""
        return Counters(tuple(self._counts), self._bytes_forwarded)

    @property
    def is_metered(self) -> bool:
        """Whether anybody is charged for what he sends."""
        return bool(self._meter.payers)

    def take_used(self, at_most: int) -> list[Used]:
        """What was taken from the buckets since each was last returned."""
        return self._meter.take_used(at_most)

    def take_sent(self, at_most: int) -> list[Sent]:
        """What senders have had forwarded since each was last returned, if they are counted."""
        tally = self._table.tally
        taken = tally.take(at_most) if tally is not None else []
        return [Sent(address_of_key(each), *counts) for each, *counts in taken]

    def take_heard(self, at_most: int) -> list[Address]:
        """Registered sources heard from since they were last returned."""
        return self._table.take_heard(at_most)

    def _drain(self, listener: int) -> None:
        """Handle what waits in one socket, at most `BATCH` messages."""
        inlet = self._inlets[listener]
        count = inlet.receive()
        if not count or (count <= _FEW and self._pass_few(inlet, count)):
            return
        table = self._table
        keys = inlet.keys(count)
        registered = table.heard.issuperset(keys) or table.hear(keys)
        sizes = inlet.sizes(count)
        recent = table.recent
        cids = inlet.cids(count)
        rows = [recent[cid[0]].get(cid) for cid in cids]
        if not all(rows):
            rows = [row or table.row_of(cid) for row, cid in zip(rows, cids, strict=True)]
        usual = registered and all(rows) and min(sizes) >= SHORT_HEADER_MINIMUM
        if usual and inlet.are_plain(count) and self._may_pass(keys, sizes):
            self._forward(inlet.stage(count, np.array(rows)), count, sum(sizes))
        elif registered or not self._split(listener, keys, sizes, rows):
            self._sort(listener, keys, sizes, rows, range(count))

    def _split(
        self,
        listener: int,
        keys: list[SourceKey],
        sizes: list[int],
        rows: Sequence[int | None],
    ) -> bool:
        """Forward a batch with strangers' messages in it as if these were not, and see to them
        afterwards. If the others are not all usual, do nothing."""
        inlet = self._inlets[listener]
        heard = self._table.heard
        count = len(keys)
        strangers = [index for index, key in enumerate(keys) if key not in heard]
        # With these put in their places, the others are looked at as quickly as a whole batch is.
        firsts, lengths, to = bytearray(inlet.firsts(count)), sizes.copy(), list(rows)
        for index in strangers:
            firsts[index], lengths[index], to[index] = 0, SHORT_HEADER_MINIMUM, 1
        usual = all(to) and min(lengths) >= SHORT_HEADER_MINIMUM and firsts.isascii()
        if len(strangers) == count or not usual or not inlet.are_single(count):
            return False
        others = np.ones(count, np.bool_)
        others[strangers] = False
        if self._meter.payers or self._table.tally is not None:
            known = np.flatnonzero(others).tolist()
            if not self._may_pass([keys[i] for i in known], [sizes[i] for i in known]):
                return False
        staged = inlet.stage(count, np.array(to)).pick(others)
        size = sum(lengths) - len(strangers) * SHORT_HEADER_MINIMUM
        self._forward(staged, count - len(strangers), size)
        self._sort(listener, keys, sizes, rows, strangers)
        return True

    def _may_pass(self, keys: list[SourceKey], sizes: list[int]) -> bool:
        """Charge all; False: perhaps not all may pass, and nobody was charged."""
        if self._meter.payers and not self._meter.take_all(keys, sizes):
            return False
        if self._table.tally is not None:
            self._table.tally.add_all(keys, sizes)
        return True

    def _pass_few(self, inlet: Inlet, count: int) -> bool:
        """Forward so few messages one by one, if all are usual; else does nothing."""
        heard = self._table.heard
        recent = self._table.recent
        found = []
        keys: list[SourceKey] = []
        for index in range(count):
            single = inlet.single(index)
            if single is None:
                return False
            size, key, head, ecn = single
            row = recent[head[1]].get(head[1:])
            if row is None or key not in heard:
                return False
            found.append((inlet.addresses[index], size, row, ecn))
            keys.append(key)
        if not self._may_pass(keys, [size for _, size, _, _ in found]):
            return False
        rows = self._table.rows
        for start, size, row, ecn in found:
            error = self._outlets[rows.listener_of[row]].send_one(start, size, row, ecn, rows)
            if error:
                self._counts[_TOO_BIG if error == errno.EMSGSIZE else _SEND_FAILED] += 1
            else:
                self._counts[_FORWARDED] += 1
                self._bytes_forwarded += size
        return True

    def _sort(
        self,
        listener: int,
        keys: list[SourceKey],
        sizes: list[int],
        rows: Sequence[int | None],
        which: Sequence[int],
    ) -> None:
        """Decide each datagram of some messages by itself; forward those that are to be.

        :param rows: where each message goes, if it is one datagram with a short header.
        """
        inlet = self._inlets[listener]
        heard = self._table.heard
        pieces = Pieces()
        firsts = inlet.firsts(len(sizes))
        beside = inlet.beside(which)
        for index, (ecn, segment) in zip(which, beside, strict=True):
            size = sizes[index]
            registered = keys[index] in heard
            if not 0 < segment < size:
                segment = 0
                straight = rows[index]
                is_short = size >= SHORT_HEADER_MINIMUM and firsts[index] < LONG_HEADER_BIT
                if straight and registered and is_short:
                    if self._charge(keys[index], 1, size):
                        pieces.add(inlet.addresses[index], size, straight, ecn, 0)
                    continue
            runs = self._runs(inlet, index, size, segment, registered)
            for start, length, row in runs:
                if row > 0:
                    datagrams = -(-length // segment) if segment else 1
                    if self._charge(keys[index], datagrams, length):
                        address = inlet.addresses[index] + start
                        pieces.add(address, length, row, ecn, segment)
                else:
                    self._dismiss(listener, index, start, length, -row, keys[index])
        for staged, datagrams, size in pieces.staged(_SEND_BATCH, cut=self._can_cut):
            self._forward(staged, datagrams, size)

    def _charge(self, key: SourceKey, datagrams: int, size: int) -> bool:
        """Let a sender pay for so many datagrams; if he cannot, they are counted as dropped."""
        full = self._meter.take(key, datagrams, size) if self._meter.payers else None
        if full is None:
            if self._table.tally is not None:
                self._table.tally.add(key, datagrams, size)
            return True
        self._counts[_ALLOWANCE_USED if full.is_shut else _RATE_LIMITED] += datagrams
        return False

    def _runs(
        self, inlet: Inlet, index: int, size: int, segment: int, registered: bool
    ) -> list[tuple[int, int, int]]:
        """Cut a message: start, length, and the row or the negative outcome of each part.

        Neighbouring datagrams for one row are one part.
        """
        if not segment:
            return [(0, size, self._decide(inlet.header(index, 0, size), registered))]
        count = -(-size // segment)
        firsts, cids = inlet.heads(index, segment, count)
        shortest = size - (count - 1) * segment
        if registered and firsts.isascii() and cids.count(cids[0]) == count:
            row = self._table.row_of(cids[0])
            if row and shortest >= SHORT_HEADER_MINIMUM:
                return [(0, size, row)]
        runs: list[tuple[int, int, int]] = []
        for start in range(0, size, segment):
            length = min(segment, size - start)
            row = self._decide(inlet.header(index, start, length), registered)
            if row > 0 and runs and runs[-1][2] == row:
                begin = runs.pop()[0]
                runs.append((begin, start + length - begin, row))
            else:
                runs.append((start, length, row))
        return runs

    def _decide(self, header: bytes, registered: bool) -> int:
        """The row to forward a datagram to, or its outcome as a negative number."""
        parsed = parse_invariants(header)
        if isinstance(parsed, Malformed):
            return -_MALFORMED
        row = self._table.row_of(parsed.destination_cid)
        if row:
            return row if registered else -_UNREGISTERED_SOURCE
        if isinstance(parsed, LongHeader):
            return -_STRAY_PEER_PACKET if self._table.row_of(parsed.source_cid) else -_HTTP3
        return -_HTTP3 if is_towards_http3(parsed.destination_cid) else -_UNKNOWN_CID

    def _dismiss(
        self, listener: int, index: int, start: int, length: int, outcome: int, source: SourceKey
    ) -> None:
        """A datagram that is not forwarded is passed up or dropped."""
        if outcome == _HTTP3:
            if self.door.admits(source, source in self._table.heard):
                outcome = self._pass_up(listener, index, start, length)
            else:
                outcome = _HTTP3_TOO_OFTEN
        self._counts[outcome] += 1

    def _pass_up(self, listener: int, index: int, start: int, length: int) -> int:
        """Give a datagram to the control process; returns what became of it."""
        if length > MAX_UP_DATAGRAM:
            return _TOO_BIG
        inlet = self._inlets[listener]
        beside = inlet.control(index)
        local = read_local(beside) or self._hosts[listener]
        header = up_header(Path(inlet.sender(index), listener, local), read_ecn(beside))
        try:
            self._up.sendmsg((header, inlet.datagram(index, start, length)))
        except OSError:  # full, or the control process is gone and the stream will soon tell
            return _CONTROL_QUEUE_FULL
        return _HTTP3

    def _forward(self, staged: Staged, datagrams: int, size: int) -> None:
        """Send messages that are `datagrams` datagrams of `size` bytes in all."""
        self._counts[_FORWARDED] += datagrams
        self._bytes_forwarded += size
        rows = self._table.rows
        if self._only_listener is not None:
            for position, error in self._outlets[self._only_listener].send(staged, rows):
                self._not_sent(staged.pick(slice(position, position + 1)), error)
            return
        listeners = rows.listeners.take(staged.rows)
        for listener, outlet in enumerate(self._outlets):
            which = np.flatnonzero(listeners == listener)
            if which.size:
                part = staged.pick(which)
                for position, error in outlet.send(part, rows):
                    self._not_sent(part.pick(slice(position, position + 1)), error)

    def _not_sent(self, one: Staged, error: int) -> None:
        """Count one message that was not sent; but if it was to be cut, try its datagrams."""
        size = int(one.lengths[0])
        segment = 0 if one.segments is None else int(one.segments[0])
        self._bytes_forwarded -= size
        if not segment:
            self._counts[_FORWARDED] -= 1
            self._counts[_TOO_BIG if error == errno.EMSGSIZE else _SEND_FAILED] += 1
            return
        self._counts[_FORWARDED] -= -(-size // segment)
        self._can_cut = self._can_cut and error not in _NO_GSO_HERE
        pieces = Pieces()
        ecn = 0 if one.ecn is None else int(one.ecn[0])
        pieces.add(int(one.starts[0]), size, int(one.rows[0]), ecn, segment)
        for staged, datagrams, sent in pieces.staged(_SEND_BATCH, cut=False):
            self._forward(staged, datagrams, sent)
