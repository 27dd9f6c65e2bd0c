"""Liveness, by tables: what happens at which second, and what must be decided at which."""

from dataclasses import dataclass

import pytest

from peers.link.liveness import Action, AttemptSchedule, Liveness, LivenessLimits

PING, RECONNECT = Action.PING, Action.RECONNECT


@dataclass
class Case:
    """Events by time. `answers`: seconds after which a ping is answered by the relay, or None."""

    name: str
    until: float
    expected: list[tuple[float, Action]]
    answer_s: float | None = 0.05
    pipe_heard: tuple[float, ...] = ()
    pipe_sent: tuple[float, ...] = ()
    round_trip_s: float = 0.0


def drive(case: Case) -> list[tuple[float, Action]]:
    """Run the events and the machine's own timers in the order of their times."""
    liveness = Liveness(0.0)
    decided: list[tuple[float, Action]] = []
    events = [(when, "heard") for when in case.pipe_heard]
    events += [(when, "sent") for when in case.pipe_sent]
    while True:
        events.sort()
        timer = liveness.next_timer()
        if events and events[0][0] <= timer:
            now, what = events.pop(0)
        else:
            now, what = timer, "timer"
        if now > case.until:
            return decided
        match what:
            case "heard":
                liveness.heard(now)
                liveness.pipe_received(now)
            case "sent":
                liveness.pipe_sent(now)
            case "answer":
                liveness.ping_acknowledged(now)
            case _:
                action = liveness.poll(now)
                decided.append((round(now, 2), action))
                if action is RECONNECT:
                    return decided
                assert action is PING, f"a timer at {now} for nothing"
                liveness.pinged(now, case.round_trip_s)
                if case.answer_s is not None:
                    events.append((now + case.answer_s, "answer"))


def every(step: float, start: float, stop: float) -> tuple[float, ...]:
    return tuple(start + step * index for index in range(round((stop - start) / step)))


CASES = [
    Case(
        "no pipe: the keepalive only, however long",
        until=50.0,
        expected=[(15.0, PING), (30.0, PING), (45.0, PING)],
    ),
    Case(
        "a stream of datagrams from the peer: still a keepalive, for it holds the lease",
        until=31.0,
        pipe_heard=every(0.5, 0.5, 31.0),
        expected=[(15.0, PING), (30.0, PING)],
    ),
    Case(
        "the peer falls silent, the relay answers: back-off from 1 s to the keepalive",
        until=60.0,
        pipe_heard=every(0.5, 8.0, 10.5),
        expected=[
            (11.0, PING),
            (13.05, PING),
            (17.1, PING),
            (25.15, PING),
            (40.15, PING),
            (55.15, PING),
        ],
    ),
    Case(
        "everything falls silent in mid-transfer: three pings in a second, then a reconnection",
        until=60.0,
        answer_s=None,
        pipe_heard=every(0.01, 0.0, 5.0),
        expected=[(5.99, PING), (6.32, PING), (6.66, PING), (6.99, RECONNECT)],
    ),
    Case(
        "the relay is gone while no pipe is active: noticed at the keepalive",
        until=60.0,
        answer_s=None,
        expected=[(15.0, PING), (15.33, PING), (15.67, PING), (16.0, RECONNECT)],
    ),
    Case(
        "only the third ping is answered: no reconnection",
        until=9.0,
        answer_s=0.9,
        pipe_heard=every(0.5, 3.0, 5.5),
        # The answer to the first comes when two more are under way.
        expected=[(6.0, PING), (6.33, PING), (6.67, PING)],
    ),
    Case(
        "a far relay: its round trip is added to the patience",
        until=60.0,
        answer_s=None,
        round_trip_s=0.5,
        pipe_heard=every(0.5, 3.0, 5.5),
        expected=[(6.0, PING), (6.5, PING), (7.0, PING), (7.5, RECONNECT)],
    ),
    Case(
        "a pipe that was quiet sends into the dark: pinged a second later, not at the keepalive",
        until=17.0,
        pipe_sent=(5.0, 15.0),
        # The relay answers both pings, the other peer nothing.
        expected=[(6.0, PING), (16.0, PING)],
    ),
    Case(
        "the keepalives of the pipe itself are no conversation, so they cost no further pings",
        until=61.0,
        pipe_sent=every(10.0, 5.0, 65.0),
        pipe_heard=every(10.0, 5.1, 65.1),
        expected=[(15.0, PING), (30.0, PING), (45.0, PING), (60.0, PING)],
    ),
    Case(
        "a burst too short to last is a conversation by its size",
        until=3.0,
        pipe_heard=every(0.01, 0.5, 0.6),
        expected=[(1.59, PING)],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decisions(case: Case) -> None:
    assert drive(case) == case.expected


def test_a_relay_that_never_answers_itself_is_given_up_though_the_peer_is_heard() -> None:
    # The forwarding goes on in the kernel, say, but the control process has lost our connection.
    case = Case(
        "peer only", until=60.0, answer_s=None, pipe_heard=every(0.25, 0.0, 60.0), expected=[]
    )
    decided = drive(case)
    assert decided[0] == (15.0, PING)
    assert decided[-1] == (25.0, RECONNECT)


def test_one_lost_ping_in_three_hardly_ever_costs_a_connection() -> None:
    """At 30 % loss each way a ping is answered with probability 0.49: three of them, 0.87.

    That is why it is three and not one; QUIC's own probes come on top. Here: of the eight ways in
    which three pings can fare, one only leads to a reconnection.
    """
    outcomes = []
    for answered in range(8):
        liveness = Liveness(0.0)
        for when in (4.0, 5.0):
            liveness.heard(when)
            liveness.pipe_received(when)
        action = Action.NOTHING
        for attempt in range(3):
            now = liveness.next_timer()
            action = liveness.poll(now)
            assert action is PING
            liveness.pinged(now, 0.0)
            if answered >> attempt & 1:
                liveness.ping_acknowledged(now + 0.05)
                break
        outcomes.append(liveness.poll(7.0) is RECONNECT)
    assert outcomes == [True] + 7 * [False]


def test_the_timer_never_lies_in_the_past_of_a_decision() -> None:
    """`poll` at `next_timer` always decides something; just before it, never."""
    liveness = Liveness(0.0, LivenessLimits(keepalive_s=5.0))
    for _ in range(3):
        timer = liveness.next_timer()
        assert liveness.poll(timer - 1e-6) is Action.NOTHING
        assert liveness.poll(timer) is PING
        liveness.pinged(timer, 0.0)
    timer = liveness.next_timer()
    assert liveness.poll(timer - 1e-6) is Action.NOTHING
    assert liveness.poll(timer) is RECONNECT


def test_a_lost_relay_is_tried_every_second_then_less_and_less() -> None:
    schedule = AttemptSchedule(100.0)
    times = []
    while schedule.next_at < 220.0:
        times.append(schedule.next_at - 100.0)
        schedule.attempted(schedule.next_at)
    assert times[:31] == list(range(31))
    assert times[31:] == [32.0, 36.0, 44.0, 59.0, 74.0, 89.0, 104.0, 119.0]
    schedule.begin_anew(220.0)
    assert schedule.next_at == 220.0
    schedule.attempted(220.0)
    assert schedule.next_at == 221.0
