"""When a path is taken, doubted, given up and looked for again: the parts, moment by moment."""

import itertools

import pytest

from peers.paths.candidate import Kind
from peers.paths.pair import CHECK_S, Pair
from peers.paths.search import BOTH_DEPENDENT_S, HOPE_S, ROUND_S, Search
from peers.paths.selection import (
    BETTER_FOR_S,
    BETTER_SAMPLES,
    FAVOURITE_S,
    STANDBY_MISSES,
    WORSE_FOR_S,
    Selection,
    keep_up,
    standby_due,
)
from peers.paths.watch import IDLE_PATIENCE_S, KEEPALIVE_S, LATE_S, PROBES_ONLY_S, Watch
from relay.wire.address import Address


def _valid(round_trip_s: float, port: int = 5_000) -> Pair:
    pair = Pair(1, Address("198.51.100.1", port), Kind.HOST)
    pair.request_came(0.0)
    pair.answer_came(72, 0.0, round_trip_s)
    assert not _is_valid(pair)
    pair.answer_came(1200, 0.0, round_trip_s)
    assert _is_valid(pair)
    return pair


def _is_valid(pair: Pair) -> bool:
    return pair.is_valid


# Pairs


def test_a_pair_needs_both_directions_and_the_full_size() -> None:
    pair = Pair(1, Address("198.51.100.1", 5_000), Kind.HOST)
    pair.plan(0.0, (0.0, 0.1))
    assert pair.due(0.0) == 72
    assert pair.due(0.0) is None
    pair.answer_came(72, 0.0, 0.05)
    assert pair.due(0.05) == 1200
    pair.answer_came(1200, 0.05, 0.1)
    assert not _is_valid(pair)
    assert "none of theirs came" in pair.report().why
    pair.request_came(0.2)
    assert _is_valid(pair)
    pair.fail("cut", 0.3)
    pair.answer_came(1200, 0.25, 0.4)  # of the time before
    assert not _is_valid(pair)
    assert pair.report().why == "cut"


# Selection


def test_the_best_is_taken_and_another_one_only_after_a_while() -> None:
    selection = Selection()
    first, better = _valid(0.1), _valid(0.05, port=5_001)
    assert selection.choose([first], None, 0.2, 0.0) == (first, "proved both ways, 100 ms")
    now, asked = 1.0, 0
    while (chosen := selection.choose([first, better], first, 0.2, now)) is None:
        due = selection.next_due()
        assert due is not None
        assert due >= now
        now = due
        for pair in selection.to_compare(first, now):
            asked += 1
            pair.answer_came(72, now, now + (0.1 if pair is first else 0.05))
    assert chosen[0] is better
    assert now >= 1.0 + BETTER_FOR_S
    assert asked >= 2 * BETTER_SAMPLES


def test_time_alone_makes_no_path_better() -> None:
    """Where nothing more is heard of the two, the first impression does not decide."""
    selection = Selection()
    current, other = _valid(0.1), _valid(0.05, port=5_001)
    for now in range(100):
        selection.to_compare(current, float(now))
        assert selection.choose([current, other], current, 0.2, float(now)) is None


def test_one_worse_answer_ends_a_comparison() -> None:
    selection = Selection()
    current, other = _valid(0.1), _valid(0.05, port=5_001)
    assert selection.choose([current, other], current, 0.2, 0.0) is None
    assert selection.to_compare(current, 0.0) == [other, current]
    current.answer_came(72, 0.0, 0.05)
    assert selection.choose([current, other], current, 0.2, 0.1) is None
    assert selection.next_due() is None
    assert selection.to_compare(current, 10.0) == []


def test_the_first_to_be_answered_stays_the_favourite_until_it_fails() -> None:
    selection = Selection()
    pairs = [Pair(1, Address("198.51.100.1", 5_000 + each), Kind.HOST) for each in range(2)]
    first, second = pairs
    first.answer_came(72, 0.0, 0.05)
    assert selection.name_favourite([first], 0.2, 0.05) is first
    second.request_came(0.0)
    second.answer_came(72, 0.0, 0.01)
    assert selection.name_favourite(pairs, 0.2, 0.06) is first
    second.answer_came(1200, 0.06, 0.07)
    assert selection.choose([second], None, 0.2, 0.07) is None  # the first is still being proved
    due = selection.next_due()
    assert due is not None
    assert due == pytest.approx(0.05 + FAVOURITE_S)
    assert selection.choose([second], None, 0.2, due) is not None
    first.fail("no answer", due)
    assert selection.name_favourite([], 0.2, due) is None
    assert selection.next_due() is None


