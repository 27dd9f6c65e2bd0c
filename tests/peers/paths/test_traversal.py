"""Which pairs of NATs a direct path gets through, how fast, and with how many probes.

Many seeded runs of two agents on the virtual network; 80 ms one way, directly and by the relay.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from socket import AF_INET

import pytest

from peers.nat.outlook import Mapping
from peers.paths.candidate import Kind, LocalCandidate
from peers.paths.path import Direct, PathPolicy
from relay.wire.address import Address
from tests.conftest import Note
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Behaviour, Conditions, Filtering, MappingBehaviour

from .lab import PORT, RELAY_DELAY_S, End, World, dependent, independent

LONG = bool(os.environ.get("QUICPIPE_LONG"))
RUNS = 200 if LONG else 12
BIRTHDAY_RUNS = 100 if LONG else 6

OPEN = independent(Filtering.NONE)
BY_ADDRESS = independent(Filtering.ADDRESS)
BY_PORT = independent(PORT)
DEPENDENT = dependent()
BY_HOST = Behaviour(MappingBehaviour.ADDRESS, Filtering.ADDRESS, random_ports=True)

Nats = tuple[Behaviour, ...]
Make = Callable[[World], Awaitable[tuple[End, End]]]


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one."""

    direct_s: float | None
    """Seconds from the pipe being open until both ends used a direct path."""
    probes: int
    explained: str


def _run(make: Make, seed: int, wait_s: float) -> Run:
    async def main() -> Run:
        world = World(seed)
        dialer, accepter = await make(world)
        began = world.now - RELAY_DELAY_S
        while world.now < began + wait_s:
            await asyncio.sleep(0.01)
            if dialer.direct_at is not None and accepter.direct_at is not None:
                break
        ends = (dialer.direct_at, accepter.direct_at)
        direct_s = None if None in ends else max(filter(None, ends)) - began
        report = dialer.agent.report(world.now)
        if direct_s is not None:
            assert isinstance(report.current, Direct)
        return Run(direct_s, world.probes, "\n".join(report.lines()))

    return run_virtual(main())


def _runs(make: Make, count: int, note: Note, name: str, wait_s: float = 20.0) -> list[Run]:
    runs = [_run(make, seed, wait_s) for seed in range(count)]
    times = sorted(each.direct_s for each in runs if each.direct_s is not None)
    line = f"{name}: direct in {len(times)} of {count}"
    if times:
        line += f", median {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s"
    note(f"{line}, at most {max(each.probes for each in runs)} probes")
    return runs


def _homes(dialer: Nats, accepter: Nats, *, v6: bool = False) -> Make:
    return lambda world: world.join(
        world.home("dialer", 1, *dialer, v6=v6), world.home("accepter", 2, *accepter, v6=v6)
    )


def _name(nats: Nats) -> str:
    return " behind ".join(
        f"{each.mapping.value}, filter {each.filtering.value}" for each in reversed(nats)
    )


AT_ONCE: list[tuple[Nats, Nats]] = [
    ((), ()),
    ((), (BY_PORT,)),
    ((BY_PORT,), ()),
    ((), (DEPENDENT,)),
    ((DEPENDENT,), ()),
    ((OPEN,), (OPEN,)),
    ((BY_ADDRESS,), (BY_ADDRESS,)),
    ((BY_PORT,), (BY_PORT,)),
    ((OPEN,), (BY_PORT,)),
    ((BY_PORT, BY_PORT), (BY_PORT,)),
    ((BY_PORT, BY_PORT), (BY_PORT, BY_ADDRESS)),
]


@pytest.mark.parametrize(("dialer", "accepter"), AT_ONCE, ids=lambda nats: _name(nats) or "public")
def test_independent_mapping_and_public_ends(dialer: Nats, accepter: Nats, note: Note) -> None:
    runs = _runs(_homes(dialer, accepter), RUNS, note, "within 1 s")
    for run in runs:
        assert run.direct_s is not None, run.explained
        assert run.direct_s < 1.0
        assert run.probes < 100


SOON: list[tuple[Nats, Nats]] = [
    ((OPEN,), (DEPENDENT,)),
    ((DEPENDENT,), (OPEN,)),
    ((BY_ADDRESS,), (DEPENDENT,)),
    ((DEPENDENT,), (BY_ADDRESS,)),
    ((BY_ADDRESS,), (BY_HOST,)),
]


@pytest.mark.parametrize(("dialer", "accepter"), SOON, ids=_name)
def test_dependent_against_a_filter_by_address(dialer: Nats, accepter: Nats, note: Note) -> None:
    for run in _runs(_homes(dialer, accepter), RUNS, note, "within 3 s"):
        assert run.direct_s is not None, run.explained
        assert run.direct_s < 3.0


@pytest.mark.parametrize("swapped", [False, True], ids=["dialer dependent", "accepter dependent"])
def test_dependent_against_a_filter_by_port(swapped: bool, note: Note) -> None:
    nats: tuple[Nats, Nats] = ((DEPENDENT,), (BY_PORT,))
    make = _homes(*(nats[::-1] if swapped else nats))
    runs = _runs(make, BIRTHDAY_RUNS, note, "birthday probing, within 15 s")
    found = [each for each in runs if each.direct_s is not None and each.direct_s < 15.0]
    assert len(found) >= 0.9 * len(runs)
    assert max(each.probes for each in runs) <= 1_500


