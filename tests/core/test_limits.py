"""The rate limit: a bucket for each source, in a table that stays small."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.limits import RateLimiter, RateLimits, source_of
from relay.wire.address import Address


def test_burst_then_rate() -> None:
    limiter = RateLimiter(RateLimits(per_minute=120.0, burst=3))
    assert [limiter.take("a", 0.0) for _ in range(3)] == [0.0] * 3
    assert limiter.take("a", 0.0) == pytest.approx(0.5)
    assert limiter.take("a", 0.4) == pytest.approx(0.1)
    assert limiter.take("a", 0.5) == 0.0
    assert limiter.take("b", 0.5) == 0.0


def test_refusals_cost_nothing() -> None:
    limiter = RateLimiter(RateLimits(per_minute=60.0, burst=1))
    limiter.take("a", 0.0)
    for tenth in range(1, 10):
        assert limiter.take("a", tenth / 10) > 0
    assert limiter.take("a", 1.0) == 0.0


def test_clock_that_goes_back_gives_nothing() -> None:
    limiter = RateLimiter(RateLimits(per_minute=60.0, burst=1))
    limiter.take("a", 10.0)
    assert limiter.take("a", 0.0) > 0


def test_idle_sources_are_forgotten() -> None:
    limiter = RateLimiter(RateLimits(per_minute=60.0, burst=2))
    for n in range(1000):
        limiter.take(str(n), 0.0)
    assert len(limiter) == 1000
    for n in range(1000):
        limiter.take("x", 10.0 + n)
    assert len(limiter) == 1


def test_table_is_bounded_and_forgets_the_oldest() -> None:
    limiter = RateLimiter(RateLimits(per_minute=1.0, burst=1, max_sources=3))
    for source in "abcd":
        assert limiter.take(source, 0.0) == 0.0
    assert len(limiter) == 3
    assert limiter.take("d", 0.0) > 0
    assert limiter.take("a", 0.0) == 0.0  # forgotten


@pytest.mark.parametrize(
    "limits",
    [RateLimits(per_minute=0.0), RateLimits(burst=0), RateLimits(max_sources=0)],
)
def test_limits_that_let_nobody_in(limits: RateLimits) -> None:
    with pytest.raises(ValueError, match="positive"):
        RateLimiter(limits)


@given(st.lists(st.floats(0.0, 10.0), max_size=200), st.integers(1, 5), st.floats(1.0, 600.0))
def test_never_more_than_burst_and_rate(pauses: list[float], burst: int, per_minute: float) -> None:
    limiter = RateLimiter(RateLimits(per_minute=per_minute, burst=burst))
    now = taken = 0.0
    for pause in pauses:
        now += pause
        wait = limiter.take("a", now)
        assert math.isfinite(wait)
        assert wait >= 0.0
        taken += wait == 0.0
    assert taken <= burst + now * per_minute / 60.0 + 1e-6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%2", "fe80::1%2", True),
    ],
)
def test_source(one: str, other: str, same: bool) -> None:
    assert (source_of(Address(one, 1)) == source_of(Address(other, 2))) is same