def test_a_favourite_that_is_proved_is_taken_though_another_is_a_little_better() -> None:
    selection = Selection()
    first, second = _valid(0.05), _valid(0.04, port=5_001)
    first.doubt(1.0)
    assert selection.name_favourite([first], 0.2, 1.0) is first
    first.answer_came(1200, 1.0, 1.05)
    chosen = selection.choose([first, second], None, 0.2, 1.05)
    assert chosen is not None
    assert chosen[0] is first


@pytest.mark.parametrize("round_trip_s", [0.081, 0.1, 0.2])
def test_what_is_hardly_better_changes_nothing(round_trip_s: float) -> None:
    selection = Selection()
    current, other = _valid(0.1), _valid(round_trip_s, port=5_001)
    for now in range(100):
        assert selection.choose([current, other], current, 0.2, float(now)) is None
    small, smaller = _valid(0.004), _valid(0.001, port=5_001)
    for now in range(100):
        assert selection.choose([small, smaller], small, 0.2, float(now)) is None


def test_the_relay_is_taken_only_if_everything_else_is_much_worse() -> None:
    selection = Selection()
    slow = _valid(0.3)
    assert selection.choose([slow], None, 0.1, 0.0) is None
    assert selection.choose([slow], None, None, 0.0) is not None
    assert selection.choose([slow], slow, 0.13, 0.0) is None
    assert selection.next_due() is None
    assert selection.choose([slow], slow, 0.1, 1.0) is None
    assert selection.next_due() == 1.0 + WORSE_FOR_S
    chosen = selection.choose([slow], slow, 0.1, 1.0 + WORSE_FOR_S)
    assert chosen is not None
    assert chosen[0] is None


def test_loss_makes_a_path_dear() -> None:
    clean, lossy = _valid(0.1), _valid(0.09, port=5_001)
    for _ in range(3):
        lossy.unanswered(1.0)
    chosen = Selection().choose([clean, lossy], None, 0.2, 1.0)
    assert chosen is not None
    assert chosen[0] is clean


def test_three_standbys_are_kept_up_and_silent_ones_fail() -> None:
    pairs = [_valid(0.1 + number / 100, port=5_000 + number) for number in range(6)]
    current = pairs[0]
    keep_up(pairs, current, 0.0)
    assert [each.is_valid for each in pairs] == [True] * 4 + [False] * 2
    standby = pairs[1]
    now = standby_due([current, standby], current)
    assert now == standby.check_at
    asked = 0
    while standby.is_valid:
        asked += len(keep_up([current, standby], current, now))
        now += 1
        standby.unanswered(now)
    assert asked == STANDBY_MISSES
    assert "fell silent" in standby.why
    pairs[2].answer_came(72, 50.0, 50.1)
    assert pairs[2].check_at == 50.1 + CHECK_S


# The watch over the path in use


def _dies(watch: Watch, now: float, answers_s: float | None = None, step_s: float = 0.01) -> float:
    """Move it by its timers until the path is given up; probes are answered after that time."""
    answers: list[tuple[float, float]] = []
    for _ in range(10_000):
        if watch.poll(now) and answers_s is not None:
            answers.append((now, now + answers_s))
        while answers and answers[0][1] <= now:
            watch.answered(answers.pop(0)[0], now)
        if watch.is_dead(now):
            return now
        now += step_s
    return float("inf")


def test_a_silent_path_is_given_up_by_what_it_carried() -> None:
    for round_trip_s, patience_s in ((0.01, 0.3), (0.15, 0.45), (0.3, 0.76), (1.0, 2.3)):
        watch = Watch(0.0, round_trip_s)
        watch.sent(1.0)
        assert watch.patience_s == pytest.approx(patience_s)
        assert 1.0 + patience_s <= _dies(watch, 1.0) <= 1.0 + patience_s + 0.05
    idle = Watch(0.0, 0.1)
    ends = KEEPALIVE_S + IDLE_PATIENCE_S
    assert ends <= _dies(idle, 0.0) <= ends + 0.05
    assert ends < 10


