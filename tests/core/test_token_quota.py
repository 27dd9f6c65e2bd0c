"""What the tokens of one subject may have: the last that is allowed, the first that is refused, and
what becomes of it when a token ends, is renewed or revoked."""

import itertools

import pytest

from relay.core.admission import Grant, TokenLimits
from relay.core.path import Path
from relay.core.quota import RegistryRefusal, TokenOver
from relay.core.registry import Registry, RegistryFull, RegistryLimits
from relay.core.table import OwnerMoved, OwnerRemoved
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterAnswer, RegisterRequest

LEASE = 100.0
LIMITS = RegistryLimits(
    lease_s=LEASE, max_registrations_per_token=3, max_connection_ids_per_token=12
)


class Site:
    """A registry; each key number has a connection and a port of its own."""

    def __init__(self, first_id: int = 0) -> None:
        ids = itertools.count(first_id)
        self.registry = Registry(LIMITS, new_id=lambda: f"{next(ids):032x}")

    def register(
        self, key: int, grant: Grant | None, num: int = 2, first: int = 1, now: float = 0.0
    ) -> RegisterAnswer:
        request = RegisterRequest(key.to_bytes(16, "big"), num, Derivation.BLAKE2B, first)
        path = Path(Address(f"192.0.2.{key}", 1000), 0, "198.51.100.1")
        return self.registry.register(request, path, key, now, grant)

    def refused(self, key: int, grant: Grant, num: int = 2, first: int = 1) -> RegistryRefusal:
        self.registry.take_changes()
        before = len(self.registry), self.registry.connection_ids
        with pytest.raises(RegistryFull, match="your token permits") as error:
            self.register(key, grant, num, first)
        assert (len(self.registry), self.registry.connection_ids) == before
        assert self.registry.take_changes() == []
        assert self.registry.refused == {error.value.reason: 1}
        self.registry.refused.clear()
        return error.value.reason


def grant(
    subject: str = "alice",
    token: str = "t1",
    *,
    left_s: float = 1e6,
    fresh: bool = True,
    **limits: int,
) -> Grant:
    return Grant(subject, token, left_s, left_s, TokenLimits(**limits), fresh)


def test_registrations_of_one_subject() -> None:
    site = Site()
    for key in (1, 2, 3):
        site.register(key, grant(token=f"t{key}"))
    assert site.refused(4, grant(token="t4")) is RegistryRefusal.TOKEN_FULL
    site.register(1, grant())  # one that it has
    site.register(4, grant("bob"))
    site.registry.delete(site.register(2, grant()).id)
    site.register(5, grant())
    assert site.refused(6, grant()) is RegistryRefusal.TOKEN_FULL


def test_what_the_token_says_goes_before_the_relays_own_limit() -> None:
    site = Site()
    site.register(1, grant(registrations=1))
    assert site.refused(2, grant(registrations=1)) is RegistryRefusal.TOKEN_FULL
    for key in (2, 3, 4, 5):
        site.register(key, grant(registrations=5))
    assert site.refused(6, grant(registrations=5)) is RegistryRefusal.TOKEN_FULL


def test_connection_ids_of_one_subject() -> None:
    site = Site()
    site.register(1, grant(), 7)
    site.register(2, grant(), 5)
    assert site.refused(1, grant(), 1, first=8) is RegistryRefusal.TOKEN_CIDS_FULL
    assert site.refused(3, grant(), 1) is RegistryRefusal.TOKEN_CIDS_FULL
    site.register(2, grant(), 5)  # those that it has
    site.register(3, grant(connection_ids=13), 1)
    assert site.refused(3, grant(connection_ids=13), 2) is RegistryRefusal.TOKEN_CIDS_FULL


def test_a_registration_goes_over_to_another_subject() -> None:
    site = Site()
    for key in (1, 2, 3):
        site.register(key, grant())
    site.register(3, grant("bob"))
    site.register(4, grant())
    assert site.refused(3, grant()) is RegistryRefusal.TOKEN_FULL  # not back again
    for key in (5, 6):
        site.register(key, grant("bob"))
    assert site.refused(7, grant("bob")) is RegistryRefusal.TOKEN_FULL


def test_it_ends_with_its_token_though_its_connection_lives() -> None:
    site = Site()
    site.register(1, grant(left_s=50.0))
    assert site.registry.next_expiry() == 50.0
    site.registry.expire(49.999)
    assert len(site.registry) == 1
    site.registry.take_changes()
    assert site.registry.expire(50.0) == 1
    assert [type(each) for each in site.registry.take_changes()] == [OwnerRemoved]
    for key in (1, 2, 3):
        site.register(key, grant(), now=50.0)


def test_a_lease_ends_before_its_token() -> None:
    site = Site()
    site.register(1, grant(left_s=500.0))
    site.registry.release(1, 10.0)
    assert site.registry.next_expiry() == 10.0 + LEASE
    assert site.registry.expire(10.0 + LEASE - 0.001) == 0
    assert site.registry.expire(10.0 + LEASE) == 1


def test_a_newer_token_prolongs_it_and_an_older_one_does_not_shorten_it() -> None:
    site = Site()
    site.register(1, grant(left_s=50.0))
    site.register(1, grant(token="t2", left_s=150.0))
    site.register(1, grant(left_s=50.0))
    assert site.registry.expire(149.0) == 0
    assert site.registry.revoke({"t1"}) == 0
    assert site.registry.expire(150.0) == 1


def test_an_expired_token_goes_on_with_what_there_is_and_begins_nothing() -> None:
    site = Site()
    site.register(1, grant(left_s=50.0))
    over = grant(left_s=20.0, fresh=False)
    site.register(1, over, 4)
    with pytest.raises(TokenOver):
        site.register(2, over)
    with pytest.raises(TokenOver):
        site.register(1, grant("bob", fresh=False))
    site.register(3, None)
    with pytest.raises(TokenOver):
        site.register(3, over)
    assert site.registry.refused == {RegistryRefusal.TOKEN_EXPIRED: 3}


def test_revoking_ends_what_came_by_the_token() -> None:
    site = Site()
    for key, token in ((1, "t1"), (2, "t2"), (3, "t1")):
        site.register(key, grant(token=token))
    site.registry.take_changes()
    assert site.registry.revoke({"t1", "unknown"}) == 2
    assert [type(each) for each in site.registry.take_changes()] == [OwnerRemoved] * 2
    assert site.registry.revoke({"t1"}) == 0
    assert len(site.registry) == 1
    site.register(4, grant())


def test_a_changed_grant_is_told_to_the_forwarders() -> None:
    site = Site()
    site.register(1, grant())
    site.registry.take_changes()
    site.register(1, grant())
    assert site.registry.take_changes() == []
    site.register(1, grant(bytes_per_s=1000))
    assert [type(each) for each in site.registry.take_changes()] == [OwnerMoved]


def test_a_grant_outlives_a_restart() -> None:
    site = Site()
    site.register(1, grant(left_s=50.0))
    record = site.registry.record(0, 0.0)
    assert record is not None
    again = Site(first_id=100)
    assert again.registry.restore([record], 10.0) == 1
    again.register(2, grant())
    again.register(3, grant())
    assert again.refused(4, grant()) is RegistryRefusal.TOKEN_FULL
    assert again.registry.expire(50.0) == 1


def test_limits_can_be_changed() -> None:
    site = Site()
    site.register(1, grant())
    site.registry.change_limits(RegistryLimits(max_registrations_per_token=1))
    assert site.refused(2, grant()) is RegistryRefusal.TOKEN_FULL
    site.registry.change_limits(LIMITS)
    site.register(2, grant())
