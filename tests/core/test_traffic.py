"""What was forwarded for each registration."""

import numpy as np
import pytest

from relay.core.traffic import IDLE_AFTER_S, Count, Traffic


def kernel(traffic: Traffic, *counts: tuple[int, int]) -> None:
    packets, sizes = zip(*counts, strict=True)
    traffic.set_kernel(np.array(packets, np.uint64), np.array(sizes, np.uint64))


def total(traffic: Traffic, owner: int) -> Count:
    use = traffic.use(owner)
    assert use is not None
    return use.total


def test_workers_and_kernel_are_added_up() -> None:
    traffic = Traffic()
    traffic.begin(1, 10.0)
    traffic.add(1, 2, 200)
    traffic.add(1, 1, 100)
    kernel(traffic, (9, 9), (5, 500))
    use = traffic.use(1)
    assert use is not None
    assert (use.userspace, use.kernel, use.total) == (Count(3, 300), Count(5, 500), Count(8, 800))
    assert use.began == 10.0
    assert use.forwarded_at is None
    assert traffic.kernel_bytes == 500, "owner 0 is nobody"


def test_who_is_not_there_has_nothing() -> None:
    traffic = Traffic()
    traffic.add(0, 1, 1)
    assert traffic.use(0) is None
    traffic.begin(0, 0.0)
    traffic.add(0, 1, 1)
    traffic.end(0)
    assert traffic.use(0) is None
    traffic.end(77)


def test_a_number_that_is_used_again_begins_from_nought() -> None:
    traffic = Traffic()
    traffic.begin(0, 0.0)
    traffic.add(0, 5, 5)
    kernel(traffic, (5, 5))
    traffic.sample(0.0)
    traffic.end(0)
    traffic.begin(0, 3.0)
    assert total(traffic, 0) == (0, 0)
    kernel(traffic, (1, 7))
    assert total(traffic, 0) == (1, 7)


def test_a_counter_of_the_kernel_that_begins_anew_counts_on() -> None:
    traffic = Traffic()
    traffic.begin(0, 0.0)
    kernel(traffic, (5, 500))
    kernel(traffic, (8, 800))
    kernel(traffic, (2, 200))
    assert total(traffic, 0) == (10, 1000)
    assert traffic.kernel_bytes == 1000


def test_rates_are_those_of_the_last_seconds() -> None:
    traffic = Traffic()
    traffic.begin(0, 0.0)
    traffic.sample(0.0)
    traffic.add(0, 10, 1000)
    traffic.sample(1.0)
    use = traffic.use(0)
    assert use is not None
    assert (use.packets_per_s, use.bytes_per_s) == (5.0, 500.0)
    for second in range(2, 12):
        traffic.add(0, 10, 1000)
        traffic.sample(float(second))
    use = traffic.use(0)
    assert use is not None
    assert use.bytes_per_s == pytest.approx(1000, rel=0.01)
    assert use.forwarded_at == 11.0
    for second in range(12, 40):
        traffic.sample(float(second))
    use = traffic.use(0)
    assert use is not None
    assert (use.packets_per_s, use.bytes_per_s) == (0.0, 0.0)


def test_what_the_kernel_forwarded_before_this_run_was_not_forwarded_just_now() -> None:
    traffic = Traffic()
    traffic.begin(0, 0.0)
    traffic.sample(0.0)
    kernel(traffic, (1_000_000, 10**9))
    traffic.sample(1.0)
    use = traffic.use(0)
    assert use is not None
    assert use.bytes_per_s == 0.0
    assert use.total == (1_000_000, 10**9)


def test_it_is_idle_when_nothing_came_for_a_while_and_that_is_said_once() -> None:
    traffic = Traffic()
    traffic.begin(0, 0.0)
    traffic.begin(1, 0.0)
    assert traffic.sample(0.0) == []
    traffic.add(0, 1, 100)
    assert traffic.sample(1.0) == []
    assert traffic.sample(1.0 + IDLE_AFTER_S - 0.001) == []
    assert traffic.sample(1.0 + IDLE_AFTER_S) == [0], "owner 1 was never busy"
    assert traffic.sample(2.0 + IDLE_AFTER_S) == []
    traffic.add(0, 1, 100)
    assert traffic.sample(3.0 + IDLE_AFTER_S) == []
    assert traffic.sample(3.0 + 2 * IDLE_AFTER_S) == [0]


def test_the_busiest_come_first() -> None:
    traffic = Traffic()
    for owner in range(5):
        traffic.begin(owner, float(owner))
        traffic.add(owner, 10 - owner, 100 * owner)
    assert traffic.busiest(3, by="bytes") == [4, 3, 2]
    assert traffic.busiest(2, by="packets") == [0, 1]
    assert traffic.busiest(99, by="began") == [4, 3, 2, 1, 0]
    assert traffic.busiest(99) == [0, 1, 2, 3, 4], "all have the same rate"
    traffic.end(4)
    assert traffic.busiest(1, by="bytes") == [3]
    with pytest.raises(ValueError, match="no order by x"):
        traffic.busiest(1, by="x")


def test_there_is_room_for_owners_of_any_number() -> None:
    traffic = Traffic()
    traffic.begin(3, 0.0)
    traffic.add(3, 1, 11)
    traffic.begin(99_999, 0.0)
    traffic.add(99_999, 2, 22)
    assert total(traffic, 3) == (1, 11)
    assert total(traffic, 99_999) == (2, 22)
    kernel(traffic, (1, 1))
    assert traffic.sample(1.0) == []