def test_answers_keep_an_idle_path_and_speak_for_a_busy_one_only_for_a_while() -> None:
    assert _dies(Watch(0.0, 0.1), 0.0, answers_s=0.1) == float("inf")
    busy = Watch(0.0, 0.1)
    busy.sent(0.0)
    died = _dies(busy, 0.0, answers_s=0.1)
    assert PROBES_ONLY_S <= died <= PROBES_ONLY_S + 1


def test_acknowledgements_are_enough() -> None:
    watch = Watch(0.0, 0.1)
    probes = 0
    for tick in range(1_000):
        now = tick / 100
        watch.acknowledged(now)
        watch.sent(now)
        probes += watch.poll(now)
        assert not watch.is_dead(now)
    assert probes == 0
    watch.sent(20.0)
    watch.acknowledged(19.9)  # of something earlier: what was sent later still waits
    assert watch.next_due() < 20.5


def test_a_doubt_is_short_and_an_old_answer_does_not_settle_it() -> None:
    watch = Watch(0.0, 0.1)
    watch.suspect("why not", 1.0)
    assert watch.poll(1.0)
    watch.answered(0.95, 1.05)
    assert watch.is_dead(1.0 + watch.patience_s) == "why not"
    watch.answered(1.0, 1.1)
    assert not watch.is_dead(10.0)


def test_who_was_late_himself_waits_a_moment_once() -> None:
    watch = Watch(0.0, 0.1)
    watch.suspect("why not", 0.0)
    watch.poll(0.0)
    assert not watch.is_dead(5.0)
    assert watch.is_dead(5.0 + LATE_S)


# The search


def _rounds(search: Search, *, is_hopeless: bool, until: float) -> list[float]:
    """When rounds begin that find nothing."""
    now, begun = 0.0, []
    search.change(now)
    while now < until:
        if search.is_due(now):
            begun.append(now)
            search.begin(now).has_begun = True
        elif search.round is not None and now >= search.round.ends_at:
            search.end(now)
        search.plan(is_hopeless=is_hopeless, now=now)
        due = search.next_due(is_held=False)
        if due is None:
            break
        now = max(now, due)
    return begun


def test_rounds_come_ever_less_often_and_end() -> None:
    begun = _rounds(Search(0.0, leads=True), is_hopeless=False, until=10_000)
    gaps = [round(b - a - ROUND_S) for a, b in itertools.pairwise(begun)]
    assert gaps[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert begun[-1] <= HOPE_S
    hopeless = Search(0.0, leads=True)
    assert _rounds(hopeless, is_hopeless=True, until=10_000)[-1] + ROUND_S <= BOTH_DEPENDENT_S
    assert "both NATs map dependently" in hopeless.gave_up
    hopeless.change(1_000.0)
    assert not hopeless.gave_up
    assert hopeless.is_due(1_000.0)


def test_what_has_worked_is_tried_for_ever() -> None:
    search = Search(0.0, leads=True)
    search.found()
    search.lost(100.0, 0.0)
    assert search.next_due(is_held=False) == 1.0
    assert search.next_due(is_held=True) is None
    for lived_s, pause_s in ((1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (100.0, 8.0), (1.0, 1.0)):
        search.begin(0.0)
        search.end(0.0)
        search.found()
        search.lost(lived_s, 0.0)
        assert search.next_due(is_held=False) == pause_s


def test_the_accepter_leaves_it_to_the_dialer_unless_it_moved() -> None:
    follower = Search(0.0, leads=False)
    follower.change(10.0)
    assert follower.next_due(is_held=False) == 11.0
    follower.change(10.0, urgent=True)
    assert follower.next_due(is_held=False) == 10.0


def test_rounds_are_counted_together() -> None:
    search = Search(0.0, leads=True)
    assert search.begin(0.0).number == 1
    assert search.begin(0.0, 7).number == 7
    assert search.begin(0.0, 3).number == 8
    assert search.begin(0.0, 2**32 - 1).number == 2**32 - 1
    assert search.begin(0.0).number == 2**32 - 1
