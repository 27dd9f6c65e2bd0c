"""The direct path dies in every way that it can: to the relay at once, and back when it lives."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from socket import AF_INET6

import pytest

from peers.paths.path import RELAY, Direct
from relay.wire.address import Address
from tests.conftest import Note
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Behaviour, Filtering, Host, Packet

from .lab import RELAY_HOST, End, World, dependent, independent

NAT = independent()


async def _direct(
    *, seed: int = 1, dialer: Behaviour = NAT, accepter: Behaviour = NAT, v6: bool = False
) -> tuple[World, End, End]:
    """A pipe that goes directly."""
    world = World(seed)
    homes = world.home("dialer", 1, dialer, v6=v6), world.home("accepter", 2, accepter, v6=v6)
    a, b = await world.join(*homes)
    await _until(lambda: _is_direct(a) and _is_direct(b), 20.0)
    return world, a, b


def _is_direct(end: End) -> bool:
    return isinstance(end.agent.current, Direct)


async def _until(is_so: Callable[[], bool], within_s: float) -> float:
    """Wait for it; returns the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not is_so():
        assert loop.time() - began < within_s, "it did not happen in time"
        await asyncio.sleep(0.01)
    return loop.time() - began


@contextlib.asynccontextmanager
async def _sending(*ends: End, every_s: float = 0.01) -> AsyncIterator[None]:
    async def send(end: End) -> None:
        while True:
            end.send_data()
            await asyncio.sleep(every_s)

    tasks = [asyncio.create_task(send(end)) for end in ends]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _relay_only(datagram: bytes, source: Address, destination: Address) -> bool:
    return destination.host == RELAY_HOST


def _cut(*hosts: Host) -> None:
    for host in hosts:
        host.up.passes = _relay_only


def _mend(*hosts: Host) -> None:
    for host in hosts:
        host.up.passes = None


def _longest_gap(end: End, since: float) -> float:
    times = [each for each in end.data_at if each >= since]
    return max(after - before for before, after in itertools.pairwise(times))


Cut = Callable[[World, End, End], Awaitable[None]]


async def _both(world: World, dialer: End, accepter: End) -> None:
    _cut(dialer.host, accepter.host)


async def _one_way_up(world: World, dialer: End, accepter: End) -> None:
    _cut(dialer.host)


async def _one_way_down(world: World, dialer: End, accepter: End) -> None:
    _cut(accepter.host)


CUTS: list[Cut] = [_both, _one_way_up, _one_way_down]


@pytest.mark.parametrize("sender", ["dialer", "accepter", "both"])
@pytest.mark.parametrize("cut", CUTS)
def test_while_sending_on_the_relay_within_a_second(cut: Cut, sender: str, note: Note) -> None:
    async def main() -> None:
        world, dialer, accepter = await _direct()
        senders = {"dialer": [dialer], "accepter": [accepter], "both": [dialer, accepter]}[sender]
        async with _sending(*senders):
            await asyncio.sleep(2)
            began = world.now
            await cut(world, dialer, accepter)
            took = await _until(lambda: not any(_is_direct(each) for each in senders), 1.0)
            await asyncio.sleep(10)
            _mend(dialer.host, accepter.host)
            back = await _until(lambda: _is_direct(dialer) and _is_direct(accepter), 12.0)
            await asyncio.sleep(10)
            gaps = [_longest_gap(each.other, began) for each in senders]
            assert max(gaps) < 1.0
            note(f"relay after {took:.2f} s, gap {max(gaps):.2f} s, back after {back:.1f} s")
        # Up, down, up: no flapping in between.
        assert len(dialer.switches) == 3
        assert len(accepter.switches) == 3

    run_virtual(main())


@pytest.mark.parametrize("cut", CUTS)
def test_idle_on_the_relay_within_ten_seconds(cut: Cut, note: Note) -> None:
    async def main() -> None:
        world, dialer, accepter = await _direct()
        await asyncio.sleep(20)
        await cut(world, dialer, accepter)
        took = await _until(lambda: not _is_direct(dialer) and not _is_direct(accepter), 10.0)
        note(f"relay after {took:.1f} s")
        assert "keepalives" in dialer.agent.report(world.now).reason or (
            "keepalives" in accepter.agent.report(world.now).reason
        )

    run_virtual(main())


def test_an_idle_path_is_kept_alive_cheaply() -> None:
    async def main() -> None:
        world = World(seed=1)
        hosts = []
        for number in (1, 2):
            nat = world.network.nat(f"203.0.113.{number}", idle_timeout_s=30)
            hosts.append(world.network.host(f"home {number}"))
            hosts[-1].move(f"192.168.{number}.2", behind=nat)
        dialer, accepter = await world.join(*hosts)
        await _until(lambda: _is_direct(dialer) and _is_direct(accepter), 3.0)
        probes = world.probes
        await asyncio.sleep(1_000)
        assert _is_direct(dialer)
        assert len(dialer.switches) == 1
        assert world.probes - probes < 1_100  # four datagrams in four seconds, 64 bytes each

    run_virtual(main())


