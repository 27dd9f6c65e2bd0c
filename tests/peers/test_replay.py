"""The replay cache: an invite is answered once, and the memory for it is bounded."""

import pytest

from peers.replay import ReplayCache


def test_a_packet_is_known_from_then_on() -> None:
    cache = ReplayCache()
    assert cache.add(b"packet")
    assert not cache.add(b"packet")
    assert cache.add(b"another")
    assert not cache.add(b"packet")


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_it_is_bounded_and_forgets_the_oldest(count: int) -> None:
    cache = ReplayCache(max_entries=10)
    for number in range(count):
        assert cache.add(b"%d" % number)
        assert not cache.add(b"0") or number >= 10
    assert len(cache) == min(count, 10)
    assert not cache.add(b"%d" % (count - 1))


def test_what_comes_again_does_not_become_younger() -> None:
    cache = ReplayCache(max_entries=2)
    cache.add(b"first")
    cache.add(b"second")
    assert not cache.add(b"first")
    assert cache.add(b"third")
    assert not cache.add(b"second")
    assert cache.add(b"first")


def test_what_was_not_answered_is_forgotten() -> None:
    cache = ReplayCache()
    cache.add(b"packet")
    cache.add(b"another")
    cache.forget(b"packet")
    cache.forget(b"unknown")
    assert len(cache) == 1
    assert cache.add(b"packet")
    assert not cache.add(b"another")
