"""A registry that begins with the registrations of an earlier run."""

from dataclasses import replace

import pytest

from relay.core.path import Path
from relay.core.registration import id_hash
from relay.core.registry import Record, Registry, RegistryFull, RegistryLimits
from relay.core.table import ConnectionIdsAdded, ForwardingTable, OwnerMoved
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterRequest

LIMITS = RegistryLimits(lease_s=100.0)
PATH = Path(Address("192.0.2.1", 50000), 0, "198.51.100.1")
OTHER_PATH = Path(Address("192.0.2.2", 50001), 0, "198.51.100.1")


def make_registry(limits: RegistryLimits = LIMITS, first_id: int = 0) -> Registry:
    ids = iter(range(first_id, 10**6))
    return Registry(limits, new_id=lambda: f"{next(ids):032x}")


FIRST_ID = f"{0:032x}"
"""Of the registration in `a_record`."""


def request(number: int, num: int = 3) -> RegisterRequest:
    return RegisterRequest(bytes([number]) * 32, num, Derivation.BLAKE3)


def records_of(registry: Registry, now: float) -> list[Record]:
    records = [registry.record(owner, now) for owner in registry.owners()]
    return [record for record in records if record is not None]


def filled(registry: Registry) -> ForwardingTable:
    table = ForwardingTable()
    for change in (each for owner in registry.owners() for each in registry.describe(owner)):
        table.apply(change)
    return table


def a_record(owner: int = 0) -> Record:
    before = make_registry()
    before.register(request(1), PATH, holder=1, now=0.0)
    (record,) = records_of(before, now=0.0)
    return replace(record, owner=owner)


def test_everything_is_there_again() -> None:
    before = make_registry()
    for number, path in ((1, PATH), (2, OTHER_PATH)):
        before.register(request(number), path, holder=number, now=0.0)
    after = make_registry()
    assert after.restore(records_of(before, now=10.0), now=20.0) == 2
    assert filled(after) == filled(before)
    assert after.connection_ids == before.connection_ids


def test_the_forwarders_hear_of_it() -> None:
    registry = make_registry()
    registry.restore([record := a_record()], now=0.0)
    table = ForwardingTable()
    for change in registry.take_changes():
        table.apply(change)
    (some_id, *_) = record.connection_ids
    assert table.decide(b"\x40" + some_id, PATH.remote).path == PATH


def test_the_key_shown_again_takes_the_registration_over() -> None:
    registry = make_registry()
    registry.restore([a_record(owner=5)], now=0.0)
    registry.take_changes()
    answer = registry.register(request(1, num=4), OTHER_PATH, holder=9, now=1.0)
    assert answer.connection_ids == 4
    moved, added = registry.take_changes()
    assert moved == OwnerMoved(5, OTHER_PATH)
    assert isinstance(added, ConnectionIdsAdded)
    assert len(added.connection_ids) == 1


def test_its_id_still_ends_it() -> None:
    registry = make_registry()
    registry.restore([record := a_record()], now=0.0)
    assert record.id_hash == id_hash(FIRST_ID)
    assert registry.delete(FIRST_ID)
    assert len(registry) == 0


def test_until_its_key_is_shown_again() -> None:
    """Only the hash is known of the old one, so the answer has a new one."""
    registry = make_registry(first_id=7)
    registry.restore([a_record(owner=5)], now=0.0)
    registry.take_changes()
    new = registry.register(request(1), PATH, holder=9, now=1.0).id
    assert registry.take_changes() == [OwnerMoved(5, PATH)]  # whoever keeps records looks again
    (record,) = records_of(registry, now=1.0)
    assert record.id_hash == id_hash(new)
    assert registry.register(request(1), PATH, holder=9, now=1.0).id == new
    assert registry.take_changes() == []
    other = make_registry()
    other.restore([record], now=1.0)
    assert not other.delete(FIRST_ID)
    assert other.delete(new)


def test_an_id_is_in_no_record() -> None:
    assert FIRST_ID not in repr(a_record())


def test_the_lease_of_a_held_one_ends_a_lease_after_it_was_recorded() -> None:
    before = make_registry()
    before.register(request(1), PATH, holder=1, now=0.0)
    after = make_registry()
    after.restore(records_of(before, now=50.0), now=60.0)
    assert after.next_expiry() == 150.0
    assert after.expire(now=150.0 - 1e-9) == 0
    assert after.expire(now=150.0) == 1


def test_the_lease_of_a_released_one_runs_on() -> None:
    before = make_registry()
    before.register(request(1), PATH, holder=1, now=0.0)
    before.release(1, now=0.0)
    assert [record.lease_end for record in records_of(before, now=50.0)] == [100.0]
    assert list(before.lease_ends(now=50.0)) == [(0, 100.0)]


def test_packets_extend_it() -> None:
    registry = make_registry()
    registry.restore([a_record()], now=0.0)
    registry.seen([PATH.remote], now=90.0)
    assert registry.expire(now=189.0) == 0
    assert registry.expire(now=190.0) == 1


def test_a_lease_that_has_ended_is_not_restored() -> None:
    registry = make_registry()
    assert registry.restore([a_record()], now=100.0) == 0


def test_a_lease_is_never_longer_than_a_new_one() -> None:
    registry = make_registry()
    registry.restore([replace(a_record(), lease_end=1e12)], now=0.0)
    assert registry.next_expiry() == LIMITS.lease_s


def test_numbers_between_the_restored_ones_are_used_before_new_ones() -> None:
    registry = make_registry()
    registry.restore([a_record(owner=2)], now=0.0)
    registry.take_changes()
    for number in range(2, 5):
        registry.register(request(number), OTHER_PATH, holder=number, now=0.0)
    assert sorted(registry.owners()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"owner": 0},
        {"key_digest": a_record().key_digest},
        {"id_hash": a_record().id_hash},
        {"connection_ids": a_record().connection_ids},
        {"owner": LIMITS.max_registrations},
        {"owner": -1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_contradicts_an_earlier_record_is_left_out(change: dict[str, object]) -> None:
    fine = Record(1, "f" * 32, b"k" * 16, OTHER_PATH, 100.0, frozenset({b"c" * 12}))
    assert make_registry().restore([a_record(), fine], now=0.0) == 2
    assert make_registry().restore([a_record(), replace(fine, **change)], now=0.0) == 1  # type: ignore[arg-type] # one field, by name


def test_limits_hold() -> None:
    registry = make_registry(replace(LIMITS, max_connection_ids=2))
    assert registry.restore([a_record()], now=0.0) == 0
    with pytest.raises(RegistryFull):
        registry.register(request(1), PATH, holder=1, now=0.0)


def test_only_an_empty_registry_is_restored() -> None:
    registry = make_registry()
    registry.register(request(2), PATH, holder=1, now=0.0)
    with pytest.raises(ValueError, match="before"):
        registry.restore([a_record()], now=0.0)


def test_there_is_no_record_of_nobody() -> None:
    assert make_registry().record(0, now=0.0) is None
