"""Rates in the loops: every loop lets through what a bucket lets through, at any mixture of senders
and batches, and counts the rest by its reason; and a control that shares them out."""

import asyncio
import math
from collections.abc import Hashable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.control import Control
from relay.core.admission import Grant, TokenLimits
from relay.core.bucket import BURST_S, Bucket, Charge, Used
from relay.core.charging import ForwardLimits
from relay.core.limits import RateLimits
from relay.core.outcome import Outcome
from relay.core.quota import RegistryFull, RegistryRefusal
from relay.core.table import Change, ConnectionIdsAdded, OwnerCharged, OwnerMoved, OwnerRemoved
from relay.forwarding.channel import RatesSet
from relay.forwarding.meter import Meter
from relay.metering import INTERVAL_S
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterRequest
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import World, certificate, path_of

from .forwarding_rig import CIDS, Result, Rig, Sent, rig, short
from .test_loops_agree import LOOPS

INF = math.inf
SIZE = 100
A_SECOND = 1e-6
"""So slow a rate that nothing comes back while a test runs: what passes is the burst, exactly."""


@pytest.fixture(params=LOOPS)
def here(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(LOOPS[request.param]) as made:
        for change in made.registrations():
            made.loop.apply(change)
        yield made


def packets(sender: int, count: int, receiver: int = 1, size: int = SIZE) -> list[Sent]:
    payload = bytes(size - 13)
    return [Sent(sender, short(CIDS[3 * receiver], payload)) for _ in range(count)]


def charge(here: Rig, owner: int, *charges: Charge) -> None:
    here.loop.apply(OwnerCharged(owner, charges))


def passed(result: Result) -> tuple[int, int, int]:
    """Forwarded, over the rate, and used up."""
    outcomes = result.outcomes
    return (
        outcomes[Outcome.FORWARDED],
        outcomes[Outcome.RATE_LIMITED],
        outcomes[Outcome.ALLOWANCE_USED],
    )


def test_nobody_pays_unless_told(here: Rig) -> None:
    assert not here.loop.is_metered
    assert passed(here.exchange(packets(0, 200))) == (200, 0, 0)
    assert here.loop.take_used(9) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 64, 150])
def test_a_burst_passes_and_no_more(here: Rig, count: int) -> None:
    """Ten packets are a burst, and one more empties it: in one batch or in many."""
    rate = 10 / BURST_S
    charge(here, 0, Charge(1, INF, rate * A_SECOND))
    bucket = Bucket()
    bucket.set_rate(INF, rate * A_SECOND)
    expected = 0
    while bucket.has(0.0) and expected < count:
        bucket.take(1, SIZE, 0.0)
        expected += 1
    assert passed(here.exchange(packets(0, count))) == (expected, count - expected, 0)
    assert here.loop.is_metered
    assert here.loop.take_used(9) == [
        Used(1, SIZE * expected, expected, SIZE * (count - expected), count - expected)
    ]
    assert here.loop.take_used(9) == []


def test_packets_that_are_not_forwarded_cost_nothing(here: Rig) -> None:
    charge(here, 0, Charge(1, 1000.0, INF))
    unknown = [Sent(0, short(bytes(12), bytes(50))) for _ in range(50)]
    assert here.exchange(unknown).outcomes == {Outcome.UNKNOWN_CID: 50}
    assert here.loop.take_used(9) == []


def test_the_rate(here: Rig) -> None:
    """A rate that passes 100 bytes every 10 ms: the burst, and what comes back while it runs."""
    charge(here, 0, Charge(1, 10_000.0, INF))
    forwarded, limited, _ = passed(here.exchange(packets(0, 120)))
    assert forwarded >= 25
    assert limited > 0
    assert forwarded + limited == 120


def test_each_sender_pays_for_itself(here: Rig) -> None:
    charge(here, 0, Charge(1, INF, A_SECOND))
    charge(here, 2, Charge(2, 0.0, INF))
    mixed = [
        each
        for group in zip(packets(0, 40), packets(1, 40, 2), packets(2, 40), strict=True)
        for each in group
    ]
    assert passed(here.exchange(mixed)) == (41, 39, 40)
    used = {each.bucket: each for each in here.loop.take_used(9)}
    assert used == {1: Used(1, 100, 1, 3900, 39), 2: Used(2, 0, 0, 4000, 40)}


