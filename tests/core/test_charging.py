"""Who pays, and what part each gets: subjects and sources, workers and the kernel."""

import math

import pytest

from relay.core.admission import Grant, TokenLimits
from relay.core.bucket import Charge, Used
from relay.core.charging import Charging, ForwardLimits, MeterId, Payer
from relay.core.path import Path
from relay.core.table import Change, ConnectionIdsAdded, OwnerCharged, OwnerMoved, OwnerRemoved
from relay.wire.address import Address

INF = math.inf
PATH = Path(Address("192.0.2.1", 1000), 0, "198.51.100.1")


class Scene:
    """Charging, and a registry as simple as can be; the forwarders' rates as they were told."""

    def __init__(self, limits: ForwardLimits | None = None, meters: int = 1) -> None:
        self.payers: dict[int, Payer] = {}
        self.charging = Charging(limits or ForwardLimits(), self.payers.get)
        self.meters: list[MeterId] = [f"worker {each}" for each in range(meters)]
        self.charging.set_meters(self.meters)
        self.rates: dict[MeterId, dict[int, Charge]] = {each: {} for each in self.meters}
        self.now = 0.0

    def register(
        self,
        owner: int,
        subject: str | None = None,
        source: str = "s",
        token: str = "",
        **limits: int,
    ) -> tuple[Charge, ...] | None:
        """What is told of who pays; None: nothing."""
        grant = None
        if subject is not None:
            grant = Grant(subject, token or subject + "1", 1e9, 1e9, TokenLimits(**limits))
        self.payers[owner] = Payer(source, grant)
        return self.follow(OwnerMoved(owner, PATH))

    def remove(self, owner: int) -> None:
        del self.payers[owner]
        self.follow(OwnerRemoved(owner, ()))

    def follow(self, change: Change) -> tuple[Charge, ...] | None:
        first, *more = self.charging.follow([change])
        assert first == change
        return self.tell(more)[0].charges if more else None

    def tell(self, changes: list[Change]) -> list[OwnerCharged]:
        """As forwarders take it: those that know a bucket keep its rate."""
        charged = [each for each in changes if isinstance(each, OwnerCharged)]
        assert len(charged) == len(changes)
        for charge in (charge for each in charged for charge in each.charges):
            for rates in self.rates.values():
                rates.setdefault(charge.bucket, charge)
        return charged

    def revisit(self, *owners: int) -> list[OwnerCharged]:
        return self.tell(self.charging.revisit(owners))

    def use(self, meter: int, bucket: int, size: int, dropped: int = 0, packets: int = 1) -> None:
        used = Used(bucket, size, packets, dropped, int(dropped > 0))
        self.charging.used(self.meters[meter], [used], self.now)

    def share(self, elapsed: float = 0.1) -> dict[MeterId, list[Charge]]:
        self.now += elapsed
        told = self.charging.share(self.now)
        for meter, charges in told.items():
            self.rates[meter].update({each.bucket: each for each in charges})
        return told

    def bytes_per_s(self, bucket: int, meter: int = 0) -> float:
        return self.rates[self.meters[meter]][bucket].bytes_per_s


def test_without_limits_nothing_is_told_or_kept() -> None:
    scene = Scene()
    assert scene.register(1) is None
    assert scene.register(2, "alice") is None
    assert scene.follow(ConnectionIdsAdded(1, (bytes(12),))) is None
    assert not scene.charging.is_active
    assert scene.charging.describe(1) == []
    assert scene.share() == {}


def test_a_token_with_a_rate() -> None:
    scene = Scene()
    assert scene.register(1, "alice", bytes_per_s=1000) == (Charge(1, 1000.0, INF),)
    assert scene.register(2, "alice", bytes_per_s=1000) == (Charge(1, 1000.0, INF),)
    assert scene.register(3, "bob", packets_per_s=50) == (Charge(2, INF, 50.0),)
    assert scene.charging.describe(2) == [OwnerCharged(2, (Charge(1, 1000.0, INF),))]
    assert scene.register(1, "alice", bytes_per_s=1000) is None  # it has only moved
    scene.share()
    assert scene.share() == {}


def test_a_token_that_says_nothing_has_the_relays_own_rate() -> None:
    scene = Scene(ForwardLimits(bytes_per_s_per_token=500.0))
    assert scene.register(1, "alice") == (Charge(1, 500.0, INF),)
    assert scene.register(2, "bob", bytes_per_s=9000) == (Charge(2, 9000.0, INF),)
    assert scene.register(3) is None


def test_sources() -> None:
    scene = Scene(ForwardLimits(packets_per_s_per_source=70.0))
    assert scene.register(1, source="a") == (Charge(1, INF, 70.0),)
    assert scene.register(2, source="a") == (Charge(1, INF, 70.0),)
    assert scene.register(3, "alice", source="b", bytes_per_s=1000) == (
        Charge(2, 1000.0, INF),
        Charge(3, INF, 70.0),
    )
    assert scene.register(1, source="b") == (Charge(3, INF, 70.0),)


