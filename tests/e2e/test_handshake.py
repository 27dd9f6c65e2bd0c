"""Handshakes of our own peers on the virtual network, under all that a network does to them."""

import asyncio
import statistics

import pytest

from relay.certificate import ServerCertificate
from relay.wire.address import Address
from relay.wire.invariants import LongHeader, parse_invariants

from ..lab.pairs import answer, dial_at, exchange, joined
from ..lab.scene import Scene, scene
from ..lab.virtual_loop import run_virtual
from ..lab.virtual_network import Conditions
from .conftest import LONG, Note

PROMISE_S = 15.0
MINUTE = 60.0
EXCHANGED = 50_000


def _lossy(loss: float) -> Conditions:
    return Conditions(latency_s=0.02, jitter_s=0.01, loss=loss)


def _handshake(certificate: ServerCertificate, conditions: Conditions, seed: int) -> float:
    async def main() -> float:
        async with scene(certificate, seed=seed, peers=conditions) as at, joined(at) as pair:
            return pair.handshake_s

    return run_virtual(main(), limit_s=10 * MINUTE)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("loss", "runs"), [(0.1, 1000 if LONG else 100), (0.3, 200 if LONG else 20)]
)
def test_loss_on_every_hop_both_ways(
    certificate: ServerCertificate, note: Note, loss: float, runs: int
) -> None:
    times = [_handshake(certificate, _lossy(loss), seed) for seed in range(runs)]
    note(
        f"{runs} handshakes at {loss:.0%} loss: median {statistics.median(times):.2f} s,"
        f" 99 % {sorted(times)[int(0.99 * (runs - 1))]:.2f} s, longest {max(times):.2f} s"
    )
    assert max(times) < PROMISE_S


def test_without_loss_it_takes_a_few_round_trips(certificate: ServerCertificate) -> None:
    # Between the peers a round trip is 40 ms. Two of 20 ms reach the relay and two ask it; one and
    # a half open the pipe.
    assert _handshake(certificate, Conditions(latency_s=0.01), 1) < 0.25


def test_reordered_and_repeated(certificate: ServerCertificate) -> None:
    conditions = Conditions(latency_s=0.02, jitter_s=0.02, duplicate=0.2, late=0.2)
    times = [_handshake(certificate, conditions, seed) for seed in range(10)]
    assert max(times) < PROMISE_S


def _pipe_packets_are_lost(at: Scene, first_packet: bytes, lost_s: float) -> list[float]:
    """Lose what the accepter sends on the pipe, from its first datagram on for `lost_s`."""
    initial = parse_invariants(first_packet)
    assert isinstance(initial, LongHeader)
    sent: list[float] = []

    def passes(datagram: bytes, source: Address, destination: Address) -> bool:
        header = parse_invariants(datagram)
        if not isinstance(header, LongHeader) or header.destination_cid != initial.source_cid:
            return True
        sent.append(asyncio.get_running_loop().time())
        return sent[-1] - sent[0] > lost_s

    at.accepter.up.passes = passes
    return sent


@pytest.mark.parametrize("lost_s", [0.01, 1.0, 4.0])
def test_accepters_whole_first_flight_is_lost(
    certificate: ServerCertificate, note: Note, lost_s: float
) -> None:
    async def main() -> float:
        async with scene(certificate) as at, await dial_at(at) as dialing:
            sent = _pipe_packets_are_lost(at, dialing.invite.packet, lost_s)
            pair = await answer(at, dialing)
            async with pair.accepter:
                assert sent[-1] - sent[0] > lost_s
                await exchange(pair.dialer, pair.accepter, EXCHANGED)
            return pair.handshake_s

    took = run_virtual(main(), limit_s=MINUTE)
    note(f"open after {took:.2f} s")
    assert took < PROMISE_S


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("wait_s", [70.0, 50 * MINUTE], ids=["70s", "50min"])
def test_accepter_comes_late(
    certificate: ServerCertificate, note: Note, wait_s: float, loss: float
) -> None:
    """The wait must leave no trace: neither in the round-trip time nor in the pace."""

    async def main() -> tuple[float, float]:
        async with (
            scene(certificate, peers=_lossy(loss)) as at,
            joined(at, wait_s=wait_s) as pair,
        ):
            exchange_s = await exchange(pair.dialer, pair.accepter, EXCHANGED)
            for pipe in (pair.dialer, pair.accepter):
                assert 0.08 <= pipe.statistics().smoothed_rtt_s < 0.16
            return pair.handshake_s, exchange_s

    handshake_s, exchange_s = run_virtual(main(), limit_s=2 * 60 * MINUTE)
    note(f"open after {handshake_s:.2f} s, {EXCHANGED} bytes each way in {exchange_s:.2f} s")
    assert handshake_s < PROMISE_S
    assert exchange_s < (10.0 if loss else 1.0)


@pytest.mark.parametrize(
    ("dialer", "accepter"),
    [
        (("198.51.100.2",), ("203.0.113.3",)),
        (("2001:db8:d::2",), ("2001:db8:a::3",)),
        (("198.51.100.2",), ("2001:db8:a::3",)),
        (("2001:db8:d::2",), ("203.0.113.3",)),
    ],
    ids=["ipv4", "ipv6", "ipv4-to-ipv6", "ipv6-to-ipv4"],
)
def test_every_mix_of_families(
    certificate: ServerCertificate, dialer: tuple[str, ...], accepter: tuple[str, ...]
) -> None:
    async def main() -> None:
        async with (
            scene(certificate, dialer=dialer, accepter=accepter, peers=_lossy(0.02)) as at,
            joined(at) as pair,
        ):
            await exchange(pair.dialer, pair.accepter, EXCHANGED)

    run_virtual(main(), limit_s=MINUTE)
