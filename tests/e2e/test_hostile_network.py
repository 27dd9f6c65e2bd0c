"""Ahead of each datagram come damaged and forged ones, and nobody is impressed."""

import logging
import random
from collections.abc import Iterator

import pytest

from relay.certificate import ServerCertificate
from relay.core.outcome import Outcome
from relay.wire.invariants import LongHeader, parse_invariants

from ..lab.pairs import exchange, joined
from ..lab.scene import scene
from ..lab.virtual_loop import run_virtual
from ..lab.virtual_network import Conditions
from .conftest import LONG

RUNS = 50 if LONG else 5
EXCHANGED = 100_000


def _forgeries(datagram: bytes, chance: random.Random) -> Iterator[bytes]:
    """Damaged copies, and packets made of what the wire shows."""
    flipped = bytearray(datagram)
    for _ in range(chance.choice([1, 1, 5])):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    yield bytes(flipped)
    flipped = bytearray(datagram)
    flipped[chance.randrange(min(40, len(flipped)))] ^= 1 << chance.randrange(8)  # the header
    yield bytes(flipped)
    yield datagram[: chance.randrange(len(datagram))]
    yield datagram + chance.randbytes(chance.randrange(1, 100))
    yield datagram[:1] + chance.randbytes(chance.randrange(60))
    header = parse_invariants(datagram)
    if isinstance(header, LongHeader):
        ids = b"".join(
            bytes([len(each)]) + each for each in (header.destination_cid, header.source_cid)
        )
        yield bytes([0xC0]) + bytes(4) + ids + b"\x1a\x2a\x3a\x4a"  # Version Negotiation
        yield bytes([0xF0]) + b"\0\0\0\1" + ids + chance.randbytes(40)  # Retry
    else:
        # What may be a stateless reset (RFC 9000 §10.3), but for its token.
        yield bytes([0x40]) + datagram[1:13] + chance.randbytes(30)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_forged_packets_change_nothing(
    certificate: ServerCertificate, caplog: pytest.LogCaptureFixture, loss: float
) -> None:
    async def main(seed: int) -> None:
        chance = random.Random(seed)
        conditions = Conditions(latency_s=0.02, loss=loss)
        async with scene(certificate, seed=seed, peers=conditions) as at:
            for host in (at.dialer, at.accepter):
                for link in (host.up, host.down):
                    link.forge = lambda datagram: _forgeries(datagram, chance)
            async with joined(at) as pair:
                assert pair.handshake_s < 15.0
                await exchange(pair.dialer, pair.accepter, EXCHANGED)
                for pipe in (pair.dialer, pair.accepter):
                    assert pipe.statistics().datagrams_received > 300  # mostly forged ones
            assert at.relay.outcomes[Outcome.MALFORMED] > 30
            assert at.relay.outcomes[Outcome.UNKNOWN_CID] > 10

    for seed in range(RUNS):
        run_virtual(main(seed), limit_s=120)
    serious = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert not serious, serious[:3]
