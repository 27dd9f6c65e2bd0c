"""The kernel as a forwarder: keeps the XDP program's maps as the registry is. docs/kernel-path.md.

What the maps cannot hold (an owner too many, an address that means nothing without its interface)
is left to the workers, for the program passes up what it does not know.
"""

import ctypes
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bpf import layout
from bpf.pins import KernelMaps
from relay.core.bucket import Charge
from relay.core.leases import LeaseSource
from relay.core.path import Path
from relay.core.table import Change, ConnectionIdsAdded, OwnerCharged, OwnerMoved, OwnerRemoved
from relay.kernel.buckets import BYTE_COSTS_PER_NS, KernelBuckets, cost
from relay.wire.address import Address

logger = logging.getLogger(__name__)

_CLOCK_GRAIN_NS = 50_000_000
"""The program reads a clock that may be a timer tick behind ours."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one sender may have forwarded; 0 for no limit."""

    packets_per_s: float = 0.0
    bytes_per_s: float = 0.0
    """Of UDP payload."""
    burst_s: float = 0.25
    """How much of it may come at once."""


@dataclass(slots=True)
class _Owner:
    generation: int
    path: Path
    source: bytes | None = None
    """Its key in `owner_by_source`."""
    usable: bool = False
    """Whether the kernel may forward to it."""
    is_barred: bool = False
    """There is no room for what it is to be charged to."""
    connection_ids: set[bytes] = field(default_factory=set)


