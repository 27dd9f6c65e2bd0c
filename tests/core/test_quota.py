"""What one source may have of the relay: the last that is allowed, the first that is refused, and
when there is room again. The source is an IPv4 address or an IPv6 /64, whatever the port."""

import itertools
from collections.abc import Callable

import pytest

from relay.core.path import Path
from relay.core.quota import SourceQuota
from relay.core.registry import Registry, RegistryFull, RegistryLimits
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterRequest

LEASE = 180.0
REGISTRATIONS = 3
CONNECTION_IDS = 12
LIMITS = RegistryLimits(
    lease_s=LEASE,
    max_registrations_per_source=REGISTRATIONS,
    max_connection_ids_per_source=CONNECTION_IDS,
    retry_after_s=7.0,
)
HOST, OTHER_HOST, THIRD_HOST = "192.0.2.1", "192.0.2.2", "127.0.0.1"


class Site:
    """A registry, and peers with a port, a connection and a key each."""

    def __init__(self) -> None:
        ids = itertools.count()
        self.registry = Registry(LIMITS, new_id=lambda: f"{next(ids):032x}")

    def register(self, number: int, host: str, num: int = 2, first: int = 1) -> str:
        request = RegisterRequest(number.to_bytes(16, "big"), num, Derivation.BLAKE2B, first)
        return self.registry.register(request, path(number, host), number, now=0.0).id

    def refuses(self, number: int, host: str, num: int = 2, first: int = 1) -> None:
        self.registry.take_changes()
        before = len(self.registry), self.registry.connection_ids
        with pytest.raises(RegistryFull, match="one source has at most 3 registra") as refused:
            self.register(number, host, num, first)
        assert refused.value.retry_after_s == 7.0
        assert self.registry.take_changes() == []
        assert (len(self.registry), self.registry.connection_ids) == before


def path(number: int, host: str) -> Path:
    return Path(Address(host, 1000 + number), 0, "198.51.100.1")


def full() -> Site:
    """HOST has three registrations with two connection IDs each."""
    site = Site()
    for number in range(REGISTRATIONS):
        site.register(number, HOST)
    return site


@pytest.mark.parametrize(
    ("host", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1"),
    ],
)
def test_registrations_of_one_source(host: str, same: str, other: str) -> None:
    site = Site()
    for number in range(REGISTRATIONS):
        site.register(number, host)
    site.refuses(3, same)
    site.register(3, other)
    site.register(0, same)  # what is there may stay, and be extended
    site.register(0, same, num=6, first=3)
    site.refuses(0, same, num=1, first=9)


def test_connection_ids_of_one_source() -> None:
    site = Site()
    site.register(0, HOST, num=8)
    site.refuses(1, HOST, num=5)
    site.register(1, HOST, num=4)
    site.refuses(2, HOST, num=1)
    site.refuses(0, HOST, num=1, first=9)
    site.register(0, HOST, num=8)
    site.register(2, OTHER_HOST, num=12)
    site.refuses(3, OTHER_HOST, num=1)


def end_lease(site: Site) -> None:
    site.registry.release(0, now=0.0)
    assert site.registry.expire(now=LEASE) == 1


def delete(site: Site) -> None:
    assert site.registry.delete(site.register(0, HOST))


def move(site: Site) -> None:
    site.registry.move(0, path(0, OTHER_HOST))


def take_over(site: Site) -> None:
    site.register(0, OTHER_HOST)


def take_over_and_extend(site: Site) -> None:
    site.register(0, OTHER_HOST, num=CONNECTION_IDS)


@pytest.mark.parametrize("leave", [end_lease, delete, move, take_over, take_over_and_extend])
def test_there_is_room_again(leave: Callable[[Site], None]) -> None:
    site = full()
    site.refuses(3, HOST)
    leave(site)
    site.register(3, HOST, num=CONNECTION_IDS - 4)
    site.refuses(4, HOST)
    site.refuses(3, HOST, num=1, first=CONNECTION_IDS)


@pytest.mark.parametrize("arrive", [move, take_over])
def test_who_has_moved_counts_where_he_is(arrive: Callable[[Site], None]) -> None:
    site = full()
    arrive(site)
    site.register(10, OTHER_HOST)
    site.register(11, OTHER_HOST)
    site.refuses(12, OTHER_HOST)


def test_two_sources_get_two_shares_however_they_move() -> None:
    """No move is refused; but where there is no room, it makes none where it came from."""
    site = full()
    for number in range(3):
        site.registry.move(number, path(number, OTHER_HOST))
    for number in range(3, 6):
        site.register(number, HOST)
    for number in range(3, 6):
        site.registry.take_changes()
        site.registry.move(number, path(number, OTHER_HOST))
        assert len(site.registry.take_changes()) == 1
    site.refuses(6, HOST)
    site.refuses(6, OTHER_HOST)
    site.refuses(5, OTHER_HOST, num=7, first=3)  # its share is at HOST, and has room for six
    site.register(5, OTHER_HOST, num=6, first=3)
    site.registry.release(0, now=0.0)  # of those that count at OTHER_HOST
    site.registry.expire(now=LEASE)
    site.refuses(6, HOST)
    site.register(5, OTHER_HOST)  # and now this one does
    site.register(6, HOST, num=8)


def test_restored_registrations_count_where_they_are() -> None:
    site = full()
    records = [site.registry.record(owner, 0.0) for owner in site.registry.owners()]
    again = Site()
    again.registry.restore([record for record in records if record is not None], now=0.0)
    again.refuses(3, HOST)
    again.registry.move(0, path(0, OTHER_HOST))  # held by nobody yet: it stays
    again.refuses(3, HOST)
    again.register(0, OTHER_HOST)
    again.register(3, HOST)


def test_more_than_a_share_is_restored() -> None:
    site = full()
    for number in range(3, 5):
        site.register(number, OTHER_HOST)
        site.registry.delete(site.register(number - 3, HOST))
        site.registry.move(number, path(number, HOST))
        site.register(number - 3, THIRD_HOST)
        site.registry.move(number - 3, path(number - 3, HOST))
    records = [site.registry.record(owner, 0.0) for owner in site.registry.owners()]
    again = Site()
    there = [record for record in records if record is not None]
    assert again.registry.restore(there, now=0.0) == len(there) == 5
    again.refuses(9, HOST)


def test_only_sources_that_have_something_are_remembered() -> None:
    quota = SourceQuota(LIMITS)
    quota.add("one", 1, 0)
    quota.add("one", 0, 5)
    quota.add("two", 1, 0)
    assert len(quota) == 2
    quota.add("one", -1, -5)
    assert len(quota) == 1
    quota.add("two", -1, 0)
    assert len(quota) == 0


def test_one_source_leaves_room_for_others() -> None:
    """The limits as they are by default: a whole relay takes twenty sources to fill."""
    limits = RegistryLimits()
    assert limits.max_connection_ids_per_source * 20 <= limits.max_connection_ids
    assert limits.max_registrations_per_source * 20 <= limits.max_registrations
