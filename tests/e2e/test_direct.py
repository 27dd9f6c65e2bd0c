"""The direct path, whole: real agents, real QUIC, the real relay's control; virtual time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from peers import NoDirectPath, PathChange, PathPolicy, Pipe, accept
from relay.certificate import ServerCertificate
from relay.wire.address import Address

from ..lab.pairs import Pair, dial_at, joined
from ..lab.scene import Scene, scene
from ..lab.transfer import Meter, receive, send
from ..lab.virtual_loop import run_virtual
from ..lab.virtual_network import Conditions, Packet
from .conftest import LONG, Note

SEEDS = range(10 if LONG else 1)
SIZE, RATE = (100_000_000, 8_000_000.0) if LONG else (12_000_000, 1_000_000.0)
MOST_PAUSE_S = 2.0
DIRECT_WITHIN_S = 1.0
FAR = Conditions(latency_s=0.02)


@contextlib.asynccontextmanager
async def on_direct_path(at: Scene) -> AsyncIterator[Pair]:
    """A pipe that has left the relay."""
    async with joined(at, path_policy=PathPolicy.ANY) as pair:
        await asyncio.gather(*(end.wait_direct(5.0) for end in (pair.dialer, pair.accepter)))
        yield pair


def now() -> float:
    return asyncio.get_running_loop().time()


def is_direct(pipe: Pipe) -> bool:
    return pipe.statistics().path.startswith("direct")


async def until(condition: Callable[[], bool], limit_s: float) -> float:
    """Wait until it holds; returns the seconds that it took."""
    began = now()
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # of whatever, as an observer would see it
            await asyncio.sleep(0.01)
    return now() - began


class Cut:
    """The dialer's link, which carries the relay's traffic only while it is cut."""

    def __init__(self, at: Scene) -> None:
        self.is_cut = False
        self._relay = set(at.relay.host.addresses)
        at.dialer.up.passes = at.dialer.down.passes = self._passes

    def _passes(self, datagram: bytes, source: Address, destination: Address) -> bool:
        return not self.is_cut or bool(self._relay & {source.host, destination.host})


async def send_something(sender: Pipe, receiver: Pipe) -> float:
    """One stream; returns the seconds until it was read."""
    began = now()
    stream = sender.open_stream(unidirectional=True)
    await stream.write(b"something")
    stream.write_eof()
    assert await receive(await receiver.accept_stream())
    return now() - began


@pytest.mark.parametrize("seed", SEEDS)
def test_two_public_peers_are_direct_within_a_second(
    certificate: ServerCertificate, seed: int
) -> None:
    async def main() -> None:
        async with (
            scene(certificate, seed=seed, peers=FAR) as at,
            joined(at, path_policy=PathPolicy.ANY) as pair,
        ):
            await until(lambda: is_direct(pair.dialer) and is_direct(pair.accepter), 1.0)
            report = pair.dialer.paths()
            assert report.changes[-1].path == report.current
            assert report.probes_sent < 60

    run_virtual(main())


def test_two_peers_behind_usual_nats_are_direct_within_a_second(
    certificate: ServerCertificate,
) -> None:
    async def main() -> None:
        async with scene(certificate, peers=FAR) as at:
            at.dialer.move("192.168.0.2", behind=at.network.nat("198.51.100.9"))
            at.accepter.move("192.168.0.2", behind=at.network.nat("203.0.113.9"))
            async with joined(at, path_policy=PathPolicy.ANY) as pair:
                await until(lambda: is_direct(pair.dialer) and is_direct(pair.accepter), 1.0)
                assert "203.0.113.9" in pair.dialer.statistics().path

    run_virtual(main())


@pytest.mark.parametrize("dialer_sends", [True, False], ids=["dialer-sends", "dialer-receives"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_transfer_survives_cuts_and_a_move(
    certificate: ServerCertificate, note: Note, seed: int, dialer_sends: bool
) -> None:
    async def main() -> None:
        async with scene(certificate, seed=seed, peers=FAR) as at, on_direct_path(at) as pair:
            cut = Cut(at)
            meter = Meter()
            ends = (pair.dialer, pair.accepter)
            sender, receiver = ends if dialer_sends else reversed(ends)
            stream = sender.open_stream(unidirectional=True)
            sending = asyncio.create_task(send(stream, SIZE, rate=RATE))
            receiving = asyncio.create_task(receive(await receiver.accept_stream(), meter))
            shares = [(0.15, True), (0.3, False), (0.5, True), (0.6, False)]
            for share, cut.is_cut in shares:
                await meter.until(int(SIZE * share))
            await meter.until(int(SIZE * 0.8))
            at.dialer.move("198.51.100.77", "2001:db8:d:1::77")
            assert await receiving == await sending
            pause_s = meter.longest_pause_s()
            assert pause_s < MOST_PAUSE_S
            assert is_direct(pair.dialer)
            switches = len(pair.dialer.paths().changes)
            note(f"{SIZE / 1e6:.0f} MB whole; {switches} switches; longest pause {pause_s:.2f} s")

    run_virtual(main())


def test_an_idle_pipe_is_on_the_relay_within_10_s_and_climbs_back(
    certificate: ServerCertificate, note: Note
) -> None:
    async def main() -> None:
        async with scene(certificate, peers=FAR) as at, on_direct_path(at) as pair:
            cut = Cut(at)
            await asyncio.sleep(20.0)
            cut.is_cut = True
            took_s = await until(
                lambda: not is_direct(pair.dialer) and not is_direct(pair.accepter), 10.0
            )
            assert await send_something(pair.accepter, pair.dialer) < 0.5
            await asyncio.sleep(100.0)
            assert not is_direct(pair.dialer)
            cut.is_cut = False
            back_s = await until(lambda: is_direct(pair.dialer), 130.0)
            note(f"idle: on the relay after {took_s:.1f} s; direct again after {back_s:.1f} s")

    run_virtual(main())


def test_what_is_said_after_the_path_died_arrives_within_a_second(
    certificate: ServerCertificate,
) -> None:
    async def main() -> None:
        async with scene(certificate, peers=FAR) as at, on_direct_path(at) as pair:
            cut = Cut(at)
            await asyncio.sleep(1.0)
            cut.is_cut = True
            assert await send_something(pair.dialer, pair.accepter) < 1.0

    run_virtual(main())


Event = Callable[[Scene], Awaitable[None]]


async def _relay_dies(at: Scene) -> None:
    at.relay.kill()


async def _relay_restarts(at: Scene) -> None:
    at.relay.kill()
    await asyncio.sleep(2.0)
    await at.relay.start()


@pytest.mark.parametrize("event", [_relay_dies, _relay_restarts])
def test_a_direct_pipe_does_not_need_the_relay(
    certificate: ServerCertificate, event: Event
) -> None:
    async def main() -> None:
        async with scene(certificate, peers=FAR) as at, on_direct_path(at) as pair:
            meter = Meter()
            stream = pair.dialer.open_stream(unidirectional=True)
            sending = asyncio.create_task(send(stream, 3_000_000, rate=100_000.0))
            receiving = asyncio.create_task(receive(await pair.accepter.accept_stream(), meter))
            await asyncio.sleep(1.0)
            await event(at)
            assert await receiving == await sending
            assert meter.longest_pause_s() < 0.5
            assert len(pair.dialer.paths().changes) == 1
            if event is _relay_dies:
                await at.relay.start()
            await asyncio.sleep(60.0)  # in which both find it again
            cut = Cut(at)
            cut.is_cut = True
            assert await send_something(pair.dialer, pair.accepter) < 1.5
            assert not is_direct(pair.dialer)

    run_virtual(main())


def test_the_first_byte_is_not_delayed(certificate: ServerCertificate) -> None:
    async def first_byte(policy: PathPolicy) -> float:
        async with (
            scene(certificate, peers=FAR) as at,
            await dial_at(at, path_policy=policy) as dialing,
        ):
            began = now()
            answering = asyncio.create_task(
                accept(dialing.invite, path_policy=policy, network=at.accepter)
            )
            dialer = await dialing.pipe()
            stream = dialer.open_stream(unidirectional=True)
            await stream.write(b"first")
            async with await answering as accepter:
                assert await (await accepter.accept_stream()).read() == b"first"
                return now() - began

    by_relay = run_virtual(first_byte(PathPolicy.RELAY_ONLY))
    assert run_virtual(first_byte(PathPolicy.ANY)) == pytest.approx(by_relay, abs=0.001)


@pytest.mark.parametrize("who", ["dialer", "accepter"])
def test_relay_only_at_one_end_keeps_both_on_the_relay(
    certificate: ServerCertificate, who: str
) -> None:
    """And neither end learns an address of the other: nothing passes between them."""

    async def main() -> None:
        async with scene(certificate, peers=FAR) as at:
            seen = Straight(at)
            policies = dict.fromkeys(("dialer", "accepter"), PathPolicy.ANY)
            policies[who] = PathPolicy.RELAY_ONLY
            async with await dial_at(at, path_policy=policies["dialer"]) as dialing:
                answering = asyncio.create_task(
                    accept(dialing.invite, path_policy=policies["accepter"], network=at.accepter)
                )
                dialer = await dialing.pipe()
                async with await answering as accepter:
                    await send_something(dialer, accepter)
                    await asyncio.sleep(60.0)
                    await send_something(accepter, dialer)
            assert seen.count == 0

    run_virtual(main())


def test_direct_only_has_its_pipe_when_it_is_direct(certificate: ServerCertificate) -> None:
    async def main() -> None:
        async with (
            scene(certificate, peers=FAR) as at,
            await dial_at(at, path_policy=PathPolicy.DIRECT_ONLY) as dialing,
        ):
            answering = asyncio.create_task(accept(dialing.invite, network=at.accepter))
            dialer = await dialing.pipe()
            assert is_direct(dialer)
            async with await answering as accepter:
                await send_something(dialer, accepter)

    run_virtual(main())


def test_direct_only_fails_where_nothing_passes_directly(certificate: ServerCertificate) -> None:
    async def main() -> None:
        async with scene(certificate, peers=FAR) as at:
            Cut(at).is_cut = True
            async with await dial_at(at, path_policy=PathPolicy.DIRECT_ONLY) as dialing:
                answering = asyncio.create_task(accept(dialing.invite, network=at.accepter))
                with pytest.raises(NoDirectPath, match=r"203\.0\.113\.3"):
                    await dialing.pipe()
                await (await answering).close()

    run_virtual(main())


def test_changes_are_told_with_their_reasons(certificate: ServerCertificate) -> None:
    async def main() -> None:
        async with scene(certificate, peers=FAR) as at, on_direct_path(at) as pair:
            told: list[PathChange] = []
            pair.dialer.on_path_change(told.append)
            cut = Cut(at)
            cut.is_cut = True
            await send_something(pair.dialer, pair.accepter)
            assert [str(change.path) for change in told] == ["by the relay"]
            assert told[0].reason
            assert pair.dialer.paths().reason == told[0].reason

    run_virtual(main())


class Straight:
    """Counts what passes between the two peers without the relay."""

    def __init__(self, at: Scene) -> None:
        self.count = 0
        self._ends = set(at.dialer.addresses), set(at.accepter.addresses)
        at.network.watchers.append(self._watch)

    def _watch(self, packet: Packet) -> None:
        here, there = self._ends
        pair = {packet.source.host, packet.destination.host}
        if pair & here and pair & there:
            self.count += 1
