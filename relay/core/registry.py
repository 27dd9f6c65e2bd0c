"""Who is registered, where they are, and until when. docs/protocol.md §3.

One registration per key: the key is the credential, and whoever shows it again, from an address
that has been validated, takes the registration over. The registry holds no key, only a digest.

A registration is *held* while the HTTP/3 connection that made it lives; then its lease runs, and
every packet from its address starts the lease anew.
"""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

from relay.wire.address import Address
from relay.wire.connection_id import Towards, derive
from relay.wire.registration import RegisterAnswer, RegisterRequest

from .admission import Grant
from .deadlines import Deadlines
from .id_map import ConnectionIdMap
from .leases import Record
from .owner_index import OwnerIndex
from .path import Path
from .quota import (
    ConnectionIdTaken,
    RegistrationRefused,
    RegistryFull,
    RegistryLimits,
    RegistryRefusal,
    SourceQuota,
    TokenOver,
    TokenQuota,
    check_room,
)
from .registration import HolderId, Registration, id_hash, key_digest
from .table import Change, ConnectionIdsAdded, OwnerMoved, OwnerRemoved

__all__ = [
    "ConnectionIdTaken",
    "HolderId",
    "Record",
    "RegistrationRefused",
    "Registry",
    "RegistryFull",
    "RegistryLimits",
    "RegistryRefusal",
]