def test_cut_restored_cut_again_and_moved(note: Note) -> None:
    async def main() -> None:
        world, dialer, accepter = await _direct()
        async with _sending(dialer):
            began = world.now
            for _ in range(2):
                await asyncio.sleep(5)
                _cut(dialer.host, accepter.host)
                await asyncio.sleep(5)
                _mend(dialer.host, accepter.host)
                await _until(lambda: _is_direct(dialer), 10.0)
            # The device goes to another network: its path to the relay is found again by others.
            await asyncio.sleep(5)
            world.relay_works = False
            nat = world.network.nat("203.0.113.77", behaviour=NAT)
            dialer.host.move("192.168.77.2", behind=nat)
            await asyncio.sleep(1)
            world.relay_works = True
            dialer.outside.clear()
            dialer.ask_relay()
            await asyncio.sleep(0.2)
            dialer.agent.network_changed(world.now)
            dialer.start()
            took = await _until(lambda: _is_direct(dialer) and _is_direct(accepter), 5.0)
            await asyncio.sleep(5)
            gap = _longest_gap(accepter, began)
            note(f"direct again {took:.1f} s after the relay, longest gap {gap:.2f} s")
            assert gap < 2.0

    run_virtual(main())


def test_a_nat_that_forgets_is_left_and_found_again() -> None:
    async def main() -> None:
        world = World(seed=3)
        nat = world.network.nat("203.0.113.1", behaviour=NAT)
        home = world.network.host("dialer")
        home.move("192.168.1.2", behind=nat)
        dialer, accepter = await world.join(home, world.home("accepter", 2, NAT))
        await _until(lambda: _is_direct(dialer) and _is_direct(accepter), 3.0)
        async with _sending(accepter):
            await asyncio.sleep(2)
            began = world.now
            nat.rebind()  # whoever writes to the former port is dropped from now on
            await asyncio.sleep(1)
            dialer.outside.clear()
            dialer.ask_relay()
            await asyncio.sleep(0.3)
            dialer.start()  # the relay has told the new outside address
            await _until(lambda: _is_direct(dialer) and _is_direct(accepter), 5.0)
            await asyncio.sleep(1)
            assert _longest_gap(dialer, began) < 1.0

    run_virtual(main())


def test_a_birthday_path_is_found_again() -> None:
    async def main() -> None:
        _, dialer, accepter = await _direct(dialer=dependent(), seed=4)
        sockets = set(dialer.sockets)
        assert len(sockets) == 2  # the others are closed
        _cut(dialer.host, accepter.host)
        await _until(lambda: not _is_direct(dialer), 12.0)
        await asyncio.sleep(3)
        _mend(dialer.host, accepter.host)
        await _until(lambda: _is_direct(dialer) and _is_direct(accepter), 30.0)
        assert set(dialer.sockets) == sockets or len(dialer.sockets) == 2

    run_virtual(main())


def test_a_family_that_dies_is_replaced_by_the_other_through_the_relay() -> None:
    async def main() -> None:
        world, dialer, accepter = await _direct(v6=True)
        first = dialer.agent.current
        assert isinstance(first, Direct)
        dead = first.address.family
        async with _sending(dialer):
            await asyncio.sleep(2)
            began = world.now
            for end in (dialer, accepter):
                end.host.up.passes = lambda _, source, to: to.family is not dead
            await _until(lambda: dialer.agent.current == RELAY, 1.0)
            await _until(lambda: _is_direct(dialer) and _is_direct(accepter), 3.0)
            second = dialer.agent.current
            assert isinstance(second, Direct)
            assert second.address.family is not dead
            await asyncio.sleep(1)
            assert _longest_gap(accepter, began) < 1.0

    run_virtual(main())


def test_a_socket_that_is_closed_ends_its_path_at_once() -> None:
    async def main() -> None:
        _, dialer, _ = await _direct()
        dialer.main.clear()
        dialer.start()
        assert dialer.agent.current == RELAY
        assert dialer.switches[-1][2] == "its socket is closed"
        assert not dialer.agent.accepts(1, Address("203.0.113.2", 1))

    run_virtual(main())


def test_a_sleeper_does_not_blame_the_path() -> None:
    async def main() -> None:
        world, dialer, _ = await _direct()
        async with _sending(dialer):
            await asyncio.sleep(2)
            # The dialer's process stands still for two seconds; then its timers are late, and what
            # came meanwhile is still in its socket.
            agent = dialer.agent
            agent.sent(world.now)
            agent.poll(world.now + 2.0)
            assert isinstance(agent.current, Direct)
        await asyncio.sleep(1)
        assert len(dialer.switches) == 1

    run_virtual(main())


def test_a_shorter_path_takes_over_after_a_while() -> None:
    async def main() -> None:
        world, dialer, accepter = await _direct(
            dialer=independent(Filtering.NONE), accepter=independent(Filtering.NONE)
        )
        first = dialer.agent.current
        for end in (dialer, accepter):
            end.host.addresses += ("2001:db8:77::2" if end is dialer else "2001:db8:78::2",)
            world.network.attach(end.host.addresses[-1], end.host)
            end.open_main(AF_INET6)
        # IPv4 has a detour of 100 ms now.
        _delay_v4(dialer.host, 0.1)
        for end in (dialer, accepter):
            end.start()
        await asyncio.sleep(2)
        assert dialer.agent.current == first  # not at once
        await asyncio.sleep(60)
        second = dialer.agent.current
        assert isinstance(second, Direct)
        assert ":" in second.address.host
        assert accepter.agent.current != RELAY
        assert "better" in dialer.agent.report(world.now).reason

    run_virtual(main())


def _delay_v4(host: Host, delay_s: float) -> None:
    carry = host.up.carry

    def late(packet: Packet, arrive: Callable[[Packet], None]) -> None:
        if packet.destination.family is AF_INET6:
            carry(packet, arrive)
        else:
            asyncio.get_running_loop().call_later(delay_s, carry, packet, arrive)

    host.up.carry = late  # type: ignore[method-assign]  # a detour