def test_a_bucket_is_shared_and_a_sender_has_two(here: Rig) -> None:
    shared = Charge(5, INF, A_SECOND)
    charge(here, 0, shared, Charge(6, INF, INF))
    charge(here, 1, Charge(7, INF, INF), shared)
    mixed = packets(0, 10) + packets(1, 10, 2)
    assert passed(here.exchange(mixed))[0] == 1
    used = {each.bucket: each.packets for each in here.loop.take_used(9)}
    assert used[5] == 1


def test_rates_are_changed_and_taken_away(here: Rig) -> None:
    charge(here, 0, Charge(1, 0.0, INF))
    assert passed(here.exchange(packets(0, 10))) == (0, 0, 10)
    here.loop.apply(RatesSet((Charge(1, INF, INF), Charge(99, 0.0, INF))))
    assert passed(here.exchange(packets(0, 10))) == (10, 0, 0)
    charge(here, 0, Charge(1, 0.0, INF))  # it is known: its rate stays
    assert passed(here.exchange(packets(0, 10))) == (10, 0, 0)
    charge(here, 0)
    assert not here.loop.is_metered
    charge(here, 0, Charge(1, 0.0, INF))  # it is new again
    assert passed(here.exchange(packets(0, 10))) == (0, 0, 10)


def test_the_charge_follows_its_owner(here: Rig) -> None:
    charge(here, 0, Charge(1, 0.0, INF))
    here.loop.apply(OwnerMoved(0, here.path(3)))
    assert passed(here.exchange(packets(3, 10))) == (0, 0, 10)
    here.loop.apply(OwnerRemoved(0, CIDS[:3]))
    assert not here.loop.is_metered


def test_of_several_at_one_address_the_first_pays(here: Rig) -> None:
    charge(here, 0, Charge(1, 0.0, INF))
    here.loop.apply(OwnerMoved(7, here.path(0)))
    charge(here, 7, Charge(2, INF, INF))
    assert passed(here.exchange(packets(0, 5))) == (0, 0, 5)
    here.loop.apply(OwnerRemoved(0, CIDS[:3]))
    assert passed(here.exchange(packets(0, 5))) == (5, 0, 0)
    assert [each.bucket for each in here.loop.take_used(9)] == [2]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(13, 1500), st.integers(1, 70)),
        min_size=1,
        max_size=30,
    ),
    st.floats(1e3, 1e7),
    st.floats(10, 1e5),
)
def test_a_batch_takes_what_its_packets_would(
    batches: list[tuple[int, int, int]], bytes_per_s: float, packets_per_s: float
) -> None:
    """Two meters: one asked for whole batches first, as the batch loop does, one each packet."""
    now = 0.0
    meters = [Meter[int](clock=lambda: now) for _ in range(2)]
    for meter in meters:
        for owner in range(3):
            charges = (Charge(1, bytes_per_s, INF), Charge(2 + owner, INF, packets_per_s))
            meter.charge(owner, owner, charges)
    for sender, size, count in batches:
        senders = [(sender + each) % 4 for each in range(count)]
        sizes = [size] * count
        if not meters[0].take_all(senders, sizes):
            for each in senders:
                meters[0].take(each, 1, size)
        for each in senders:
            meters[1].take(each, 1, size)
        now += 0.01
    at_once, singly = ({each.bucket: each for each in meter.take_used(9)} for meter in meters)
    for bucket in at_once.keys() | singly.keys():
        one, other = (used.get(bucket, Used(bucket, 0, 0, 0, 0)) for used in (at_once, singly))
        # Sums of floating-point numbers: at the very edge one of them may let one packet more pass.
        assert abs(one.packets - other.packets) <= 1
        assert abs(one.dropped_packets - other.dropped_packets) <= 1


def test_all_buckets_are_reported_in_turn() -> None:
    meter = Meter[int](clock=lambda: 0.0)
    for owner in range(10):
        meter.charge(owner, owner, [Charge(owner + 1, INF, INF)])
        meter.take(owner, 1, 5)
    seen = [each.bucket for _ in range(4) for each in meter.take_used(3)]
    assert sorted(seen) == list(range(1, 11))
    assert meter.take_used(3) == []


# The control: who is charged, and how the rates are shared out.


