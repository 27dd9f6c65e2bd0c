"""How much that may be HTTP/3 is passed up: the last that is, and the first that is not."""

import pytest

from relay.core.outcome import Outcome
from relay.forwarding.door import (
    REGISTERED_ONE_PER_S,
    REGISTERED_PER_S,
    STRANGER_PER_S,
    STRANGERS_PER_S,
    Door,
)

from .forwarding_rig import Sent, long, rig, short
from .test_loops_agree import LOOPS, follow

BURST = 0.25
"""Seconds of a rate that may come at once."""

TO_HTTP3 = short(b"\x80" + bytes(11))
INITIAL = long(b"original", b"dialer's")


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def admitted(door: Door[str], source: str, most: int, *, is_registered: bool = False) -> int:
    """How many of one source pass at this moment."""
    return sum(door.admits(source, is_registered) for _ in range(most))


@pytest.mark.parametrize(
    ("is_registered", "most"), [(False, STRANGER_PER_S), (True, REGISTERED_ONE_PER_S)]
)
def test_of_one_source(is_registered: bool, most: int) -> None:
    clock = Clock()
    door = Door[str](clock)
    assert admitted(door, "one", most + 9, is_registered=is_registered) == most
    assert door.admits("another", is_registered)
    clock.now += 0.999
    assert not door.admits("one", is_registered)
    clock.now += 0.001
    assert admitted(door, "one", most + 9, is_registered=is_registered) == most


@pytest.mark.parametrize(
    ("is_registered", "rate"), [(False, STRANGERS_PER_S), (True, REGISTERED_PER_S)]
)
def test_of_all(is_registered: bool, rate: float) -> None:
    clock = Clock()
    door = Door[str](clock)
    names = iter(range(10**6))

    def all_at_once() -> int:
        """Each from a source of its own."""
        count = 0
        while door.admits(str(next(names)), is_registered):
            count += 1
        return count

    burst = int(rate * BURST)
    assert all_at_once() == burst + 1  # and the one that empties it
    assert door.admits("somebody", not is_registered)
    clock.now += 1.5 / rate
    assert all_at_once() == 1
    total = 0
    for _ in range(100):
        clock.now += 0.1
        total += all_at_once()
    assert total == pytest.approx(rate * 10, abs=2)


def test_a_flood_of_strangers_keeps_nobody_out_who_is_registered() -> None:
    door = Door[str](Clock())
    while door.admits(str(object()), is_registered=False):
        pass
    assert admitted(door, "peer", 100, is_registered=True) == 100


def test_what_it_remembers_is_bounded() -> None:
    clock = Clock()
    door = Door[str](clock)
    for number in range(50_000):
        clock.now += 1e-5
        door.admits(str(number), is_registered=False)
    assert len(door._admitted) <= STRANGERS_PER_S * (1 + BURST) + 1


@pytest.mark.parametrize("datagram", [TO_HTTP3, INITIAL], ids=["short", "initial"])
@pytest.mark.parametrize("name", LOOPS)
def test_each_loop_drops_what_is_too_much_and_counts_it(name: str, datagram: bytes) -> None:
    clock = Clock()
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.set_time(clock)
        result = each.exchange([Sent(3, datagram)] * 50)
        for _ in range(STRANGER_PER_S // 50 - 1):
            result = each.exchange([Sent(3, datagram)] * 50)
            assert result.outcomes == {Outcome.HTTP3: 50}
        result = each.exchange([Sent(3, datagram), Sent(0, datagram), Sent(4, datagram)])
        assert result.outcomes == {Outcome.HTTP3_TOO_OFTEN: 1, Outcome.HTTP3: 2}
        assert {each.path(0), each.path(4)} == {message.path for message in result.up}
        clock.now += 1.0
        assert each.exchange([Sent(3, datagram)]).outcomes == {Outcome.HTTP3: 1}
