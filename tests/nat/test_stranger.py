"""A stranger who sees everything moves no traffic, and gets no more bytes than he sends."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.wire.address import Address

from .cells import EIF, Cell
from .home import ask_both
from .scene import PROOF_BYTES, Run, Scene
from .stranger import Rush, Seen, Stranger, between, datagrams

SETTLE_S = 1.0
"""Seconds for all that is under way to arrive, and to be answered."""

MOST_REPLAYED = 300

Attack = Callable[[Stranger, Seen, int], None]


def as_himself(stranger: Stranger, seen: Seen, number: int) -> None:
    stranger.send(seen)


def as_the_other_end(stranger: Stranger, seen: Seen, number: int) -> None:
    stranger.send_as(seen, seen.source)


def reflected(stranger: Stranger, seen: Seen, number: int) -> None:
    stranger.send(seen.reflected)


def reflected_as_the_other_end(stranger: Stranger, seen: Seen, number: int) -> None:
    stranger.send_as(seen.reflected, seen.destination)


def forged(stranger: Stranger, seen: Seen, number: int) -> None:
    stranger.send(seen.forged(number * 7919))


def forged_as_the_other_end(stranger: Stranger, seen: Seen, number: int) -> None:
    stranger.send_as(seen.forged(number * 7919), seen.source)


@pytest.fixture(scope="module")
def scene(can_build: None) -> Iterator[Scene]:
    """Neither NAT filters: nothing but the peers themselves stands in the stranger's way."""
    with Scene(Cell(EIF, EIF)) as scene:
        yield scene


@pytest.fixture
def stranger(scene: Scene) -> Iterator[Stranger]:
    stranger = Stranger(scene.world)
    yield stranger
    stranger.close()


def become_direct(scene: Scene) -> list[list[list[object]]]:
    """Both ends; returns their changes of path so far."""
    both = (scene.dialer, "until_path"), (scene.accepter, "until_path")
    reports = ask_both(*both, direct=True, patience_s=10.0)
    assert all(each["direct"] for each in reports), reports
    return [each["changes"] for each in reports]


@pytest.mark.parametrize(
    "attack",
    [
        as_himself,
        as_the_other_end,
        reflected,
        reflected_as_the_other_end,
        forged,
        forged_as_the_other_end,
    ],
)
def test_what_was_seen_is_worth_nothing(
    scene: Scene, stranger: Stranger, tmp_path: Path, attack: Attack
) -> None:
    wire = scene.gateways[0].wire
    wire.record(recording := tmp_path / "seen")
    scene.open(Run())
    changes = become_direct(scene)
    scene.dialer.ask("send", size=PROOF_BYTES)
    wire.record(None)
    homes = {each.ipv4 for each in scene.gateways}
    seen = between(datagrams(recording), homes)[:MOST_REPLAYED]
    assert len(seen) > PROOF_BYTES / 1500
    time.sleep(SETTLE_S)

    idle = _out(scene)
    time.sleep(SETTLE_S)
    idle = _out(scene) - idle
    before, out_before = stranger.sent_and_received(), _out(scene)
    for number, each in enumerate(seen):
        attack(stranger, each, number)
    time.sleep(SETTLE_S)
    after, out_after = stranger.sent_and_received(), _out(scene)
    sent, received = (later - earlier for earlier, later in zip(before, after, strict=True))
    caused = out_after - out_before
    print(f"{attack.__name__}: {sent} bytes sent, {received} received, {caused} caused")
    assert sent > len(seen) * 40
    assert received == 0
    # Replays of the pipe's own packets may be acknowledged; more than that nobody gets of it.
    assert caused <= sent + 2 * idle + 5_000

    scene.dialer.ask("send", size=PROOF_BYTES)
    assert stranger.sent_and_received()[1] == after[1]
    reports = [each.ask("report") for each in (scene.dialer, scene.accepter)]
    assert [each["changes"] for each in reports] == changes
    assert all(each["direct"] for each in reports)
    scene.close_pipe()


@pytest.mark.parametrize("claims", ["himself", "a victim"])
def test_who_is_faster_than_the_probes_wins_nothing(
    scene: Scene, stranger: Stranger, tmp_path: Path, claims: str
) -> None:
    """He sends a copy of every direct datagram, and the copy arrives first."""
    homes = {each.ipv4 for each in scene.gateways}
    victim = scene.world.server()
    address = Address(victim.ipv4, 40_000)

    def act(seen: Seen) -> None:
        if {seen.source.host, seen.destination.host} != homes:
            return
        if claims == "himself":
            stranger.send(seen)
        else:
            stranger.send_as(seen, address)

    rush = Rush(scene.gateways[0].wire, tmp_path / "seen", act)
    try:
        before = stranger.sent_and_received()
        scene.open(Run())
        scene.dialer.ask("send", size=PROOF_BYTES)
        time.sleep(2 * SETTLE_S)
        scene.dialer.ask("send", size=PROOF_BYTES)
        time.sleep(SETTLE_S)
    finally:
        rush.close()
    sent, received = (
        later - earlier for earlier, later in zip(before, stranger.sent_and_received(), strict=True)
    )
    at_victim = victim.wire.counts()[1].bytes
    print(f"as {claims}: {sent} bytes sent, {received} received; victim: {at_victim}")
    assert sent > 1_000
    assert received + at_victim <= sent
    for each in (scene.dialer, scene.accepter):
        path = each.ask("report")["path"]
        assert stranger.site.ipv4 not in path
        assert victim.ipv4 not in path
    # He is no longer faster: the direct path is found, or was never lost.
    become_direct(scene)
    scene.dialer.ask("send", size=PROOF_BYTES)
    assert stranger.sent_and_received()[1] - before[1] == received
    scene.close_pipe()


def _out(scene: Scene) -> int:
    """Bytes that both homes have sent to the internet."""
    return sum(each.wire.counts()[0].bytes for each in scene.gateways)