class Registry:
    """All registrations. Every change is also queued for the forwarders: see `take_changes`."""

    def __init__(self, limits: RegistryLimits, new_id: Callable[[], str]) -> None:
        """`new_id` gives 128 random bits as 32 hexadecimal digits."""
        self._limits = limits
        self._new_id = new_id
        self._by_key: dict[bytes, Registration] = {}  # a key shown again is the same owner
        self._by_id: dict[str, Registration] = {}  # DELETE names it so; the hashes
        self._by_owner: dict[int, Registration] = {}  # what the forwarders call it
        self._by_cid = ConnectionIdMap()  # whether another key holds it
        self._by_holder = OwnerIndex[HolderId]()  # a connection moves or ends
        self._quota = SourceQuota(limits)
        self._token_quota = TokenQuota(limits)
        self._by_source = OwnerIndex[Address]()  # packets from it extend these
        self._deadlines = Deadlines(self._by_key)
        self._free_owners: list[int] = []
        self._changes: list[Change] = []
        self.refused = Counter[RegistryRefusal]()
        """What was refused since the start, by reason."""

    def __len__(self) -> int:
        return len(self._by_owner)

    @property
    def connection_ids(self) -> int:
        """How many connection IDs are registered in all."""
        return len(self._by_cid)

    @property
    def by_owner(self) -> Mapping[int, Registration]:
        """All registrations by their owners' numbers, to be looked at only."""
        return MappingProxyType(self._by_owner)

    def find(self, name: str) -> Registration | None:
        """By the hash of its id."""
        return self._by_id.get(name)

    def register(
        self,
        request: RegisterRequest,
        path: Path,
        holder: HolderId,
        now: float,
        grant: Grant | None = None,
    ) -> RegisterAnswer:
        """Make, extend or take over the registration of `request.key`. `path` is validated.

        :param grant: what the client's token permits, where the relay wants one.
        :raises RegistrationRefused: nothing changed but `refused`.
        """
        try:
            return self._register(request, path, holder, now, grant)
        except RegistrationRefused as error:
            self.refused[error.reason] += 1
            raise

    def change_limits(self, limits: RegistryLimits) -> None:
        """From now on these; what there is over them stays until it ends."""
        self._limits = self._quota.limits = self._token_quota.limits = limits

    def revoke(self, token_ids: Collection[str]) -> int:
        """End at once what came by these tokens; returns how many registrations that were."""
        registrations = list(self._by_owner.values())
        revoked = [each for each in registrations if each.token_id in token_ids]
        for registration in revoked:
            self._remove(registration)
        return len(revoked)

    def _register(
        self,
        request: RegisterRequest,
        path: Path,
        holder: HolderId,
        now: float,
        grant: Grant | None,
    ) -> RegisterAnswer:
        digest = key_digest(request)
        existing = self._by_key.get(digest)
        if grant is not None and not (grant.is_fresh or (existing and existing.goes_on_by(grant))):
            raise TokenOver
        wanted = {
            derive(request.key, counter, request.derivation, Towards.PEER)
            for counter in range(request.first, request.first + request.num)
        }
        owner = existing.owner if existing else None
        holders = {cid: self._by_cid.get(cid) for cid in wanted}
        if not {None, owner}.issuperset(holders.values()):
            raise ConnectionIdTaken("another key holds a connection ID of this one")
        new = tuple(cid for cid, held_by in holders.items() if held_by is None)
        held = existing.count if existing else None
        check_room(self._limits, len(self._by_owner), len(self._by_cid), held, len(new))
        self._check_peer(existing, path.remote, holder)
        if grant is not None:
            before = existing.subject if existing else None
            self._token_quota.check(grant, before, held or 0, len(new))
        source = self._choose_source(existing, path, len(new))
        registration = existing or self._create(digest, path, source)
        self._hold(registration, holder)
        is_other = self._grant(registration, grant, now) and existing is not None
        renamed, named = registration.id is None, self._name(registration)
        self._move(registration, path, source, tell=renamed or is_other)
        if new:
            self._count(registration, 0, len(new))
            registration.joined_ids += b"".join(new)
            self._by_cid.update(new, registration.owner)
            self._changes.append(ConnectionIdsAdded(registration.owner, new))
        return RegisterAnswer(
            id=named,
            address=str(path.remote),
            connection_ids=registration.count,
            lease=self._limits.lease_s,
        )

    def restore(self, records: Iterable[Record], now: float) -> int:
        """Begin with the registrations of an earlier run, held by no connection; returns how many.

        Owners keep their numbers, so that a forwarder that went on forwarding stays right. Left out
        are records whose lease has ended, that contradict an earlier one, or are over a limit; but
        a source may have more than its share, as some may have moved there.

        :raises ValueError: if there are registrations already.
        """
        if self._by_owner:
            raise ValueError("registrations can only be restored before there are any")
        for record in records:
            if record.lease_end > now and self._may_restore(record):
                self._restore(record, min(record.lease_end, now + self._limits.lease_s))
        # So that the numbers in use and the free ones are again all below their count.
        numbers = range(max(self._by_owner, default=-1) + 1)
        self._free_owners = [number for number in numbers if number not in self._by_owner]
        return len(self._by_owner)

    def move(self, holder: HolderId, path: Path) -> None:
        """The HTTP/3 connection has validated a new path: its registrations follow it.

        All do, unless `max_registrations_per_peer` is reached at the new address: a peer has no
        more than that on one connection, so others had come there. What does not fit stays behind.
        """
        limit = self._limits.max_registrations_per_peer
        for owner in self._by_holder.get(holder):
            there = self._by_source.get(path.remote)
            if len(there) < limit or owner in there:
                registration = self._by_owner[owner]
                self._move(registration, path, self._choose_source(registration, path, 0))

    def release(self, holder: HolderId, now: float) -> None:
        """The HTTP/3 connection has ended: the leases of what it held begin to run."""
        for owner in self._by_holder.pop(holder):
            registration = self._by_owner[owner]
            registration.holder = None
            self._extend(registration, now)

    def seen(self, sources: Iterable[Address], now: float) -> None:
        """Packets came from these addresses: the leases of their registrations start anew."""
        for source in sources:
            for owner in self._by_source.get(source):
                self._extend(self._by_owner[owner], now)

    def has_source(self, source: Address) -> bool:
        """Whether somebody is registered at this address."""
        return bool(self._by_source.get(source))

    def knows(self, request: RegisterRequest) -> bool:
        """Whether the key has a registration."""
        return key_digest(request) in self._by_key

    def delete(self, registration_id: str) -> bool:
        """End a registration at once. Returns whether there was one of that id."""
        return self.end(id_hash(registration_id))

    def end(self, name: str) -> bool:
        """The same by the hash of the id, which the operator knows it by."""
        if (registration := self._by_id.get(name)) is not None:
            self._remove(registration)
        return registration is not None

    def expire(self, now: float, at_most: int = sys.maxsize) -> int:
        """Remove what nobody holds and whose lease has ended; returns how many that were.

        Looks at no more than `at_most` registrations, so that a great many leases that end
        together do not keep the caller from everything else: see then `next_expiry`.
        """
        removed = 0
        for _ in range(at_most):
            if (due := self._deadlines.next()) is None or due > now:
                break
            registration = self._deadlines.take()
            if registration is None:
                continue
            if registration.due > now:
                self._deadlines.put(registration)
                continue
            self._remove(registration)
            removed += 1
        return removed

    def next_expiry(self) -> float | None:
        """When `expire` may next have something to do; None for never."""
        return self._deadlines.next()

    def take_changes(self) -> list[Change]:
        """What changed since the last call, in order: the forwarders must follow it all."""
        changes, self._changes = self._changes, []
        return changes

    def owners(self) -> list[int]:
        """The numbers of all owners, for whoever fills a forwarder step by step."""
        return list(self._by_owner)

    def record(self, owner: int, now: float) -> Record | None:
        """What `restore` needs; None if there is no such owner.

        The lease of one that is held ends a whole lease from now: should the relay end at once.
        """
        registration = self._by_owner.get(owner)
        if registration is None:
            return None
        held = registration.holder is not None
        return registration.record(now + self._limits.lease_s if held else registration.lease_end)

    def lease_ends(self, now: float) -> Iterator[tuple[int, float]]:
        """Every owner with the end of its lease, as `record` has it."""
        end_if_held = now + self._limits.lease_s
        for owner, registration in self._by_owner.items():
            yield owner, registration.lease_end if registration.holder is None else end_if_held

    def describe(self, owner: int) -> list[Change]:
        """Changes that tell a forwarder all about one owner; none if it is gone."""
        one = self._by_owner.get(owner)
        if one is None:
            return []
        return [OwnerMoved(owner, one.path), ConnectionIdsAdded(owner, one.connection_ids)]

    def _check_peer(self, existing: Registration | None, remote: Address, holder: HolderId) -> None:
        limit = self._limits.max_registrations_per_peer
        for held in (self._by_holder.get(holder), self._by_source.get(remote)):
            if len(held) >= limit and (existing is None or existing.owner not in held):
                raise RegistryFull(
                    f"one peer has at most {limit} registrations; end some, or let them expire",
                    RegistryRefusal.PEER_FULL,
                    self._limits.retry_after_s,
                )

    def _choose_source(self, existing: Registration | None, path: Path, more: int) -> str:
        before, held = (existing.source, existing.count) if existing else (None, 0)
        return self._quota.choose(path.remote, before, held, more)

    def _create(self, key_digest: bytes, path: Path, source: str) -> Registration:
        # With no number free, the numbers 0 to len - 1 are all in use.
        owner = self._free_owners.pop() if self._free_owners else len(self._by_owner)
        new = self._new_id()
        registration = Registration(owner, id_hash(new), key_digest, path, 0.0, source, id=new)
        self._insert(registration)
        return registration

    def _insert(self, registration: Registration) -> None:
        owner, path = registration.owner, registration.path
        self._by_key[registration.key_digest] = registration
        self._by_id[registration.id_hash] = registration
        self._by_owner[owner] = registration
        self._by_source.add(path.remote, owner)
        self._count(registration, 1, registration.count)
        self._changes.append(OwnerMoved(owner, path))

    def _may_restore(self, record: Record) -> bool:
        limits = self._limits
        return (
            0 <= record.owner < limits.max_registrations
            and record.owner not in self._by_owner
            and record.key_digest not in self._by_key
            and record.id_hash not in self._by_id
            and len(record.connection_ids) <= limits.max_connection_ids_per_registration
            and len(self._by_cid) + len(record.connection_ids) <= limits.max_connection_ids
            and all(self._by_cid.get(cid) is None for cid in record.connection_ids)
        )

    def _restore(self, record: Record, lease_end: float) -> None:
        registration = Registration.restored(record, lease_end)
        self._insert(registration)
        self._deadlines.put(registration)
        self._by_cid.update(record.connection_ids, record.owner)
        if record.connection_ids:
            self._changes.append(ConnectionIdsAdded(record.owner, tuple(record.connection_ids)))

    def _name(self, registration: Registration) -> str:
        if registration.id is None:  # restored: nobody knows its id any more
            del self._by_id[registration.id_hash]
            registration.id = self._new_id()
            registration.id_hash = id_hash(registration.id)
            self._by_id[registration.id_hash] = registration
        return registration.id

    def _hold(self, registration: Registration, holder: HolderId) -> None:
        if registration.holder == holder:
            return
        if registration.holder is not None:
            self._by_holder.discard(registration.holder, registration.owner)
        registration.holder = holder
        self._by_holder.add(holder, registration.owner)

    def _count(self, registration: Registration, registrations: int, connection_ids: int) -> None:
        self._quota.add(registration.source, registrations, connection_ids)
        self._token_quota.add(registration.subject, registrations, connection_ids)

    def _grant(self, registration: Registration, grant: Grant | None, now: float) -> bool:
        """Count it for this subject; it ends with its later token. Whether its rates may change."""
        before = registration.grant
        if grant is None:
            return False
        if before and registration.goes_on_by(grant) and before.expires > grant.expires:
            return False
        if registration.subject != grant.subject:
            self._token_quota.add(registration.subject, -1, -registration.count)
            self._token_quota.add(grant.subject, 1, registration.count)
        registration.grant = grant
        registration.valid_until = now + grant.left_s
        self._deadlines.put(registration)
        return not before or (before.token_id, before.limits) != (grant.token_id, grant.limits)

    def _move(
        self, registration: Registration, path: Path, source: str, *, tell: bool = False
    ) -> None:
        if registration.source != source:
            self._quota.add(registration.source, -1, -registration.count)
            self._quota.add(source, 1, registration.count)
            registration.source = source
        if registration.path == path and not tell:
            return
        self._by_source.discard(registration.path.remote, registration.owner)
        self._by_source.add(path.remote, registration.owner)
        registration.path = path
        self._changes.append(OwnerMoved(registration.owner, path))

    def _extend(self, registration: Registration, now: float) -> None:
        registration.lease_end = now + self._limits.lease_s
        self._deadlines.put(registration)

    def _remove(self, registration: Registration) -> None:
        owner = registration.owner
        del self._by_key[registration.key_digest]
        del self._by_id[registration.id_hash]
        del self._by_owner[owner]
        self._by_cid.discard(registration.connection_ids)
        if registration.holder is not None:
            self._by_holder.discard(registration.holder, owner)
        self._by_source.discard(registration.path.remote, owner)
        self._count(registration, -1, -registration.count)
        self._free_owners.append(owner)
        self._changes.append(OwnerRemoved(owner, registration.connection_ids))
