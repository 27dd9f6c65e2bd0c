"""Any order of calls: the registry, a forwarder that followed its changes, one that was filled from
its snapshot, and one that was filled step by step meanwhile, all know the same."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.core.path import Path
from relay.core.registration import id_hash
from relay.core.registry import Registry, RegistryFull, RegistryLimits
from relay.core.table import ConnectionIdsAdded, ForwardingTable, OwnerMoved, OwnerRemoved
from relay.forwarding.channel import ConnectionIdsRemoved, FrameReader, Sync
from relay.forwarding.feed import Feed, encode_changes
from relay.forwarding.messages import RatesSet, SendersCounted
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterRequest

LEASE = 10.0
KEYS = st.integers(0, 4)
HOLDERS = st.integers(0, 3)
HOSTS = ["192.0.2.1", "192.0.2.2"]
PER_SOURCE = 3
PER_PEER = 2
PATHS = st.builds(
    lambda host, port, listener: Path(Address(host, port), listener, "198.51.100.1"),
    st.sampled_from(HOSTS),
    st.integers(1, 3),
    st.integers(0, 1),
)


class RegistryMachine(RuleBasedStateMachine):
    """Each key's lease is modelled as plainly as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = itertools.count()
        limits = RegistryLimits(
            lease_s=LEASE,
            max_connection_ids=20,
            max_registrations_per_source=PER_SOURCE,
            max_connection_ids_per_source=9,
            max_registrations_per_peer=PER_PEER,
        )
        self.registry = Registry(limits, new_id=lambda: str(next(self.ids)))
        self.now = 0.0
        self.followed = ForwardingTable()
        self.feed: Feed | None = None
        self.fed = ForwardingTable()
        self.reader = FrameReader()
        self.fed_owners: set[int] = set()
        # By key: id, holder or None, path, and when the lease ends if nobody holds it.
        self.model: dict[int, tuple[str, int | None, Path, float]] = {}

    def follow(self) -> None:
        changes = self.registry.take_changes()
        for change in changes:
            self.followed.apply(change)
        if self.feed is not None:
            self.feed.change(encode_changes(changes))

    @rule(key=KEYS, path=PATHS, holder=HOLDERS, num=st.integers(1, 3), first=st.integers(1, 4))
    def register(self, key: int, path: Path, holder: int, num: int, first: int) -> None:
        request = RegisterRequest(bytes([key]) * 16, num, Derivation.BLAKE2B, first)
        try:
            answer = self.registry.register(request, path, holder, self.now)
        except RegistryFull:
            assert self.registry.take_changes() == []
            return
        self.model[key] = (answer.id, holder, path, 0.0)
        self.follow()

    @rule(holder=HOLDERS, path=PATHS)
    def move(self, holder: int, path: Path) -> None:
        self.registry.move(holder, path)
        records = [self.registry.record(owner, self.now) for owner in self.registry.owners()]
        paths = {record.id_hash: record.path for record in records if record is not None}
        there = sum(each.remote == path.remote for each in paths.values())
        assert there <= PER_PEER
        for key, (id_, held_by, _, end) in self.model.items():
            if held_by == holder and (paths[id_hash(id_)] == path or there < PER_PEER):
                self.model[key] = (id_, holder, path, end)
            assert paths[id_hash(id_)] == self.model[key][2]
        self.follow()

    @rule(holder=HOLDERS)
    def release(self, holder: int) -> None:
        self.registry.release(holder, self.now)
        for key, (id_, held_by, path, _) in self.model.items():
            if held_by == holder:
                self.model[key] = (id_, None, path, self.now + LEASE)
        self.follow()

    @rule(path=PATHS)
    def seen(self, path: Path) -> None:
        self.registry.seen([path.remote], self.now)
        for key, (id_, held_by, at, _) in self.model.items():
            if at.remote == path.remote:
                self.model[key] = (id_, held_by, at, self.now + LEASE)
        self.follow()

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        if key in self.model:
            assert self.registry.delete(self.model.pop(key)[0])
        self.follow()

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, LEASE]), at_most=st.sampled_from([1, 100]))
    def wait(self, seconds: float, at_most: int) -> None:
        self.now += seconds
        ended = [
            key
            for key, (_, held_by, _, end) in self.model.items()
            if held_by is None and end <= self.now
        ]
        removed = 0
        while (due := self.registry.next_expiry()) is not None and due <= self.now:
            removed += self.registry.expire(self.now, at_most)
        assert removed == len(ended)
        for key in ended:
            del self.model[key]
        self.follow()

    @rule()
    def replace_worker(self) -> None:
        self.feed = Feed(self.registry)
        self.fed = ForwardingTable()
        self.reader = FrameReader()
        self.fed_owners = set()

    @rule(wanted=st.integers(1, 200))
    def feed_some(self, wanted: int) -> None:
        if self.feed is None:
            return
        data = self.feed.next_bytes(wanted)
        self.feed.sent(len(data))
        for command in self.reader.commands(data):
            assert not isinstance(command, ConnectionIdsRemoved)  # none is large enough
            match command:
                case Sync() | RatesSet() | SendersCounted():
                    continue
                case OwnerMoved(owner, _):
                    self.fed_owners.add(owner)
                case ConnectionIdsAdded(owner, _):
                    assert owner in self.fed_owners
                case OwnerRemoved(owner, _):
                    self.fed_owners.remove(owner)
            self.fed.apply(command)

    @invariant()
    def all_know_the_same(self) -> None:
        filled = ForwardingTable()
        for owner in self.registry.owners():
            for change in self.registry.describe(owner):
                filled.apply(change)
        assert self.followed == filled
        assert len(self.registry) == len(self.model)
        sources = {path.remote for _, _, path, _ in self.model.values()}
        for host, port in itertools.product(HOSTS, range(1, 4)):
            address = Address(host, port)
            assert filled.is_source(address) == (address in sources)

    def teardown(self) -> None:
        if self.feed is not None:
            for _ in range(1000):
                self.feed_some(200)
            assert len(self.feed) == 0
            assert self.fed == self.followed
        self.each_source_has_its_whole_share()

    def each_source_has_its_whole_share(self) -> None:
        """When all is gone, and no more than that: whatever was counted is counted no longer."""
        for id_, *_ in self.model.values():
            assert self.registry.delete(id_)
        for place, host in enumerate(HOSTS):
            for number in range(10 * place, 10 * place + PER_SOURCE):
                request = RegisterRequest(number.to_bytes(16, "big"), 3, Derivation.BLAKE2B)
                path = Path(Address(host, number + 1), 0, "198.51.100.1")
                self.registry.register(request, path, 100 + number, self.now)
        request = RegisterRequest(b"x" * 16, 1, Derivation.BLAKE2B)
        with pytest.raises(RegistryFull, match="one source"):
            self.registry.register(request, path, 200, self.now)


RegistryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRegistry = RegistryMachine.TestCase
