"""docs/protocol.md §3.4: ownership, lease, and following the peer. The clock is an argument."""

import itertools
from dataclasses import replace

import pytest

from relay.core.path import Path
from relay.core.registry import (
    ConnectionIdTaken,
    Registry,
    RegistryFull,
    RegistryLimits,
)
from relay.core.table import ConnectionIdsAdded, OwnerMoved, OwnerRemoved
from relay.wire.address import Address
from relay.wire.connection_id import Derivation, Towards, derive
from relay.wire.registration import RegisterRequest

LEASE = 180.0
TINY = 2**-20
"""Seconds: about a microsecond, and exact at the times used here."""

HOME = Path(Address("192.0.2.1", 1111), 0, "198.51.100.1")
AWAY = Path(Address("2001:db8::2", 2222), 1, "2001:db8::100")


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def request(number: int = 1, num: int = 2, first: int = 1) -> RegisterRequest:
    return RegisterRequest(key(number), num, Derivation.BLAKE2B, first)


def cids(number: int, *counters: int) -> set[bytes]:
    return {derive(key(number), each, Derivation.BLAKE2B, Towards.PEER) for each in counters}


def make(**limits: float) -> Registry:
    ids = itertools.count(1)
    chosen = replace(RegistryLimits(lease_s=LEASE), **limits)  # type: ignore[arg-type]  # by name
    return Registry(chosen, new_id=lambda: f"{next(ids):032x}")


def registered(registry: Registry) -> set[bytes]:
    return {
        cid
        for owner in registry.owners()
        for change in registry.describe(owner)
        if isinstance(change, ConnectionIdsAdded)
        for cid in change.connection_ids
    }


def test_a_registration_is_answered_and_told() -> None:
    registry = make()
    answer = registry.register(request(num=10), AWAY, holder=1, now=0.0)
    assert answer.id == f"{1:032x}"
    assert answer.address == "[2001:db8::2]:2222"
    assert (answer.connection_ids, answer.lease) == (10, LEASE)
    moved, added = registry.take_changes()
    assert moved == OwnerMoved(0, AWAY)
    assert isinstance(added, ConnectionIdsAdded)
    assert set(added.connection_ids) == cids(1, *range(1, 11))
    assert registry.take_changes() == []
    assert (len(registry), registry.connection_ids) == (1, 10)


def test_it_lives_while_its_connection_does() -> None:
    registry = make()
    registry.register(request(), HOME, holder=1, now=0.0)
    assert registry.next_expiry() is None
    assert registry.expire(now=1e9) == 0
    assert len(registry) == 1


def test_the_lease_runs_from_the_end_of_the_connection() -> None:
    registry = make()
    registry.register(request(), HOME, holder=1, now=0.0)
    registry.release(1, now=1000.0)
    assert registry.next_expiry() == 1000.0 + LEASE
    assert registry.expire(now=1000.0 + LEASE - TINY) == 0
    assert registry.expire(now=1000.0 + LEASE) == 1
    assert len(registry) == 0
    assert registry.next_expiry() is None
    assert isinstance(registry.take_changes()[-1], OwnerRemoved)


def test_packets_from_its_address_start_the_lease_anew() -> None:
    registry = make()
    registry.register(request(), HOME, holder=1, now=0.0)
    registry.release(1, now=0.0)
    registry.seen([HOME.remote], now=100.0)
    registry.seen([AWAY.remote], now=150.0)  # another's
    assert registry.expire(now=100.0 + LEASE - TINY) == 0
    assert registry.next_expiry() == 100.0 + LEASE
    assert (registry.has_source(HOME.remote), registry.has_source(AWAY.remote)) == (True, False)
    assert registry.expire(now=100.0 + LEASE) == 1
    assert not registry.has_source(HOME.remote)


def test_the_originals_dialer_waits_ten_minutes() -> None:
    """Its connection closes at once; then it says something every 60 s at the most."""
    registry = make()
    registry.register(request(), HOME, holder=1, now=0.0)
    registry.release(1, now=0.0)
    for minute in range(1, 11):
        registry.expire(now=minute * 60.0)
        registry.seen([HOME.remote], now=minute * 60.0)
    assert len(registry) == 1


