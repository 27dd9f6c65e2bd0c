"""Whether a core is short."""

import threading
import time

import pytest

from relay.crowding import HEAVY_PER_S, Core, Forwarding, judge

MS = 1_000_000


@pytest.mark.parametrize(
    ("ran", "waited", "short"),
    [(18 * MS, 2 * MS, False), (18 * MS, 2 * MS + 1, True), (0, 20 * MS, True)],
    ids=["a tenth", "more than a tenth", "never its turn"],
)
def test_when_a_core_is_short(ran: int, waited: int, short: bool) -> None:
    for was_short in (False, True):
        assert judge(was_short, (5, 7), (5 + ran, 7 + waited)) == (short, (5 + ran, 7 + waited))
        assert judge(was_short, (5, 7), (5 + 9 * MS, 7 + 10 * MS)) == (was_short, (5, 7))


def test_a_core_is_looked_at_where_the_system_tells() -> None:
    core = Core()
    others = [threading.Thread(target=lambda: time.sleep(0.01)) for _ in range(3)]
    for each in others:
        each.start()
    assert core.is_short() in (False, True)
    for each in others:
        each.join()
    core.close()
    core.close()
    assert core.is_short() is False


def test_forwarding_is_heavy_from_a_rate_on() -> None:
    total, now = 0, 0.0
    forwarding = Forwarding(lambda: total, 1.0, lambda: now)
    assert not forwarding.is_heavy()
    for rate, expected in ((HEAVY_PER_S - 1, False), (HEAVY_PER_S, True), (0, False)):
        now += 1.0
        total += int(rate)
        assert forwarding.is_heavy() is expected
        now += 0.5  # too soon to judge anew
        assert forwarding.is_heavy() is expected
        now += 0.5
        total += int(rate)
        assert forwarding.is_heavy() is expected


def test_what_was_forwarded_long_before_does_not_count() -> None:
    total, now = 0, 0.0
    forwarding = Forwarding(lambda: total, 0.5, lambda: now)
    now, total = 5.0, int(10 * HEAVY_PER_S)
    assert not forwarding.is_heavy()
    now += 0.25
    assert not forwarding.is_heavy()
    now, total = now + 0.25, total + int(HEAVY_PER_S / 2)
    assert forwarding.is_heavy()