def test_ipv6_passes_where_ipv4_does_not(note: Note) -> None:
    make = _homes((DEPENDENT,), (DEPENDENT,), v6=True)
    for run in _runs(make, RUNS, note, "IPv6 on both sides"):
        assert run.direct_s is not None, run.explained
        assert run.direct_s < 1.0


def test_a_port_mapping_helps_two_dependent_ones(note: Note) -> None:
    async def make(world: World) -> tuple[End, End]:
        dialer = world.home("dialer", 1, DEPENDENT)
        accepter = world.home("accepter", 2, DEPENDENT)
        nat = world.network.nat("203.0.113.3", behaviour=OPEN)
        accepter.move("192.168.3.2", behind=nat)
        ends = await world.join(dialer, accepter)
        view = ends[1].view()
        assert view.mapping is Mapping.INDEPENDENT
        outside = view.candidates[0].address
        ends[1].extra = (LocalCandidate(Kind.MAPPED, outside, ends[1].main[AF_INET]),)
        return ends

    for run in _runs(make, RUNS, note, "port mapping"):
        assert run.direct_s is not None, run.explained


@pytest.mark.parametrize("hairpin", [False, True])
def test_behind_one_nat_the_shortest_way_is_found(hairpin: bool, note: Note) -> None:
    async def make(world: World) -> tuple[End, End]:
        nat = world.network.nat("203.0.113.1", behaviour=independent(hairpin=hairpin))
        dialer, accepter = world.network.host("dialer"), world.network.host("accepter")
        dialer.move("192.168.1.2", behind=nat)
        accepter.move("192.168.1.3", behind=nat)
        ends = await world.join(dialer, accepter)
        return ends

    for run in _runs(make, RUNS, note, "one home"):
        assert run.direct_s is not None, run.explained
        assert run.direct_s < 1.0
        assert "192.168.1." in run.explained.splitlines()[0]


@pytest.mark.parametrize("loss", [0.05, 0.1])
def test_loss_costs_time_and_not_the_path(loss: float, note: Note) -> None:
    async def make(world: World) -> tuple[End, End]:
        ends = await world.join(
            world.home("dialer", 1, BY_PORT), world.home("accepter", 2, BY_PORT)
        )
        for end in ends:
            end.host.set_conditions(Conditions(latency_s=0.04, jitter_s=0.01, loss=loss / 2))
        return ends

    runs = _runs(make, RUNS, note, f"{loss:.0%} loss")
    assert all(run.direct_s is not None for run in runs)


def test_both_dependent_is_recognised_and_not_tried_for_ever() -> None:
    async def main() -> None:
        world = World(seed=1)
        ends = await _homes((DEPENDENT,), (DEPENDENT,))(world)
        began = world.now
        seen = world.watch()
        times: list[float] = []
        world.network.watchers.append(lambda packet: times.append(world.now))
        await asyncio.sleep(600)
        assert seen
        assert times[-1] - began <= 30
        assert world.probes <= 100
        for end in ends:
            report = end.agent.report(world.now)
            assert end.agent.has_given_up
            assert "both NATs map dependently" in report.searching
            assert all(each.state == "failed" for each in report.pairs)
            assert end.agent.next_timer() is None

        # Something changes: the accepter is on another network now.
        host = ends[1].host
        host.move("192.168.9.9", behind=world.network.nat("203.0.113.9", behaviour=OPEN))
        ends[1].outside.clear()
        ends[1].ask_relay()
        await asyncio.sleep(1)
        ends[1].agent.network_changed(world.now)
        ends[1].start()
        await asyncio.sleep(3)
        assert isinstance(ends[0].agent.current, Direct)
        assert isinstance(ends[1].agent.current, Direct)

    run_virtual(main())


def test_blocked_udp_is_given_up_in_the_end() -> None:
    async def main() -> None:
        world = World(seed=1)
        dialer = world.home("dialer", 1, BY_PORT, blocked=True)
        ends = await world.join(dialer, world.home("accepter", 2, BY_PORT))
        await asyncio.sleep(400)
        probes = world.probes
        assert probes < 200
        await asyncio.sleep(2_000)
        assert world.probes == probes
        assert ends[0].agent.has_given_up
        assert "no answer" in "\n".join(ends[0].agent.report(world.now).lines())

    run_virtual(main())


def test_relay_only_tells_nothing_and_sends_nothing() -> None:
    async def main() -> None:
        world = World(seed=1)
        dialer, accepter = world.home("dialer", 1), world.home("accepter", 2)
        ends = await world.join(dialer, accepter, policy=PathPolicy.RELAY_ONLY)
        await asyncio.sleep(100)
        assert world.probes == 0
        assert not ends[0].ids
        packed = Address("198.51.100.1", 0).packed
        assert not any(packed in body for body in world.messages)
        for end, whose in zip(ends, ("we are", "the other end wants"), strict=True):
            assert end.agent.has_given_up
            assert whose in end.agent.report(world.now).searching

    run_virtual(main())


def test_a_way_too_narrow_for_quic_is_not_used() -> None:
    async def main() -> None:
        world = World(seed=1)
        ends = await world.join(world.home("dialer", 1), world.home("accepter", 2))
        ends[0].host.up.conditions = Conditions(latency_s=0.04, mtu=1_200)
        await asyncio.sleep(20)
        assert not any(end.switches for end in ends)
        reasons = [pair.why for pair in ends[0].agent.report(world.now).pairs]
        assert "small probes pass, 1,200 bytes do not" in reasons[0]

    run_virtual(main())