class Forwarders:
    """Two meters; what they are told, and what they are to report."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.told: dict[Hashable, dict[int, Charge]] = {"a": {}, "b": {}}
        self.reports: list[tuple[Hashable, list[Used]]] = []

    @property
    def meters(self) -> Sequence[Hashable]:
        return list(self.told)

    def apply(self, changes: Sequence[Change]) -> None:
        self.changes.extend(changes)

    def take_used(self) -> list[tuple[Hashable, list[Used]]]:
        reports, self.reports = self.reports, []
        return reports

    def set_rates(self, meter: Hashable, charges: Sequence[Charge]) -> None:
        self.told[meter].update({each.bucket: each for each in charges})

    def kinds(self) -> list[type]:
        kinds = [type(each) for each in self.changes]
        self.changes.clear()
        return kinds


def controlled(forwarders: Forwarders, limits: ForwardLimits | None = None) -> Control:
    world = World()
    control = Control(
        certificate=certificate(),
        forwarders=[forwarders],
        send=world.deliver,
        rate_limits=RateLimits(per_minute=1e6, burst=10**6),
        forward_limits=limits,
    )
    control.meter(forwarders)
    return control


def register(control: Control, number: int, **limits: int) -> None:
    grant = Grant("alice", "t1", 1e9, 1e9, TokenLimits(**limits))
    request = RegisterRequest(number.to_bytes(16, "big"), 2, Derivation.BLAKE2B, 1)
    control.register(request, path_of(1000 + number), number, grant)


def test_who_pays_is_told_after_where_he_is_and_described_to_who_joins() -> None:
    async def main() -> None:
        forwarders = Forwarders()
        control = controlled(forwarders)
        await control.start()
        register(control, 1)
        assert forwarders.kinds() == [OwnerMoved, ConnectionIdsAdded]
        register(control, 2, bytes_per_s=1000)
        kinds = forwarders.kinds()
        assert set(kinds) == {OwnerMoved, ConnectionIdsAdded, OwnerCharged}
        assert kinds.index(OwnerMoved) < kinds.index(OwnerCharged)
        described = [type(each) for each in control.state.describe(1)]
        assert described == [OwnerMoved, ConnectionIdsAdded, OwnerCharged]
        assert [type(each) for each in control.state.describe(0)] == kinds[:0] + described[:2]
        await control.stop()

    run_virtual(main(), limit_s=100.0)


def test_rates_follow_the_reports_and_bytes_are_used_up() -> None:
    async def main() -> None:
        forwarders = Forwarders()
        control = controlled(forwarders)
        await control.start()
        register(control, 1, bytes_per_s=1000, bytes=500)
        forwarders.reports.append(("b", [Used(1, 100, 1, 900, 9)]))
        await asyncio.sleep(1.5 * INTERVAL_S)
        assert forwarders.told["b"][1].bytes_per_s > 900
        assert 0 < forwarders.told["a"][1].bytes_per_s < 100
        forwarders.reports.append(("a", [Used(1, 400, 1, 0, 0)]))
        await asyncio.sleep(1.5 * INTERVAL_S)
        assert [each[1].bytes_per_s for each in forwarders.told.values()] == [0.0, 0.0]
        with pytest.raises(RegistryFull, match="all that your token permits") as refused:
            register(control, 1, bytes_per_s=1000, bytes=500)
        assert refused.value.reason is RegistryRefusal.ALLOWANCE_USED
        assert refused.value.retry_after_s > 0
        assert control.refused_counters()["allowance_used"] == 1
        await control.stop()

    run_virtual(main(), limit_s=100.0)


def test_limits_that_come_with_a_reload_are_told_to_all() -> None:
    async def main() -> None:
        forwarders = Forwarders()
        control = controlled(forwarders)
        await control.start()
        for number in range(1200):
            register(control, number, registrations=10_000, connection_ids=10_000)
        forwarders.kinds()
        control._metering.change_limits(ForwardLimits(bytes_per_s_per_source=5000.0))
        await asyncio.sleep(1.0)
        assert forwarders.kinds() == [OwnerCharged] * 1200
        control._metering.change_limits(ForwardLimits())
        await asyncio.sleep(1.0)
        assert forwarders.kinds() == [OwnerCharged] * 1200
        await control.stop()

    run_virtual(main(), limit_s=100.0)
