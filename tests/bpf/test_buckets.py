"""What several owners may have forwarded together, in the kernel: at its edges, and as the workers'
buckets have it."""

import math
from collections.abc import Iterator

import pytest

from bpf.layout import KernelOutcome as K
from relay.core.bucket import BURST_S, Charge, Used
from relay.core.table import OwnerCharged

from .lab import SIZES, KernelUnderTest
from .scene import RECEIVER, SENDER, Scene

INF = math.inf
SIZE = 30
"""Bytes of each packet's payload."""


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture
def scene(kernel: KernelUnderTest) -> Iterator[Scene]:
    for entry in kernel.maps.owners:
        entry.generation = 0
    made = Scene(kernel)
    yield made
    for family in (4, 6):
        for owner in (SENDER[family], RECEIVER[family]):
            made.apply([OwnerCharged(owner, ())])


def send(scene: Scene, family: int, count: int) -> list[K]:
    frame = scene.frame(family).build()
    return [scene.kernel.verdict(frame)[1] for _ in range(count)]


def charge(scene: Scene, family: int, *charges: Charge) -> None:
    scene.apply([OwnerCharged(SENDER[family], charges)])


def test_nobody_pays_unless_told(scene: Scene, family: int) -> None:
    assert send(scene, family, 300) == [K.FORWARDED] * 300
    assert scene.forwarder.buckets.take_used() == []


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("bytes_per_s", "packets_per_s"), [(INF, 40.0), (40.0 * SIZE, INF)], ids=["packets", "bytes"]
)
def test_a_rate(
    scene: Scene, family: int, place: int, bytes_per_s: float, packets_per_s: float
) -> None:
    limited, free = Charge(3, bytes_per_s, packets_per_s), Charge(4, INF, INF)
    charge(scene, family, *((limited, free) if place == 0 else (free, limited)))
    outcomes = send(scene, family, 60)
    burst = int(40 * BURST_S)
    assert outcomes[:burst] == [K.FORWARDED] * burst
    passed = outcomes.count(K.FORWARDED)
    assert burst <= passed <= burst + 8  # some come back meanwhile
    assert outcomes.count(K.RATE_LIMITED) == 60 - passed
    used = {each.bucket: each for each in scene.forwarder.buckets.take_used()}
    assert used[3] == Used(3, SIZE * passed, passed, SIZE * (60 - passed), 60 - passed)
    assert used[4] == Used(4, SIZE * passed, passed, 0, 0)
    assert scene.forwarder.buckets.take_used() == []


def test_a_bucket_is_shared(scene: Scene) -> None:
    """Who sends pays, whoever it is; all that one has taken the other lacks."""
    shared = Charge(5, INF, 40.0)
    for each in (4, 6):
        charge(scene, each, shared)
    first, second = send(scene, 4, 40), send(scene, 6, 40)
    assert first.count(K.FORWARDED) >= 10
    assert second.count(K.FORWARDED) <= 4


def test_a_rate_can_be_changed(scene: Scene, family: int) -> None:
    charge(scene, family, Charge(6, INF, 4.0))
    assert K.RATE_LIMITED in send(scene, family, 10)
    scene.forwarder.buckets.set_rates([Charge(6, INF, INF), Charge(7, 1000.0, 1.0)])
    scene.kernel.maps.buckets[6].packets_until_ns = 0
    assert send(scene, family, 50) == [K.FORWARDED] * 50
    charge(scene, family, Charge(6, INF, 4.0))  # a bucket that is known keeps its rate
    assert send(scene, family, 50) == [K.FORWARDED] * 50


def test_shut(scene: Scene, family: int) -> None:
    charge(scene, family, Charge(8, 0.0, INF))
    assert send(scene, family, 5) == [K.ALLOWANCE_USED] * 5
    assert scene.forwarder.buckets.take_used() == [Used(8, 0, 0, 5 * SIZE, 5)]
    scene.forwarder.buckets.set_rates([Charge(8, INF, INF)])
    assert send(scene, family, 5) == [K.FORWARDED] * 5


def test_a_number_that_is_used_again_begins_anew(scene: Scene, family: int) -> None:
    charge(scene, family, Charge(9, INF, 4.0))
    send(scene, family, 20)
    charge(scene, family)
    assert send(scene, family, 20) == [K.FORWARDED] * 20
    charge(scene, family, Charge(9, INF, 4000.0))
    assert send(scene, family, 20) == [K.FORWARDED] * 20
    assert scene.forwarder.buckets.take_used() == [Used(9, 20 * SIZE, 20, 0, 0)]


def test_for_whom_the_map_has_no_room_the_workers_forward(scene: Scene, family: int) -> None:
    charge(scene, family, Charge(SIZES.buckets - 1, INF, INF))
    assert send(scene, family, 1) == [K.FORWARDED]
    charge(scene, family, Charge(SIZES.buckets, INF, INF))
    assert send(scene, family, 1) == [K.EXPIRED]
    scene.forwarder.renew_leases(0.0)
    assert send(scene, family, 1) == [K.EXPIRED]
    charge(scene, family)
    assert send(scene, family, 1) == [K.FORWARDED]
