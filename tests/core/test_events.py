"""Events reach whoever watches, in order; nobody is waited for."""

from collections.abc import Sequence

import pytest

from relay.core.events import (
    REFUSALS_PER_S,
    Event,
    EventHub,
    EventKind,
    Lost,
    Told,
    TooManyWatchers,
    Watcher,
)


def event(number: int, kind: EventKind = EventKind.CREATED) -> Event:
    return Event(kind, float(number))


def said(watcher: Watcher) -> list[object]:
    return [each.event.at if isinstance(each, Told) else each for each in watcher.take()]


def watch(hub: EventHub, kinds: Sequence[EventKind] = tuple(EventKind), **more: int) -> Watcher:
    return hub.watch(kinds, lambda: None, **more)


def test_a_watcher_is_told_what_happens_from_then_on() -> None:
    hub = EventHub()
    hub.publish(event(1))
    watcher = watch(hub)
    hub.publish(event(2))
    hub.publish(event(3))
    assert said(watcher) == [2, 3]
    hub.leave(watcher)
    hub.publish(event(4))
    assert said(watcher) == []


def test_only_the_kinds_that_were_asked_for() -> None:
    hub = EventHub()
    watcher = watch(hub, [EventKind.CLOSED])
    hub.publish(event(1))
    hub.publish(event(2, EventKind.CLOSED))
    assert said(watcher) == [2]


def test_the_last_that_fits_waits_and_the_next_is_lost_and_counted() -> None:
    hub = EventHub(max_waiting=3)
    watcher = watch(hub)
    for number in range(3):
        hub.publish(event(number))
    assert hub.lost == 0
    hub.publish(event(3))
    hub.publish(event(4))
    assert hub.lost == 2
    assert said(watcher) == [0, 1, 2, Lost(2)]
    hub.publish(event(5))
    assert said(watcher) == [5]


def test_lost_ones_stand_where_they_are_missing() -> None:
    hub = EventHub(max_waiting=1)
    watcher = watch(hub)
    hub.publish(event(1))
    hub.publish(event(2))
    assert said(watcher) == [1, Lost(1)]
    assert said(watcher) == []


def test_whoever_comes_back_is_told_what_he_has_missed() -> None:
    hub = EventHub(backlog=4)
    for number in range(1, 11):
        hub.publish(event(number))
    assert said(watch(hub, after=8)) == [9, 10]
    assert said(watch(hub, after=10)) == []
    assert said(watch(hub, after=6)) == [7, 8, 9, 10]
    assert said(watch(hub, after=5)) == [Lost(1), 7, 8, 9, 10]
    assert said(watch(hub, after=0)) == [Lost(6), 7, 8, 9, 10]
    assert said(watch(hub, after=11)) == [7, 8, 9, 10], "a number of an earlier run"


def test_a_new_watcher_may_want_the_last_ones_first() -> None:
    hub = EventHub()
    for number in range(1, 6):
        hub.publish(event(number))
    assert said(watch(hub, backlog=2)) == [4, 5]
    assert said(watch(hub, backlog=99)) == [1, 2, 3, 4, 5]


def test_the_last_watcher_is_let_in_and_the_next_is_not() -> None:
    hub = EventHub(max_watchers=2)
    first = watch(hub)
    watch(hub)
    with pytest.raises(TooManyWatchers):
        watch(hub)
    hub.leave(first)
    watch(hub)


def test_watchers_are_woken() -> None:
    hub = EventHub()
    woken: list[int] = []
    hub.watch([EventKind.CREATED], lambda: woken.append(1))
    hub.publish(event(1, EventKind.CLOSED))
    assert woken == []
    hub.publish(event(1))
    assert woken == [1]


def test_so_many_refusals_a_second_are_told_and_the_rest_is_a_number() -> None:
    hub = EventHub(max_waiting=1000)
    watcher = watch(hub)
    told = [hub.refuse("full", "192.0.2.1:1", None, 100.0) for _ in range(REFUSALS_PER_S + 7)]
    assert told == [True] * REFUSALS_PER_S + [False] * 7
    assert hub.counts[EventKind.REFUSED] == REFUSALS_PER_S + 7
    assert len(watcher.take()) == REFUSALS_PER_S
    assert hub.refuse("full", None, "alice", 101.0)
    (last,) = watcher.take()
    assert isinstance(last, Told)
    assert last.event.to_json() == {
        "kind": "refused",
        "at": 101.0,
        "subject": "alice",
        "reason": "full",
        "more": 7,
    }


def test_a_clock_that_goes_back_does_not_silence_refusals() -> None:
    hub = EventHub()
    for _ in range(REFUSALS_PER_S + 1):
        hub.refuse("full", None, None, 100.0)
    assert hub.refuse("full", None, None, 50.0)
