"""Whether a core is short."""

import threading
import time

import pytest

from relay.crowding import Core, judge

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
