"""A rate shared fairly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.sharing import allot, max_min

WANTED = st.lists(st.floats(0, 1e9) | st.just(math.inf), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("total", "wanted", "shares"),
    [
        (10, [], []),
        (10, [5], [5]),
        (10, [50], [10]),
        (10, [1, 50], [1, 9]),
        (12, [2, 50, 50], [2, 5, 5]),
        (12, [50, 3, math.inf], [4.5, 3, 4.5]),
        (0, [1, 2], [0, 0]),
    ],
)
def test_max_min(total: float, wanted: list[float], shares: list[float]) -> None:
    assert max_min(total, wanted) == shares


@given(st.floats(0, 1e9), WANTED)
def test_nobody_has_more_than_he_wants_while_another_lacks_it(
    total: float, wanted: list[float]
) -> None:
    shares = max_min(total, wanted)
    assert sum(shares) <= total * (1 + 1e-9)
    assert all(0 <= share <= want for share, want in zip(shares, wanted, strict=True))
    short = [s for s, w in zip(shares, wanted, strict=True) if s < w]
    if short:
        assert sum(shares) == pytest.approx(total)
        assert max(shares) <= min(short) * (1 + 1e-6) + 1e-6


def test_what_nobody_wants_is_given_away() -> None:
    assert allot(10, [math.inf] * 2, [1, 3]) == [4, 6]
    assert allot(10, [2, math.inf], [1, 3]) == [2, 8]
    assert allot(10, [2, 2], [0, 0]) == [2, 2]
    assert allot(math.inf, [7, math.inf], [1, 1]) == [7, math.inf]
    assert allot(10, [], []) == []


@given(st.floats(1, 1e9), st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=9))
def test_all_of_it_is_given_away_as_far_as_it_is_taken(
    total: float, each: list[tuple[float, float]]
) -> None:
    caps = [cap for cap, _ in each]
    shares = allot(total, caps, [want for _, want in each])
    assert sum(shares) == pytest.approx(min(total, sum(caps)), abs=1e-3)
    assert all(share <= cap * (1 + 1e-9) + 1e-6 for share, cap in zip(shares, caps, strict=True))
