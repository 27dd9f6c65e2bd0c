"""How much that may be HTTP/3 is passed up: the last that is, and the first that is not."""

import itertools

import pytest

from relay.core.outcome import Outcome
from relay.crowding import HEAVY_PER_S, Forwarding
from relay.forwarding.door import HEAVY_OVER_S, ROOMY, SHORT, Door, Measure

from .forwarding_rig import Sent, long, rig, short
from .test_loops_agree import LOOPS, follow

BURST = 0.25
"""Seconds of a rate that may come at once."""

NUMBERS = itertools.count()

TO_HTTP3 = short(b"\x80" + bytes(11))
INITIAL = long(b"original", b"dialer's")


BEGIN = 1_000.0


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> float:
        return self.now


def admitted(door: Door[str], source: str, most: int, *, is_registered: bool = False) -> int:
    """How many of one source pass at this moment."""
    return sum(door.admits(source, is_registered) for _ in range(most))


def of_all(door: Door[str], is_registered: bool) -> int:
    """How many pass at this moment, each from a source of its own."""
    count = 0
    while door.admits(f"source {next(NUMBERS)}", is_registered):
        count += 1
    return count


@pytest.mark.parametrize(("measure", "is_short"), [(SHORT, True), (ROOMY, False)])
@pytest.mark.parametrize("is_registered", [False, True], ids=["stranger", "registered"])
def test_of_one_source(measure: Measure, is_short: bool, is_registered: bool) -> None:
    clock = Clock()
    door = Door[str](clock, lambda: is_short)

    def in_a_second() -> int:
        """Of one source in the same second, at a pace that bounds it no other way."""
        count = 0
        for _ in range(4_000):
            count += door.admits("one", is_registered)
            clock.now += 0.999 / 4_000
        return count

    all_of_them = measure.registered if is_registered else measure.strangers
    assert in_a_second() == min(measure.one, int(all_of_them * (1 + BURST)))
    if all_of_them > measure.one:
        assert door.admits("another", is_registered)
    assert not door.admits("one", is_registered)
    clock.now = BEGIN + 1.0
    assert door.admits("one", is_registered)


@pytest.mark.parametrize(("measure", "is_short"), [(SHORT, True), (ROOMY, False)])
@pytest.mark.parametrize("is_registered", [False, True], ids=["strangers", "registered"])
def test_of_all(measure: Measure, is_short: bool, is_registered: bool) -> None:
    clock = Clock()
    door = Door[str](clock, lambda: is_short)
    rate = measure.registered if is_registered else measure.strangers
    least = SHORT.registered if is_registered else SHORT.strangers
    burst = int(rate * BURST) + 1  # and the one that empties it
    if not is_short:
        burst += int(least * BURST) + 1
    assert of_all(door, is_registered) == burst
    assert door.admits("somebody", not is_registered)
    total = 0
    for _ in range(100):
        clock.now += 0.1
        total += of_all(door, is_registered)
    assert total == pytest.approx((rate if is_short else rate + least) * 10, rel=0.01)


def test_a_core_that_was_short_stays_so_for_a_while() -> None:
    clock = Clock()
    short = False
    door = Door[str](clock, lambda: short)
    of_all(door, is_registered=False)
    clock.now += 1.0
    short = True
    assert of_all(door, is_registered=False) == int(SHORT.strangers * BURST) + 1
    short = False
    clock.now += 1.999
    assert of_all(door, is_registered=False) == int(SHORT.strangers * BURST) + 1
    clock.now += 0.001
    assert of_all(door, is_registered=False) > ROOMY.strangers * BURST


def test_a_flood_of_strangers_keeps_nobody_out_who_is_registered() -> None:
    door = Door[str](Clock(), lambda: True)
    of_all(door, is_registered=False)
    assert admitted(door, "peer", 100, is_registered=True) == 100


def test_what_it_remembers_is_bounded() -> None:
    clock = Clock()
    door = Door[str](clock, lambda: False)
    for number in range(50_000):
        clock.now += 1e-5
        door.admits(str(number), is_registered=False)
    assert len(door._admitted) <= (ROOMY.strangers + SHORT.strangers) * (1 + BURST) + 2


@pytest.mark.parametrize("datagram", [TO_HTTP3, INITIAL], ids=["short", "initial"])
@pytest.mark.parametrize("name", LOOPS)
def test_each_loop_drops_what_is_too_much_and_counts_it(name: str, datagram: bytes) -> None:
    clock = Clock()
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.set_door(clock, lambda: True)
        last = int(SHORT.strangers * BURST) + 1
        while last:
            count = min(last, 50)
            assert each.exchange([Sent(3, datagram)] * count).outcomes == {Outcome.HTTP3: count}
            last -= count
        result = each.exchange([Sent(3, datagram), Sent(0, datagram), Sent(4, datagram)])
        assert result.outcomes == {Outcome.HTTP3_TOO_OFTEN: 2, Outcome.HTTP3: 1}
        assert {each.path(0)} == {message.path for message in result.up}
        clock.now += 1 / SHORT.strangers
        result = each.exchange([Sent(3, datagram), Sent(4, datagram)])
        assert result.outcomes == {Outcome.HTTP3: 1, Outcome.HTTP3_TOO_OFTEN: 1}


def test_a_flood_beside_heavy_forwarding_comes_in_for_a_moment_and_not_again() -> None:
    """The door looks no more while it is shut: what it finds then must not be out of date."""
    clock = Clock()
    forwarding = Forwarding(lambda: int(4 * HEAVY_PER_S * clock.now), HEAVY_OVER_S, clock)
    door = Door[str](clock, forwarding.is_heavy)  # the core is short all the time
    passed = []
    for _ in range(10):
        passed.append(0)
        for _ in range(5_000):
            passed[-1] += door.admits(f"source {next(NUMBERS)}", False)
            clock.now += 1.0 / 5_000
    assert passed[0] < 5_000 * (HEAVY_OVER_S + BURST) + 2 * SHORT.strangers
    assert max(passed[1:]) <= SHORT.strangers + 1