def test_the_key_is_the_credential() -> None:
    """The newest address wins, and the old connection has no say any more."""
    registry = make()
    first = registry.register(request(), HOME, holder=1, now=0.0)
    registry.take_changes()
    second = registry.register(request(), AWAY, holder=2, now=10.0)
    assert second.id == first.id
    assert registry.take_changes() == [OwnerMoved(0, AWAY)]
    registry.move(1, HOME)
    registry.release(1, now=12.0)
    assert registry.take_changes() == []
    assert registry.expire(now=1e9) == 0
    registry.release(2, now=20.0)
    assert registry.expire(now=20.0 + LEASE) == 1


def test_the_same_key_under_another_derivation_is_another_owner() -> None:
    registry = make()
    wide = bytes(32)
    one = RegisterRequest(wide, 1, Derivation.BLAKE2B)
    two = RegisterRequest(wide, 1, Derivation.BLAKE3)
    assert registry.register(one, HOME, 1, 0.0).id != registry.register(two, HOME, 1, 0.0).id
    assert len(registry) == 2


def test_a_live_registration_is_extended() -> None:
    registry = make()
    registry.register(request(num=3), HOME, holder=1, now=0.0)
    registry.take_changes()
    answer = registry.register(request(num=3, first=3), HOME, holder=1, now=1.0)
    assert answer.connection_ids == 5
    (added,) = registry.take_changes()
    assert isinstance(added, ConnectionIdsAdded)
    assert set(added.connection_ids) == cids(1, 4, 5)


def test_registrations_follow_their_connection() -> None:
    registry = make()
    registry.register(request(1), HOME, holder=1, now=0.0)
    registry.register(request(2), HOME, holder=1, now=0.0)
    registry.register(request(3), HOME, holder=2, now=0.0)
    registry.take_changes()
    registry.move(1, AWAY)
    assert sorted(registry.take_changes(), key=str) == [OwnerMoved(0, AWAY), OwnerMoved(1, AWAY)]
    registry.move(1, AWAY)
    assert registry.take_changes() == []
    registry.release(1, now=10.0)
    registry.release(2, now=10.0)
    registry.seen([AWAY.remote], now=100.0)  # the first two alone
    assert registry.expire(now=10.0 + LEASE) == 1
    assert len(registry) == 2


def test_a_registration_is_ended_by_its_id() -> None:
    registry = make()
    answer = registry.register(request(), HOME, holder=1, now=0.0)
    registry.take_changes()
    assert not registry.delete("0" * 32)
    assert registry.delete(answer.id)
    assert not registry.delete(answer.id)
    (removed,) = registry.take_changes()
    assert isinstance(removed, OwnerRemoved)
    assert set(removed.connection_ids) == cids(1, 1, 2)
    registry.move(1, AWAY)
    registry.release(1, now=2.0)
    registry.seen([HOME.remote], now=3.0)
    assert registry.take_changes() == []
    assert registry.next_expiry() is None
    again = registry.register(request(), HOME, holder=3, now=4.0)
    assert again.id != answer.id