def test_numbers_are_used_again_when_nobody_pays_there() -> None:
    scene = Scene(ForwardLimits(bytes_per_s_per_source=70.0))
    for owner in range(5):
        scene.register(owner, source=f"{owner}")
    for owner in range(5):
        scene.remove(owner)
    assert not scene.charging.is_active
    buckets = [scene.register(owner, source=f"x{owner}") for owner in range(7)]
    assert sorted(charges[0].bucket for charges in buckets if charges) == [1, 2, 3, 4, 5, 6, 7]


def test_two_tokens_of_a_subject_share_the_rate_of_the_one_shown_last() -> None:
    scene = Scene()
    scene.register(1, "alice", token="t1", bytes_per_s=1000)
    scene.register(2, "alice", token="t2", bytes_per_s=3000)
    scene.share()
    assert scene.bytes_per_s(1) == 3000


def test_the_bytes_of_a_token() -> None:
    scene = Scene()
    scene.register(1, "alice", token="t1", bytes=1000)
    grant = scene.payers[1].grant
    assert grant is not None
    scene.use(0, 1, 999)
    scene.share()
    assert scene.bytes_per_s(1) == INF
    assert not scene.charging.is_used_up(grant)
    scene.use(0, 1, 1)
    scene.share()
    assert scene.bytes_per_s(1) == 0.0
    assert scene.charging.is_used_up(grant)
    assert scene.charging.describe(1) == [OwnerCharged(1, (Charge(1, 0.0, INF),))]
    # It stays so though nobody has it any more, and the next token is another one.
    scene.remove(1)
    assert scene.register(1, "alice", token="t1", bytes=1000) == (Charge(1, 0.0, INF),)
    scene.register(1, "alice", token="t2", bytes=1000)
    scene.share()
    assert scene.bytes_per_s(1) == INF


def test_bytes_are_counted_over_all_forwarders() -> None:
    scene = Scene(ForwardLimits(bytes_per_token=1000.0), meters=3)
    scene.register(1, "alice")
    for meter in range(3):
        scene.use(meter, 1, 334)
    scene.share()
    assert [scene.bytes_per_s(1, meter) for meter in range(3)] == [0.0] * 3


def test_forwarders_begin_with_equal_parts() -> None:
    scene = Scene(meters=4)
    assert scene.register(1, "alice", bytes_per_s=8000) == (Charge(1, 2000.0, INF),)


def test_a_forwarder_gets_what_it_needs() -> None:
    scene = Scene(meters=2)
    scene.register(1, "alice", bytes_per_s=8000)
    scene.use(0, 1, 400, dropped=100)
    scene.share()
    busy, idle = scene.bytes_per_s(1, 0), scene.bytes_per_s(1, 1)
    assert busy > 0.9 * 8000
    assert 0 < idle < 0.1 * 8000
    assert busy + idle == pytest.approx(8000)
    # Now the other one is where it comes in: at once half of it, and soon nearly all.
    scene.use(1, 1, 50, dropped=100)
    scene.share()
    assert scene.bytes_per_s(1, 1) > 0.4 * 8000
    for _ in range(20):
        scene.use(1, 1, 400, dropped=100)
        scene.share()
    assert scene.bytes_per_s(1, 1) > 0.9 * 8000
    # Both: half each.
    for meter in range(2):
        scene.use(meter, 1, 400, dropped=100)
    scene.share()
    assert scene.bytes_per_s(1, 0) == scene.bytes_per_s(1, 1) == pytest.approx(4000)


def test_a_forwarder_that_has_been_replaced_is_told_again() -> None:
    scene = Scene(meters=2)
    scene.register(1, "alice", bytes_per_s=8000)
    for _ in range(3):
        scene.use(0, 1, 400)
        scene.share()
    scene.use(0, 1, 400)
    assert scene.share() == {}
    scene.charging.set_meters(scene.meters)
    scene.use(0, 1, 400)
    assert set(scene.share()) == set(scene.meters)


def run(scene: Scene, demands: dict[int, float], rounds: int = 10) -> dict[int, float]:
    """Senders that send at a steady rate (bytes/s, by bucket); what passes in the last round."""
    passed: dict[int, float] = {}
    for _ in range(rounds):
        for bucket, demand in demands.items():
            passed[bucket] = min(demand, scene.bytes_per_s(bucket))
            size, wanted = int(passed[bucket] / 10), int(demand / 10)
            scene.use(0, bucket, size, dropped=wanted - size)
        scene.share()
    return passed


def test_a_total_is_shared_fairly_between_tokens() -> None:
    scene = Scene(ForwardLimits(bytes_per_s=9000.0))
    for owner, subject in enumerate("abc", 1):
        scene.register(owner, subject)
        scene.register(owner + 10, subject)  # whoever has two registrations has one share
    passed = run(scene, {1: 1000.0, 2: 50_000.0, 3: 50_000.0})
    assert passed[1] == 1000.0
    assert passed[2] == pytest.approx(4000.0, rel=0.05)
    assert passed[3] == pytest.approx(4000.0, rel=0.05)