class KernelForwarder:
    """Feeds the maps, and reads back what only the kernel saw. A `relay.control.Forwarder`."""

    def __init__(
        self, maps: KernelMaps, listeners: Sequence[Address], leases: LeaseSource, rate: Rate
    ) -> None:
        """Takes over what the maps hold, as far as the changes that come first speak of it.

        :param listeners: the relay's addresses, by the index that `Path.listener` says.
        :param rate: for every sender.
        """
        self._maps = maps
        self._listeners = listeners
        self._leases = leases
        self._rate = rate
        self.buckets = KernelBuckets(maps)
        self._owners: dict[int, _Owner] = {}
        self._owner_by_cid: dict[bytes, int] = {}  # what was evicted can be put back
        self._owners_by_source: dict[bytes, set[int]] = {}  # several may share one address
        self._last_generation = max((owner.generation for owner in maps.owners), default=0)
        self._seen_until_ns = time.monotonic_ns()

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the registry. What the kernel does not take, the workers forward."""
        for change in changes:
            try:
                self._apply(change)
            except OSError as error:
                logger.warning("the kernel's maps: %s; the workers forward this one", error)

    def seen_sources(self) -> list[Address]:
        """The registered sources that the kernel heard from since the last call."""
        since = self._seen_until_ns - _CLOCK_GRAIN_NS
        self._seen_until_ns = time.monotonic_ns()
        seen = self._maps.words("seen_ns")
        return [owner.path.remote for number, owner in self._owners.items() if seen[number] > since]

    def knows(self, owner: int) -> bool:
        """Whether the kernel may forward to it."""
        known = self._owners.get(owner)
        return known is not None and known.usable

    def put_back_evicted(self) -> int:
        """Restore connection IDs that made place for others and are in use; returns how many."""
        missed = [cid for cid, _ in self._maps.missed_cids.drain() if cid in self._owner_by_cid]
        self._put_connection_ids(missed)
        return len(missed)

    def renew_leases(self, now: float) -> None:
        """Let the kernel forward as long as the registry would, should this process die now."""
        for number, lease_end in self._leases.lease_ends(now):
            owner = self._owners.get(number)
            if owner is not None and owner.usable:
                self._maps.owners[number].lease_end_ns = nanoseconds(lease_end)

    def forget_unknown(self) -> None:
        """Remove from the maps what no change has spoken of: left-overs of an earlier run."""
        for number, entry in enumerate(self._maps.owners):
            if entry.generation and number not in self._owners:
                entry.generation = 0
        for cid, _ in list(self._maps.owner_by_cid.items()):
            if cid not in self._owner_by_cid:
                self._maps.owner_by_cid.delete(cid)
        for source, _ in list(self._maps.owner_by_source.items()):
            if source not in self._owners_by_source:
                self._maps.owner_by_source.delete(source)

    def _apply(self, change: Change) -> None:
        match change:
            case OwnerMoved(owner, path):
                self._move(owner, path)
            case ConnectionIdsAdded(owner, connection_ids):
                if owner in self._owners:
                    self._owners[owner].connection_ids.update(connection_ids)
                    self._owner_by_cid.update(dict.fromkeys(connection_ids, owner))
                    self._put_connection_ids(connection_ids)
            case OwnerRemoved(owner, connection_ids):
                self._remove(owner, connection_ids)
            case OwnerCharged(owner, charges):
                self._charge(owner, charges)

    def _charge(self, number: int, charges: Sequence[Charge]) -> None:
        owner = self._owners.get(number)
        if owner is not None:
            owner.is_barred = not self.buckets.charge(number, charges)
            self._write(number, owner, self._source(owner.path))

    def _move(self, number: int, path: Path) -> None:
        if number >= len(self._maps.owners):
            return  # more owners than the maps take
        source = self._source(path)
        owner = self._owners.get(number)
        if owner is None:
            owner = self._owners[number] = self._adopt(number, path)
        elif owner.source != source:
            self._withdraw_source(number, owner)
        owner.path = path
        self._write(number, owner, source)
        if source is not None and owner.source is None:
            self._announce_source(number, owner, source)

    def _source(self, path: Path) -> bytes | None:
        local = Address(path.local, self._listeners[path.listener].port)
        try:
            return layout.source_key(path.remote, local)
        except ValueError:
            return None  # a link-local address: the workers know which interface it means

    def _adopt(self, number: int, path: Path) -> _Owner:
        """Go on with what an earlier run left there, if it is the same registration."""
        entry = self._maps.owners[number]
        entry.buckets[:] = (0, 0)  # they are another run's: who pays is told next
        record = self._leases.record(number, time.monotonic())
        identity = (
            (bytes.fromhex(record.id_hash), record.key_digest) if record else (bytes(16),) * 2
        )
        if entry.generation and (bytes(entry.id), bytes(entry.key_digest)) == identity:
            self._set_rate(entry)
            return _Owner(entry.generation, path)
        self._last_generation = self._last_generation % (2**32 - 1) + 1
        entry.generation = 0
        ctypes.memset(ctypes.addressof(entry), 0, ctypes.sizeof(entry))
        entry.id[:], entry.key_digest[:] = identity
        self._set_rate(entry)
        return _Owner(self._last_generation, path)

    def _write(self, number: int, owner: _Owner, source: bytes | None) -> None:
        """Tell the program where the owner is now. It uses no entry that it finds half written."""
        entry = self._maps.owners[number]
        wanted = source or bytes(layout.SOURCE_KEY_SIZE)
        record = self._leases.record(number, time.monotonic())
        owner.usable = source is not None and not owner.is_barred
        lease_end = nanoseconds(record.lease_end) if record and owner.usable else 0
        if bytes(entry.path) != wanted or entry.sequence & 1:  # odd: a crash in the midst of this
            entry.sequence |= 1
            entry.hop.seen_ns = 0  # learned at another place
            entry.route.until_ns = 0
            entry.path = layout.SourceKey.from_buffer_copy(wanted)
            entry.ipv6 = int(":" in owner.path.remote.host)
            entry.sequence = (entry.sequence + 1) % 2**32
        if record is not None:
            entry.id[:] = bytes.fromhex(record.id_hash)  # it may have got another one
        entry.lease_end_ns = lease_end
        entry.generation = owner.generation

    def _set_rate(self, entry: layout.Owner) -> None:
        entry.packet_cost_ns = cost(1e9, self._rate.packets_per_s)
        entry.byte_cost = cost(1e9 * BYTE_COSTS_PER_NS, self._rate.bytes_per_s)
        entry.burst_ns = nanoseconds(self._rate.burst_s)

    def _announce_source(self, number: int, owner: _Owner, source: bytes) -> None:
        sharing = self._owners_by_source.setdefault(source, set())
        sharing.add(number)
        owner.source = source
        if len(sharing) == 1:  # else the one that was there first stands for all
            self._maps.owner_by_source.put(source, self._ref(number))

    def _withdraw_source(self, number: int, owner: _Owner) -> None:
        source, owner.source = owner.source, None
        if source is None:
            return
        sharing = self._owners_by_source[source]
        sharing.discard(number)
        if sharing:
            self._maps.owner_by_source.put(source, self._ref(min(sharing)))
        else:
            del self._owners_by_source[source]
            self._maps.owner_by_source.delete(source)

    def _remove(self, number: int, connection_ids: Sequence[bytes]) -> None:
        owner = self._owners.get(number)
        if owner is None:
            return
        self._maps.owners[number].generation = 0  # from here on it is unknown
        self.buckets.release(number)
        self._withdraw_source(number, owner)
        del self._owners[number]
        for cid in owner.connection_ids.union(connection_ids):
            self._owner_by_cid.pop(cid, None)
            self._maps.owner_by_cid.delete(cid)

    def _put_connection_ids(self, connection_ids: Sequence[bytes]) -> None:
        by_cid = self._owner_by_cid
        numbers = [by_cid[cid] for cid in connection_ids]
        generations = [self._owners[number].generation for number in numbers]
        entries = map(layout.cid_entry, numbers, generations)
        self._maps.owner_by_cid.put_all(list(zip(connection_ids, entries, strict=True)))

    def _ref(self, number: int) -> bytes:
        return layout.owner_ref(number, self._owners[number].generation)


def nanoseconds(seconds: float) -> int:
    """As the maps count: `time.monotonic` and the program's clock are the same."""
    return max(0, min(2**63, round(seconds * 1e9)))