def test_a_connection_id_of_another_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can make two keys collide: the derivation is bent to see what would happen."""

    def bent(key: bytes, counter: int, derivation: Derivation, towards: Towards) -> bytes:
        return bytes(11) + bytes([counter])

    monkeypatch.setattr("relay.core.registry.derive", bent)
    registry = make()
    registry.register(request(1, num=2), HOME, holder=1, now=0.0)
    registry.take_changes()
    with pytest.raises(ConnectionIdTaken):
        registry.register(request(2, num=2, first=2), AWAY, holder=2, now=0.0)
    assert registry.take_changes() == []
    assert (len(registry), registry.connection_ids) == (1, 2)
    registry.register(request(1, num=2), AWAY, holder=2, now=0.0)  # its own are no conflict
    registry.register(request(2, num=2, first=3), AWAY, holder=2, now=0.0)


def test_numbers_of_owners_are_used_again() -> None:
    registry = make()
    answers = [registry.register(request(each), HOME, each, 0.0) for each in range(1, 5)]
    registry.delete(answers[1].id)
    registry.delete(answers[0].id)
    registry.take_changes()
    for each in (5, 6, 7):
        registry.register(request(each), HOME, each, 0.0)
    moved = [change for change in registry.take_changes() if isinstance(change, OwnerMoved)]
    assert sorted(change.owner for change in moved) == [0, 1, 4]
    assert sorted(registry.owners()) == [0, 1, 2, 3, 4]
    assert registered(registry) == set().union(*(cids(n, 1, 2) for n in (3, 4, 5, 6, 7)))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_registrations": 2}, "no room for more registrations"),
        ({"max_connection_ids": 5}, "no room for more connection IDs"),
        ({"max_registrations_per_peer": 2}, "one peer has at most 2 registrations"),
    ],
)
def test_limits(limits: dict[str, float], expected: str) -> None:
    registry = make(retry_after_s=7.0, **limits)
    registry.register(request(1), HOME, holder=1, now=0.0)
    answer = registry.register(request(2), HOME, holder=1, now=0.0)
    registry.take_changes()
    with pytest.raises(RegistryFull, match=expected) as refused:
        registry.register(request(3), HOME, holder=1, now=0.0)
    assert refused.value.retry_after_s == 7.0
    assert registry.take_changes() == []
    assert len(registry) == 2
    registry.register(request(2), AWAY, holder=1, now=0.0)  # what it has may stay and move
    registry.delete(answer.id)
    registry.register(request(3), HOME, holder=1, now=0.0)


def test_one_address_has_no_more_registrations_by_many_connections() -> None:
    registry = make(max_registrations_per_peer=2)
    registry.register(request(1), HOME, holder=1, now=0.0)
    registry.register(request(2), HOME, holder=2, now=0.0)
    with pytest.raises(RegistryFull, match="one peer"):
        registry.register(request(3), HOME, holder=3, now=0.0)
    registry.register(request(3), AWAY, holder=3, now=0.0)


def test_one_address_has_no_more_registrations_by_moves() -> None:
    """Many connections that all go to one address: what does not fit stays where it was."""
    registry = make(max_registrations_per_peer=2)
    for each in (1, 2, 3):
        path = Path(Address("192.0.2.1", each), 0, "198.51.100.1")
        registry.register(request(each), path, holder=each, now=0.0)
    registry.take_changes()
    for each in (1, 2, 3):
        registry.move(each, AWAY)
    assert registry.take_changes() == [OwnerMoved(0, AWAY), OwnerMoved(1, AWAY)]
    elsewhere = Path(AWAY.remote, 0, "198.51.100.1")  # the same peer, by another listener
    registry.move(1, elsewhere)
    assert registry.take_changes() == [OwnerMoved(0, elsewhere)]
    registry.move(2, HOME)
    registry.move(3, AWAY)
    assert registry.take_changes() == [OwnerMoved(1, HOME), OwnerMoved(2, AWAY)]


def test_one_registration_does_not_grow_without_bound() -> None:
    registry = make(max_connection_ids_per_registration=5)
    registry.register(request(num=3), HOME, holder=1, now=0.0)
    registry.register(request(num=3, first=3), HOME, holder=1, now=0.0)
    with pytest.raises(RegistryFull, match="at most 5 connection IDs; this one has 5"):
        registry.register(request(num=1, first=6), HOME, holder=1, now=0.0)
    assert registry.register(request(num=5), HOME, holder=1, now=0.0).connection_ids == 5


def test_expiry_goes_in_small_steps_if_asked() -> None:
    registry = make()
    for each in range(10):
        registry.register(request(each), HOME, holder=each, now=0.0)
        registry.release(each, now=float(each))
    end = 9.0 + LEASE
    assert [registry.expire(end, at_most=4) for _ in range(4)] == [4, 4, 2, 0]
    assert registry.next_expiry() is None


def test_deleted_registrations_do_not_pile_up() -> None:
    """Each release queues a lease; those of deleted registrations are swept away in time."""
    registry = make()
    for each in range(1000):
        answer = registry.register(request(), HOME, holder=each, now=0.0)
        registry.release(each, now=0.0)
        registry.delete(answer.id)
    registry.register(request(), HOME, holder=1000, now=1.0)
    registry.release(1000, now=1.0)
    steps = itertools.takewhile(
        lambda _: registry.next_expiry() is not None,
        (registry.expire(now=1.0 + LEASE, at_most=1) for _ in range(1000)),
    )
    assert len(list(steps)) < 100
    assert len(registry) == 0