def test_one_alone_gets_all_of_it_and_gives_it_back() -> None:
    scene = Scene(ForwardLimits(bytes_per_s=9000.0))
    for owner, subject in enumerate("ab", 1):
        scene.register(owner, subject)
    assert run(scene, {1: 50_000.0})[1] == pytest.approx(9000.0, rel=0.05)
    passed = run(scene, {1: 50_000.0, 2: 50_000.0})
    assert passed[1] == pytest.approx(4500.0, rel=0.05)
    assert passed[2] == pytest.approx(4500.0, rel=0.05)


@pytest.mark.parametrize("meters", [1, 2])
def test_who_pauses_for_a_moment_keeps_his_part_of_it(meters: int) -> None:
    scene = Scene(ForwardLimits(bytes_per_s=9000.0), meters)
    for owner, subject in enumerate("ab", 1):
        scene.register(owner, subject)
    greedy = {1: 50_000.0}
    run(scene, greedy | {2: 2000.0})
    assert run(scene, greedy | {2: 0.0}, rounds=3)[1] < 9000.0 - 1000.0
    assert scene.bytes_per_s(2) > 1000.0
    # A longer one gives it to others.
    assert run(scene, greedy | {2: 0.0}, rounds=12)[1] > 8000.0


def test_a_tokens_own_rate_bounds_its_share() -> None:
    scene = Scene(ForwardLimits(bytes_per_s=9000.0))
    scene.register(1, "a", bytes_per_s=2000)
    scene.register(2, "b")
    passed = run(scene, {1: 50_000.0, 2: 50_000.0})
    assert passed[1] == pytest.approx(2000.0)
    assert passed[2] == pytest.approx(7000.0, rel=0.05)


def test_without_tokens_the_sources_share() -> None:
    scene = Scene(ForwardLimits(bytes_per_s=9000.0))
    for owner, source in enumerate("abc", 1):
        scene.register(owner, source=source)
    passed = run(scene, dict.fromkeys((1, 2, 3), 50_000.0))
    assert all(each == pytest.approx(3000.0, rel=0.05) for each in passed.values())


def test_a_source_takes_no_part_in_what_subjects_share() -> None:
    scene = Scene(ForwardLimits(bytes_per_s=9000.0, bytes_per_s_per_source=8000.0))
    scene.register(1, "a", source="s")
    assert scene.bytes_per_s(2) == 8000.0
    demands = {1: 50_000.0, 2: 50_000.0}
    passed = run(scene, demands)
    assert passed[1] == pytest.approx(9000.0, rel=0.05)
    assert passed[2] == 8000.0


def test_packets_are_shared_likewise() -> None:
    scene = Scene(ForwardLimits(packets_per_s=100.0))
    for owner, subject in enumerate("ab", 1):
        scene.register(owner, subject)
    for _ in range(5):
        for bucket in (1, 2):
            scene.charging.used(scene.meters[0], [Used(bucket, 9, 5, 9, 5)], scene.now)
        scene.share()
    rates = scene.rates[scene.meters[0]]
    assert [rates[each].packets_per_s for each in (1, 2)] == [50.0, 50.0]
    assert rates[1].bytes_per_s == INF


def test_many_beginners_do_not_get_more_than_there_is() -> None:
    scene = Scene(ForwardLimits(bytes_per_s=16_000.0))
    charges = [scene.register(owner, f"subject {owner}") for owner in range(1000)]
    first = [charge[0].bytes_per_s for charge in charges if charge]
    assert max(first[100:]) <= 16_000.0 / 16
    assert sum(first[-16:]) <= 16_000.0


def test_limits_can_be_changed() -> None:
    scene = Scene()
    scene.register(1, "alice")
    scene.register(2, source="b")
    scene.charging.change_limits(ForwardLimits(bytes_per_s_per_source=700.0))
    assert scene.revisit(1, 2, 3) == [
        OwnerCharged(1, (Charge(1, 700.0, INF),)),
        OwnerCharged(2, (Charge(2, 700.0, INF),)),
    ]
    scene.charging.change_limits(ForwardLimits(bytes_per_s_per_source=900.0))
    assert scene.revisit(1, 2) == []
    scene.share()
    assert scene.bytes_per_s(1) == scene.bytes_per_s(2) == 900.0
    scene.charging.change_limits(ForwardLimits())
    assert scene.revisit(1, 2) == [OwnerCharged(1, ()), OwnerCharged(2, ())]
    assert not scene.charging.is_active


def test_reports_of_buckets_that_are_gone_are_ignored() -> None:
    scene = Scene()
    scene.register(1, "alice", bytes_per_s=1000)
    scene.remove(1)
    scene.use(0, 1, 100)
    scene.use(0, 99, 100)
    assert scene.share() == {}
