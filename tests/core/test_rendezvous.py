"""Listeners, names and invites: bounds at their edges, lifetimes to the moment."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.limits import RateLimits
from relay.core.rendezvous import (
    ListenerReplaced,
    NameTaken,
    NobodyListens,
    Refusal,
    Rendezvous,
    RendezvousFull,
    RendezvousLimits,
    RendezvousRefused,
    UnknownListener,
)

HOME, OFFICE = "192.0.2.1", "198.51.100.7"
GRACE, LIFE = 30.0, 60.0
FIRST, SECOND = "sha256:" + "1" * 64, "sha256:" + "2" * 64


class Relay(Rendezvous):
    """With ids that can be told apart."""

    def __init__(self, limits: RendezvousLimits | None = None) -> None:
        ids = count(1)
        super().__init__(
            limits or RendezvousLimits(grace_s=GRACE, invite_lifetime_s=LIFE),
            lambda: f"{next(ids):032x}",
        )

    def contents(self, listener: str, now: float, after: int = 0, most: int = 8) -> list[str]:
        return [each.content for each in self.fetch(listener, after, most, now)]


def test_an_invite_gets_to_whom_it_is_for() -> None:
    relay = Relay()
    first = relay.listen(FIRST, None, HOME, 0.0).id
    second = relay.listen(SECOND, "laptop", HOME, 0.0).id
    assert first != second
    assert relay.post(FIRST, "a", OFFICE, 1.0) == first
    assert relay.post("laptop", "b", OFFICE, 1.0) == second
    assert relay.contents(first, 1.0) == ["a"]
    assert relay.contents(second, 1.0) == ["b"]
    assert relay.fingerprint_of("laptop", 1.0) == SECOND


def test_nobody_there_is_told_at_once() -> None:
    relay = Relay()
    with pytest.raises(NobodyListens, match="laptop"):
        relay.post("laptop", "a", HOME, 0.0)
    with pytest.raises(NobodyListens):
        relay.fingerprint_of("laptop", 0.0)
    assert relay.refused == {Refusal.NOBODY_LISTENS: 2}
    assert relay.invites == 0


def test_an_invite_stays_until_it_is_acknowledged() -> None:
    relay = Relay()
    listener = relay.listen(FIRST, None, HOME, 0.0).id
    for content in "abc":
        relay.post(FIRST, content, OFFICE, 0.0)
    assert [each.number for each in relay.fetch(listener, 0, 8, 0.0)] == [1, 2, 3]
    assert relay.contents(listener, 0.0) == ["a", "b", "c"]  # asked again: still there
    assert relay.contents(listener, 0.0, after=1) == ["b", "c"]
    assert relay.contents(listener, 0.0, after=0) == ["b", "c"]  # what is acknowledged is gone
    assert relay.contents(listener, 0.0, after=1, most=1) == ["b"]
    assert relay.contents(listener, 0.0, after=1, most=0) == []
    assert relay.contents(listener, 0.0, after=99) == []
    assert relay.invites == 0
    relay.post(FIRST, "d", OFFICE, 0.0)
    assert [each.number for each in relay.fetch(listener, 3, 8, 0.0)] == [4]


def test_the_same_invite_waits_once() -> None:
    relay = Relay()
    listener = relay.listen(FIRST, None, HOME, 0.0).id
    relay.post(FIRST, "a", OFFICE, 0.0)
    relay.post(FIRST, "a", OFFICE, 0.0)  # a request that was made again
    assert relay.contents(listener, 0.0) == ["a"]
    relay.contents(listener, 0.0, after=1)
    relay.post(FIRST, "a", OFFICE, 0.0)
    assert relay.invites == 1


def test_an_invite_lives_to_the_moment() -> None:
    relay = Relay()
    listener = relay.listen(FIRST, None, HOME, 0.0).id
    relay.begin_poll(listener, 0.0)
    relay.post(FIRST, "a", OFFICE, 5.0)
    relay.post(FIRST, "b", OFFICE, 6.0)
    assert relay.contents(listener, 5.0 + LIFE - 1e-9) == ["a", "b"]
    assert relay.contents(listener, 5.0 + LIFE) == ["b"]
    assert relay.contents(listener, 6.0 + LIFE) == []
    assert relay.refused == {Refusal.INVITE_EXPIRED: 2}
    assert relay.invites == 0


def test_a_listener_lives_for_its_grace() -> None:
    relay = Relay()
    listener = relay.listen(FIRST, "laptop", HOME, 0.0).id
    assert relay.contents(listener, GRACE - 1e-9) == []  # which is a sign of life
    relay.post(FIRST, "a", OFFICE, 2 * GRACE - 1e-6)
    assert relay.listeners == 1
    with pytest.raises(NobodyListens):
        relay.post(FIRST, "b", OFFICE, 2 * GRACE)
    with pytest.raises(UnknownListener):
        relay.fetch(listener, 0, 8, 2 * GRACE)
    assert (relay.listeners, relay.invites) == (0, 1)


def test_who_was_away_for_long_has_what_still_lives() -> None:
    relay = Relay()
    before = relay.listen(FIRST, "laptop", HOME, 0.0).id
    relay.post("laptop", "early", OFFICE, GRACE - 2)
    relay.post("laptop", "late", OFFICE, GRACE - 1)
    now = GRACE - 2 + LIFE - 1e-6
    with pytest.raises(NobodyListens):  # whoever dials now need not wait
        relay.post(FIRST, "later", OFFICE, now)
    with pytest.raises(UnknownListener):
        relay.fetch(before, 0, 8, now)
    again = relay.listen(FIRST, "laptop", OFFICE, now)
    assert again.replaced is None
    assert relay.contents(again.id, now) == ["early", "late"]
    assert relay.contents(again.id, now, after=2) == []
    assert (relay.listeners, relay.invites) == (1, 0)


def test_what_a_silent_listener_left_dies_in_time() -> None:
    relay = Relay()
    relay.listen(FIRST, None, HOME, 0.0)
    relay.post(FIRST, "a", OFFICE, GRACE - 1)
    again = relay.listen(FIRST, None, HOME, GRACE - 1 + LIFE)
    assert relay.contents(again.id, GRACE - 1 + LIFE) == []
    assert relay.refused == {Refusal.INVITE_EXPIRED: 1}
    assert not relay._left


def test_who_ends_listening_leaves_nothing() -> None:
    relay = Relay()
    listener = relay.listen(FIRST, None, HOME, 0.0).id
    relay.post(FIRST, "a", OFFICE, 1.0)
    relay.end(listener, 1.0)
    again = relay.listen(FIRST, None, HOME, 2.0)
    assert relay.contents(again.id, 2.0) == []
    assert relay.refused == {Refusal.INVITE_ORPHANED: 1}


def test_a_listener_does_not_age_while_it_polls() -> None:
    relay = Relay()
    listener = relay.listen(FIRST, None, HOME, 0.0).id
    relay.begin_poll(listener, 10.0)
    relay.begin_poll(listener, 11.0)
    relay.end_poll(listener, 12.0)
    assert relay.post(FIRST, "a", OFFICE, 1000.0) == listener
    relay.end_poll(listener, 1001.0)
    assert relay.contents(listener, 1001.0 + GRACE - 1e-9) == ["a"]


def test_who_listens_again_has_what_still_lives() -> None:
    relay = Relay()
    before = relay.listen(FIRST, "laptop", HOME, 0.0).id
    relay.post("laptop", "early", OFFICE, 0.0)
    relay.post("laptop", "late", OFFICE, 20.0)
    assert relay.contents(before, 20.0) == ["early", "late"]  # never acknowledged
    again = relay.listen(FIRST, "laptop", OFFICE, 20.0 + GRACE - 1e-9)
    assert again.replaced == before
    assert relay.contents(again.id, 50.0) == ["early", "late"]
    assert relay.contents(again.id, 60.0) == ["late"]


def test_whoever_was_replaced_is_told() -> None:
    relay = Relay()
    before = relay.listen(FIRST, None, HOME, 0.0).id
    relay.begin_poll(before, 0.0)
    after = relay.listen(FIRST, None, HOME, 1.0).id
    for attempt in (relay.begin_poll, lambda id_, now: relay.fetch(id_, 0, 8, now)):
        with pytest.raises(ListenerReplaced):
            attempt(before, 2.0)
    relay.end_poll(before, 2.0)  # of one that is gone: nothing
    assert not relay.end(before, 2.0)
    assert relay.contents(after, 1.0 + GRACE - 1e-9) == []  # the old poll keeps nobody alive
    assert relay.refused == {Refusal.LISTENER_REPLACED: 2}


def test_a_name_is_the_first_ones_as_long_as_it_listens() -> None:
    relay = Relay()
    first = relay.listen(FIRST, "laptop", HOME, 0.0).id
    with pytest.raises(NameTaken, match="laptop"):
        relay.listen(SECOND, "laptop", OFFICE, 1.0)
    assert relay.listeners == 1
    relay.listen(FIRST, "desktop", HOME, 2.0)  # the same may change its own
    assert relay.listen(SECOND, "laptop", OFFICE, 3.0).replaced is None
    with pytest.raises(NameTaken):
        relay.listen(FIRST, "laptop", HOME, 4.0)
    assert relay.fingerprint_of("desktop", 4.0) == FIRST  # what failed has changed nothing
    with pytest.raises(ListenerReplaced):
        relay.fetch(first, 0, 8, 4.0)
    assert relay.listen(FIRST, "laptop", HOME, 3.0 + GRACE).id  # the other one is gone


def test_a_listener_without_a_name_gives_its_name_up() -> None:
    relay = Relay()
    relay.listen(FIRST, "laptop", HOME, 0.0)
    relay.listen(FIRST, None, HOME, 1.0)
    with pytest.raises(NobodyListens):
        relay.fingerprint_of("laptop", 1.0)
    assert relay.listen(SECOND, "laptop", HOME, 1.0)


def test_end() -> None:
    relay = Relay()
    listener = relay.listen(FIRST, "laptop", HOME, 0.0).id
    relay.begin_poll(listener, 0.0)
    relay.post(FIRST, "a", OFFICE, 0.0)
    assert relay.end(listener, 1.0)
    assert not relay.end(listener, 1.0)
    relay.end_poll(listener, 1.0)
    assert (relay.listeners, relay.invites) == (0, 0)
    assert relay.listen(SECOND, "laptop", HOME, 1.0)


def test_bounds_on_listeners() -> None:
    relay = Relay(RendezvousLimits(max_listeners=3, max_listeners_per_source=2, retry_after_s=7.0))
    names = [f"sha256:{n:064x}" for n in range(9)]
    first = relay.listen(names[0], None, HOME, 0.0).id
    relay.listen(names[1], None, HOME, 0.0)
    with pytest.raises(RendezvousFull) as refused:
        relay.listen(names[2], None, HOME, 0.0)
    assert refused.value.retry_after_s == 7.0
    relay.listen(names[1], None, HOME, 0.0)  # again is not one more
    relay.listen(names[2], None, OFFICE, 0.0)
    with pytest.raises(RendezvousFull):
        relay.listen(names[3], None, OFFICE, 0.0)
    with pytest.raises(RendezvousFull):
        relay.listen(names[2], None, HOME, 0.0)  # there is no room for it to move there
    assert relay.refused == {
        Refusal.LISTENERS_OF_SOURCE_FULL: 2,
        Refusal.LISTENERS_FULL: 1,
    }
    relay.end(first, 0.0)
    relay.listen(names[2], None, HOME, 0.0)
    relay.listen(names[3], None, OFFICE, 0.0)
    assert relay.listeners == 3


def test_bounds_on_invites() -> None:
    limits = RendezvousLimits(
        max_invites=5, max_invites_per_listener=4, max_invites_per_source=3, invite_lifetime_s=LIFE
    )
    relay = Relay(limits)
    first = relay.listen(FIRST, None, HOME, 0.0).id
    second = relay.listen(SECOND, None, HOME, 0.0).id
    for listener in (first, second):
        relay.begin_poll(listener, 0.0)
    for content in "ab":
        relay.post(FIRST, content, HOME, 0.0)
    relay.post(SECOND, "c", HOME, 0.0)
    with pytest.raises(RendezvousFull, match="your address"):
        relay.post(SECOND, "d", HOME, 0.0)
    for content in "de":
        relay.post(FIRST, content, OFFICE, 0.0)
    with pytest.raises(RendezvousFull, match="this listener"):
        relay.post(FIRST, "f", OFFICE, 0.0)
    with pytest.raises(RendezvousFull, match="no room"):
        relay.post(SECOND, "f", OFFICE, 0.0)
    assert relay.refused == {
        Refusal.INVITES_OF_SOURCE_FULL: 1,
        Refusal.INVITES_OF_LISTENER_FULL: 1,
        Refusal.INVITES_FULL: 1,
    }
    relay.fetch(first, 1, 0, 0.0)  # acknowledged: there is room again, everywhere
    relay.post(FIRST, "f", HOME, 0.0)
    with pytest.raises(RendezvousFull):
        relay.post(SECOND, "g", OFFICE, LIFE - 1e-9)
    relay.post(SECOND, "g", OFFICE, LIFE)
    assert relay.invites == 1


def test_one_that_fills_a_mailbox_keeps_nobody_else_out() -> None:
    limits = RendezvousLimits(max_invites_per_listener=4)
    relay = Relay(limits)
    listener = relay.listen(FIRST, None, HOME, 0.0).id
    for content in "abcd":
        relay.post(FIRST, content, OFFICE, 0.0)
    for content in "xy":
        relay.post(FIRST, content, HOME, 0.0)
    assert relay.contents(listener, 0.0) == ["a", "b", "x", "y"]
    for source in (OFFICE, HOME):  # as many each: nobody has to go
        with pytest.raises(RendezvousFull, match="this listener"):
            relay.post(FIRST, "z", source, 0.0)
    relay.post(FIRST, "z", "203.0.113.1", 0.0)
    assert relay.refused[Refusal.INVITE_DISPLACED] == 3
    assert relay.invites == 4


def test_one_that_fills_the_relay_keeps_nobody_else_out() -> None:
    relay = Relay(RendezvousLimits(max_invites=3))
    first = relay.listen(FIRST, None, HOME, 0.0).id
    second = relay.listen(SECOND, None, HOME, 0.0).id
    for content in "abc":
        relay.post(FIRST, content, OFFICE, 0.0)
    relay.post(SECOND, "x", HOME, 0.0)
    assert relay.contents(first, 0.0) == ["a", "b"]
    assert relay.contents(second, 0.0) == ["x"]


def test_one_source_has_no_listener_answer_all_the_time() -> None:
    limits = RendezvousLimits(
        invites_of_source_to_listener=RateLimits(per_minute=30.0, burst=2), grace_s=1000.0
    )
    relay = Relay(limits)
    listener = relay.listen(FIRST, "laptop", HOME, 0.0).id
    relay.listen(SECOND, None, HOME, 0.0)
    relay.post(FIRST, "a", OFFICE, 0.0)
    relay.post("laptop", "b", OFFICE, 0.0)
    relay.fetch(listener, 2, 8, 0.0)
    with pytest.raises(RendezvousFull, match="for this listener") as refused:
        relay.post(FIRST, "c", OFFICE, 0.0)
    assert refused.value.retry_after_s == pytest.approx(2.0)
    relay.post(FIRST, "c", HOME, 0.0)
    relay.post(SECOND, "c", OFFICE, 0.0)
    relay.post(FIRST, "d", OFFICE, 2.0)
    assert relay.refused == {Refusal.INVITES_TOO_OFTEN: 1}


def test_the_memory_of_the_replaced_is_bounded() -> None:
    relay = Relay()
    before = relay.listen(FIRST, None, HOME, 0.0).id
    for _ in range(1024):
        relay.listen(FIRST, None, HOME, 0.0)
    with pytest.raises(ListenerReplaced):
        relay.fetch(before, 0, 8, 0.0)
    relay.listen(FIRST, None, HOME, 0.0)
    with pytest.raises(UnknownListener):
        relay.fetch(before, 0, 8, 0.0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["listen", "post", "fetch", "begin", "end", "stop"]),
        st.integers(0, 3),
        st.sampled_from([HOME, OFFICE]),
        st.floats(0.0, 40.0),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_the_counts_are_right(
    steps: list[tuple[str, int, str, float]],
) -> None:
    """Nothing but the refusals that are promised is raised, no bound is passed, nothing leaks."""
    limits = RendezvousLimits(
        max_listeners=3,
        max_listeners_per_source=2,
        max_invites=4,
        max_invites_per_listener=2,
        max_invites_per_source=3,
    )
    relay, now, ids, polls = Relay(limits), 0.0, ["?"], [0]
    for step, (what, who, source, later) in enumerate(steps):
        now += later
        fingerprint = f"sha256:{who:064x}"
        listener = ids[who % len(ids)]
        try:
            if what == "listen":
                ids.append(relay.listen(fingerprint, "abcd"[(who + step) % 4], source, now).id)
                polls.append(0)
            elif what == "post":
                relay.post(fingerprint, str(step), source, now)
            elif what == "fetch":
                relay.fetch(listener, step // 2, 1, now)
            elif what == "begin":
                relay.begin_poll(listener, now)
                polls[who % len(ids)] += 1
            elif what == "end" and polls[who % len(ids)]:
                polls[who % len(ids)] -= 1
                relay.end_poll(listener, now)
            elif what == "stop":
                relay.end(listener, now)
        except RendezvousRefused:
            pass
        assert relay.listeners <= 3
        assert relay.invites <= 4
        assert all(each.invites for each in relay._left.values())
    for listener, begun in zip(ids, polls, strict=True):
        for _ in range(begun):
            relay.end_poll(listener, now)
    with pytest.raises(NobodyListens):
        relay.post("sha256:" + "f" * 64, "x", HOME, now + 1000.0)
    assert (relay.listeners, relay.invites, len(relay._left)) == (0, 0, 0)
