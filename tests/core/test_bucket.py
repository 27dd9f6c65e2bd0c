"""A token bucket at its edges."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.bucket import BURST_S, Bucket, Used


def bucket(bytes_per_s: float = math.inf, packets_per_s: float = math.inf) -> Bucket:
    made = Bucket()
    made.set_rate(bytes_per_s, packets_per_s)
    return made


def passed(made: Bucket, size: int, now: float, most: int = 10_000) -> int:
    """How many packets of a size pass at this moment."""
    for count in range(most):
        if not made.has(now):
            return count
        made.take(1, size, now)
    return most


def test_without_a_rate_everything_passes() -> None:
    assert passed(bucket(), 1500, 0.0) == 10_000


def test_packets() -> None:
    made = bucket(packets_per_s=64)
    assert passed(made, 1, 0.0) == 17  # a burst, and the one that empties it
    assert passed(made, 1, 1 / 64 - 1e-9) == 0
    assert passed(made, 1, 1 / 64) == 1
    assert passed(made, 1, 100.0) == 17


def test_bytes() -> None:
    made = bucket(bytes_per_s=1000)
    assert passed(made, 125, 0.0) == 3
    assert passed(made, 1, 0.125 - 1e-9) == 0
    assert passed(made, 1, 0.125) == 1


def test_one_packet_may_be_larger_than_the_bucket() -> None:
    made = bucket(bytes_per_s=1000)
    assert passed(made, 65_000, 0.0) == 1
    assert passed(made, 1, 65.0 - BURST_S - 1e-9) == 0
    assert passed(made, 1, 65.0 - BURST_S) == 1


def test_shut() -> None:
    made = bucket(bytes_per_s=0)
    assert made.is_shut
    assert passed(made, 1, 1e9) == 0
    assert not made.has_all(1, 1, 1e9)
    made.set_rate(1000, math.inf)
    assert passed(made, 1, 1e9)


def test_a_new_rate_forgives_no_debt() -> None:
    made = bucket(packets_per_s=10)
    passed(made, 1, 0.0)
    made.set_rate(math.inf, 1000)
    assert passed(made, 1, 0.0) == 0
    assert passed(made, 1, 0.5) > 200


def test_what_it_counts() -> None:
    made = bucket(packets_per_s=1)
    made.take(2, 300, 0.0)
    made.drop(3, 400)
    assert made.take_used(7) == Used(7, 300, 2, 400, 3)
    assert made.take_used(7) == Used(7, 0, 0, 0, 0)


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.integers(1, 40), st.integers(13, 1500)), max_size=40),
    st.floats(1e3, 1e6),
    st.floats(10, 1e4),
)
def test_a_batch_that_passes_whole_would_pass_one_by_one(
    batches: list[tuple[float, int, int]], bytes_per_s: float, packets_per_s: float
) -> None:
    now, whole, single = 0.0, bucket(bytes_per_s, packets_per_s), bucket(bytes_per_s, packets_per_s)
    for pause, count, size in batches:
        now += pause
        if whole.has_all(count, count * size, now):
            whole.take(count, count * size, now)
            assert passed(single, size, now, most=count) == count


@pytest.mark.parametrize("size", [13, 200, 1500])
def test_the_rate_is_kept_over_time(size: int) -> None:
    made = bucket(bytes_per_s=100_000)
    total = sum(size * passed(made, size, at / 100) for at in range(1000))
    assert total == pytest.approx(1_000_000 + 25_000, rel=0.02)
