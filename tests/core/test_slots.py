"""Slots: who may do what, in which order, how often and for how long."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.slots import (
    NoSuchSlot,
    Refusal,
    SlotConflict,
    SlotLimits,
    SlotRefused,
    Slots,
    SlotsFull,
)
from relay.wire.slots import MAX_MESSAGE, MAX_MESSAGES, MAX_NUMBER, End, Received

LIMITS = SlotLimits(
    lifetime_s=600.0,
    claimed_s=60.0,
    silence_s=60.0,
    remembered_s=30.0,
    rest_s=300.0,
    max_slots=20,
    max_slots_per_source=6,
    max_bytes=100,
    retry_after_s=7.0,
)
HOST, OTHER_HOST = "192.0.2.1", "192.0.2.2"
A, B, C = "a" * 32, "b" * 32, "c" * 32
JUST = 1e-9


def slots(limits: SlotLimits = LIMITS, seed: int = 1) -> Slots:
    return Slots(limits, below=random.Random(seed).randrange)


def claimed() -> tuple[Slots, int]:
    """A has opened a slot, B has claimed it."""
    made = slots()
    number = made.open(A, HOST, 0.0)
    made.claim(number, B, b"hello", OTHER_HOST, 0.0)
    made.take_changes()
    return made, number


def refuses(made: Slots, reason: Refusal) -> None:
    """It has counted one refusal, and it is this one."""
    assert made.refused == {reason: 1}


def test_an_exchange() -> None:
    made = slots()
    number = made.open(A, HOST, 0.0)
    assert made.receive(A, 0, 1.0) is None
    made.claim(number, B, b"hello", OTHER_HOST, 2.0)
    assert made.take_changes() == {A}
    assert made.receive(A, 0, 2.0) == Received(b"hello", None)
    made.send(A, 0, b"element", 3.0)
    assert made.take_changes() == {B}
    assert made.receive(B, 0, 3.0) == Received(b"element", None)
    assert made.receive(B, 1, 3.0) is None
    made.end(A, End.DONE, 4.0)
    assert made.take_changes() == {A, B}
    assert made.receive(B, 0, 4.0) == Received(b"element", None), "it was sent before the end"
    assert made.receive(B, 1, 4.0) == Received(None, End.DONE)
    assert made.ended == {End.DONE: 1}
    assert not made.refused


def test_a_request_that_comes_twice_does_what_it_did() -> None:
    made, number = claimed()
    assert made.open(A, HOST, 1.0) == number
    made.claim(number, B, b"hello", OTHER_HOST, 1.0)
    made.send(B, 1, b"x", 1.0)
    made.send(B, 1, b"x", 1.0)
    assert made.receive(A, 1, 1.0) == Received(b"x", None)
    made.end(B, End.WRONG_CODE, 1.0)
    made.end(A, End.DONE, 1.0)
    made.send(B, 1, b"x", 1.0)
    assert made.receive(A, 2, 1.0) == Received(None, End.WRONG_CODE), "the first reason stays"
    assert made.ended == {End.WRONG_CODE: 1}


def test_a_second_claimer_is_refused() -> None:
    made, number = claimed()
    with pytest.raises(SlotConflict, match="used by somebody already"):
        made.claim(number, C, b"me too", HOST, 1.0)
    refuses(made, Refusal.ALREADY_CLAIMED)
    assert made.receive(A, 0, 1.0) == Received(b"hello", None)
    assert not made.take_changes()


@pytest.mark.parametrize("number", [0, 10**6])
def test_a_number_that_nobody_has(number: int) -> None:
    made, _ = claimed()
    with pytest.raises(NoSuchSlot, match=f"begins with {number}"):
        made.claim(number, C, b"x", HOST, 0.0)
    refuses(made, Refusal.UNKNOWN_NUMBER)


def test_a_token_is_one_end_of_one_slot() -> None:
    made, _ = claimed()
    with pytest.raises(SlotConflict, match="token"):
        made.open(B, HOST, 0.0)
    other = made.open(C, HOST, 0.0)
    for token in (A, B, C):
        with pytest.raises(SlotConflict, match="token"):
            made.claim(other, token, b"x", HOST, 0.0)
    assert made.refused == {Refusal.TOKEN_IN_USE: 4}
    assert made.receive(C, 0, 0.0) is None


def test_a_token_that_nobody_has() -> None:
    made, _ = claimed()
    with pytest.raises(NoSuchSlot):
        made.send(C, 0, b"x", 0.0)
    with pytest.raises(NoSuchSlot):
        made.receive(C, 0, 0.0)
    with pytest.raises(NoSuchSlot):
        made.end(C, End.LEFT, 0.0)
    assert made.refused == {Refusal.UNKNOWN_TOKEN: 3}


def test_nothing_is_sent_before_the_claim_or_after_the_end() -> None:
    made = slots()
    number = made.open(A, HOST, 0.0)
    with pytest.raises(SlotConflict, match="nobody has claimed"):
        made.send(A, 0, b"x", 0.0)
    refuses(made, Refusal.NOT_CLAIMED)
    made.claim(number, B, b"hello", HOST, 0.0)
    made.end(B, End.LEFT, 0.0)
    with pytest.raises(SlotConflict, match="left"):
        made.send(A, 0, b"x", 0.0)
    assert made.refused[Refusal.OVER] == 1


def test_messages_come_in_order_and_are_not_replaced() -> None:
    made, _ = claimed()
    for number, message in ((0, b"another"), (2, b"too early")):
        with pytest.raises(SlotConflict, match="not the next"):
            made.send(B, number, message, 0.0)
    assert made.refused == {Refusal.WRONG_NUMBER: 2}


def test_how_many_messages() -> None:
    made, _ = claimed()
    for number in range(MAX_MESSAGES):
        made.send(A, number, b"%d" % number, 0.0)
    with pytest.raises(SlotConflict, match="at most"):
        made.send(A, MAX_MESSAGES, b"x", 0.0)
    refuses(made, Refusal.WRONG_NUMBER)


def test_how_many_bytes() -> None:
    made, _ = claimed()
    made.send(A, 0, bytes(60), 0.0)
    with pytest.raises(SlotConflict, match="100 bytes together"):
        made.send(A, 1, bytes(41), 0.0)
    refuses(made, Refusal.TOO_LONG)
    made.send(A, 1, bytes(40), 0.0)
    made.send(B, 1, bytes(60), 0.0)


def test_one_message_of_the_greatest_size_fits_by_default() -> None:
    made = slots(SlotLimits())
    number = made.open(A, HOST, 0.0)
    made.claim(number, B, bytes(MAX_MESSAGE), HOST, 0.0)
    made.send(B, 1, bytes(MAX_MESSAGE), 0.0)


def test_an_unclaimed_slot_lives_its_time() -> None:
    made = slots()
    made.open(A, HOST, 0.0)
    for second in range(0, 600, 25):
        assert made.receive(A, 0, float(second)) is None
    assert made.receive(A, 0, 600.0 - JUST) is None
    assert made.receive(A, 0, 600.0) == Received(None, End.EXPIRED)


def test_a_claim_in_the_last_moment() -> None:
    made = slots()
    number = made.open(A, HOST, 0.0)
    for second in range(0, 600, 25):
        made.receive(A, 0, float(second))
    made.claim(number, B, b"x", HOST, 600.0 - JUST)
    assert made.receive(B, 0, 600.0) == Received(None, End.EXPIRED)
    late = slots()
    number = late.open(A, HOST, 0.0)
    late.receive(A, 0, 599.0)
    with pytest.raises(NoSuchSlot):
        late.claim(number, B, b"x", HOST, 600.0)


def test_a_claimed_slot_lives_a_minute() -> None:
    made, _ = claimed()
    assert made.receive(B, 0, 60.0 - JUST) is None
    assert made.receive(B, 0, 60.0) == Received(None, End.EXPIRED)


def test_an_opener_that_waits_no_more_has_left() -> None:
    made = slots()
    number = made.open(A, HOST, 0.0)
    made.receive(A, 0, 10.0)
    assert made.receive(A, 0, 70.0 - JUST) is None
    with pytest.raises(NoSuchSlot):
        made.claim(number, B, b"x", OTHER_HOST, 130.0)
    assert made.receive(A, 0, 130.0) == Received(None, End.LEFT)


def test_an_end_is_remembered_and_then_forgotten() -> None:
    made, number = claimed()
    made.end(B, End.WRONG_CODE, 10.0)
    assert made.receive(A, 1, 40.0 - JUST) == Received(None, End.WRONG_CODE)
    assert len(made) == 1
    with pytest.raises(NoSuchSlot):
        made.receive(A, 1, 40.0)
    assert len(made) == 0
    with pytest.raises(NoSuchSlot):
        made.claim(number, C, b"x", HOST, 40.0)


def test_a_number_rests_before_it_is_given_away_again() -> None:
    made, number = claimed()
    made.end(B, End.DONE, 0.0)
    fresh = (f"{n:032x}" for n in itertools.count())

    def given_at(now: float) -> set[int]:
        return {made.open(next(fresh), f"host {n}", now) for n in range(4)}

    assert number not in given_at(0.0) | given_at(100.0) | given_at(200.0)
    anew = set()
    now = 300.0
    while number not in anew and now < 100_000:
        anew |= given_at(now)
        now += 300.0
    assert number in anew


def test_numbers_are_short_and_not_in_order() -> None:
    limits = SlotLimits(max_slots=500, max_slots_per_source=500)
    made = slots(limits)
    numbers = [made.open(f"{n:032x}", HOST, 0.0) for n in range(500)]
    assert len(set(numbers)) == 500
    assert max(numbers[:5]) <= 9
    assert max(numbers[:50]) <= 99
    assert max(numbers) <= 999 <= MAX_NUMBER
    assert numbers[:5] != sorted(numbers[:5]) or numbers[5:10] != sorted(numbers[5:10])
    others = [slots(limits, seed).open(A, HOST, 0.0) for seed in range(200)]
    assert set(others) == set(range(1, 10)), "any of the shortest may come first"


def test_who_tries_numbers_makes_them_longer() -> None:
    """Thirty claims a minute would else find every code within seconds."""
    made = slots()
    for guess in range(50):
        with pytest.raises(NoSuchSlot):
            made.claim(900_000, f"{guess:032x}", b"x", "guesser", guess * 2.0)
    numbers = [made.open(f"{n:032x}", f"source {n}", 100.0) for n in range(4)]
    assert max(numbers) > 99
    assert max(numbers) <= 9_999
    made.open("e" * 32, "source", 2000.0)  # what was before is over now, and rests
    assert made.open("f" * 32, "source", 4000.0) <= 9


def test_no_number_is_too_long_however_many_guesses_there_were() -> None:
    made = slots()
    for guess in range(60_000):
        with pytest.raises(NoSuchSlot):
            made.claim(900_000, f"{guess:032x}", b"x", "guesser", 0.0)
    assert 999 < made.open("f" * 32, "source", 1.0) <= MAX_NUMBER


def test_how_many_of_one_source() -> None:
    made = slots()
    number = 0
    for n in range(5):
        number = made.open(f"{n:032x}", HOST, 0.0)
    made.claim(number, B, b"x", HOST, 0.0)  # claims count, too
    with pytest.raises(SlotsFull, match="at most 6") as refused:
        made.open(C, HOST, 0.0)
    assert refused.value.retry_after_s == 7.0
    other = made.open(A, OTHER_HOST, 0.0)
    with pytest.raises(SlotsFull):
        made.claim(other, C, b"x", HOST, 0.0)
    assert made.refused == {Refusal.SLOTS_OF_SOURCE_FULL: 2}
    made.end(B, End.DONE, 0.0)
    with pytest.raises(SlotsFull):  # as long as it is remembered
        made.claim(other, C, b"x", HOST, 30.0 - JUST)
    made.claim(other, C, b"x", HOST, 30.0)


def test_how_many_in_all() -> None:
    made = slots()
    for n in range(20):
        made.open(f"{n:032x}", f"host {n}", 0.0)
    with pytest.raises(SlotsFull, match="no more than 20") as refused:
        made.open(A, HOST, 0.0)
    assert refused.value.retry_after_s == 7.0
    refuses(made, Refusal.SLOTS_FULL)
    with pytest.raises(SlotsFull):
        made.open(A, HOST, 60.0)  # they have been silent too long, and are remembered
    with pytest.raises(SlotsFull):
        made.open(A, HOST, 90.0 - JUST)
    made.open(A, HOST, 90.0)
    assert len(made) == 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "claim", "send", "receive", "end"]),
        st.integers(0, 5),  # the token
        st.integers(0, MAX_MESSAGES),  # the message's number
        st.integers(1, 12),  # the slot's number
        st.floats(0, 80),  # seconds since the step before
    ),
    max_size=60,
)


@given(STEPS)
def test_any_order_of_requests_keeps_within_the_bounds(
    steps: list[tuple[str, int, int, int, float]],
) -> None:
    limits = SlotLimits(60.0, 20.0, 30.0, 10.0, 40.0, 4, 3, 100, 7.0)
    made = slots(limits)
    now = 0.0
    for what, who, index, number, pause in steps:
        now += pause
        token, source = f"{who:032x}", f"host {who % 2}"
        try:
            match what:
                case "open":
                    assert 1 <= made.open(token, source, now) <= 99
                case "claim":
                    made.claim(number, token, b"x", source, now)
                case "send":
                    made.send(token, index, bytes(30), now)
                case "receive":
                    made.receive(token, index, now)
                case _:
                    made.end(token, End.LEFT, now)
        except SlotRefused:
            pass
        assert len(made) <= limits.max_slots
        made.take_changes()
    later = now + 1000.0
    with pytest.raises(NoSuchSlot):
        made.receive("f" * 32, 0, later)
    with pytest.raises(NoSuchSlot):
        made.receive("f" * 32, 0, later + 1000.0)
    assert len(made) == 0
    assert not made._by_token
    assert not made._by_source
    assert not made._resting
    assert not made._due
