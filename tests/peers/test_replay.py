"""The replay cache: an invite is answered once, and the memory for it is bounded."""

import pytest

from peers.replay import UNKNOWN_LIFETIME_S, ReplayCache


def test_a_packet_is_known_until_its_invite_expires() -> None:
    cache = ReplayCache()
    assert cache.add(b"packet", 100.0, now=0.0)
    assert not cache.add(b"packet", 100.0, now=99.9)
    assert cache.add(b"another", 100.0, now=99.9)
    assert cache.add(b"packet", 200.0, now=100.0)  # such an invite is refused for its age


def test_another_expiry_does_not_make_it_another_packet() -> None:
    cache = ReplayCache()
    assert cache.add(b"packet", 100.0, now=0.0)
    assert not cache.add(b"packet", 5000.0, now=1.0)
    assert not cache.add(b"packet", None, now=1.0)


def test_the_originals_invites_do_not_say_when_they_expire() -> None:
    cache = ReplayCache()
    assert cache.add(b"packet", None, now=0.0)
    assert not cache.add(b"packet", None, now=UNKNOWN_LIFETIME_S - 1)
    assert cache.add(b"packet", None, now=UNKNOWN_LIFETIME_S)


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_it_is_bounded_and_forgets_what_expires_first(count: int) -> None:
    cache = ReplayCache(max_entries=10)
    for number in range(count):
        assert cache.add(b"%d" % number, 1000.0 + number, now=0.0)
    assert len(cache) == min(count, 10)
    assert not cache.add(b"%d" % (count - 1), 1e9, now=0.0)


def test_what_has_expired_makes_room_first() -> None:
    cache = ReplayCache(max_entries=10)
    for number in range(10):
        cache.add(b"old %d" % number, 10.0, now=0.0)
    assert cache.add(b"new", 50.0, now=11.0)
    assert len(cache) == 1
