"""Our own peers over real sockets, through the relay as a process."""

import asyncio
import os
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from peers import Invite, InviteKey, PathPolicy, RelayTrust, accept, dial
from peers.relay_name import RelayName
from relay.wire.address import Address

from ..lab.pairs import exchange
from ..lab.processes import PATIENCE_S, RelayProcess
from ..lab.shim import UdpShim
from ..lab.transfer import receive, send
from .conftest import LONG, LONG_RUN, Note

HANDSHAKE_PROMISE_S = 15.0


async def _joined_exchange(
    dialer_relay: Address, accepter_relay: Address, size: int, *, wait_s: float = 0.0
) -> float:
    """Open a pipe, send so much both ways, close; returns the handshake's seconds."""
    loop = asyncio.get_running_loop()
    async with (
        asyncio.timeout(4 * PATIENCE_S + wait_s),
        await dial(
            str(dialer_relay),
            auth=InviteKey(),
            trust=RelayTrust(),
            path_policy=PathPolicy.RELAY_ONLY,
        ) as dialing,
    ):
        await asyncio.sleep(wait_s)
        began = loop.time()
        invite = _at(Invite.decode(dialing.invite.encode()), accepter_relay)
        answering = asyncio.create_task(accept(invite))
        dialer = await dialing.pipe()
        async with await answering as accepter:
            took = loop.time() - began
            await exchange(dialer, accepter, size)
            await dialer.close()
            await accepter.wait_closed()
        return took


def _at(invite: Invite, relay: Address) -> Invite:
    return replace(invite, relay=RelayName(relay.host, relay.port))


@pytest.mark.parametrize(
    ("dialer_at", "accepter_at"),
    [(0, 0), (1, 1), (0, 1), (1, 0)],
    ids=["ipv4", "ipv6", "ipv4-to-ipv6", "ipv6-to-ipv4"],
)
def test_every_mix_of_families(
    tmp_path: Path, note: Note, dialer_at: int, accepter_at: int
) -> None:
    with RelayProcess(tmp_path, "127.0.0.1", "::1") as relay:
        at = relay.addresses
        took = asyncio.run(_joined_exchange(at[dialer_at], at[accepter_at], 1_000_000))
        assert relay.stop() == 0
        counters = relay.counters()
    note(f"open after {1000 * took:.0f} ms")
    assert counters["registrations"] == 0  # both ended theirs
    assert counters["unregistered_source"] == 0


@pytest.mark.timeout(1800)
def test_handshakes_at_a_loss_of_10_per_cent(tmp_path: Path, note: Note) -> None:
    runs = 100 if LONG else 5
    times = []
    with RelayProcess(tmp_path, options=["--lease", "10"]) as relay:
        for seed in range(runs):
            with UdpShim(relay.address, loss=0.1, delay_s=0.01, seed=seed) as shim:
                times.append(asyncio.run(_joined_exchange(shim.address, shim.address, 1000)))
    note(f"{runs} handshakes: median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
    assert max(times) < HANDSHAKE_PROMISE_S


@pytest.mark.timeout(300)
def test_10_mb_whole_at_a_loss_of_5_per_cent(tmp_path: Path, note: Note) -> None:
    size = 10_000_000

    async def main(relay: Address) -> tuple[str, str, float]:
        loop = asyncio.get_running_loop()
        dialing = await dial(
            str(relay), auth=InviteKey(), trust=RelayTrust(), path_policy=PathPolicy.RELAY_ONLY
        )
        async with asyncio.timeout(240), dialing:
            answering = asyncio.create_task(accept(dialing.invite))
            dialer = await dialing.pipe()
            async with await answering as accepter:
                began = loop.time()
                sending = asyncio.create_task(send(dialer.open_stream(unidirectional=True), size))
                received = await receive(await accepter.accept_stream())
                return await sending, received, loop.time() - began

    with RelayProcess(tmp_path) as relay, UdpShim(relay.address, loss=0.05) as shim:
        sent, received, took = asyncio.run(main(shim.address))
    note(f"{took:.1f} s, {shim.counted['lost']} of {sum(shim.counted.values())} datagrams lost")
    assert sent == received
    assert shim.counted["lost"] > 500


@pytest.mark.skipif(not LONG, reason=LONG_RUN)
@pytest.mark.timeout(300)
def test_accepter_comes_after_70_s(tmp_path: Path, note: Note) -> None:
    with RelayProcess(tmp_path) as relay:
        took = asyncio.run(_joined_exchange(relay.address, relay.address, 1_000_000, wait_s=70.0))
    note(f"open after {1000 * took:.0f} ms")
    assert took < HANDSHAKE_PROMISE_S


def test_datagrams_and_many_streams(tmp_path: Path) -> None:
    async def main(relay: Address) -> None:
        dialing = await dial(
            str(relay), auth=InviteKey(), trust=RelayTrust(), path_policy=PathPolicy.RELAY_ONLY
        )
        async with asyncio.timeout(PATIENCE_S), dialing:
            answering = asyncio.create_task(accept(dialing.invite))
            dialer = await dialing.pipe()
            async with await answering as accepter:
                largest = os.urandom(dialer.max_datagram_size)
                dialer.send_datagram(largest)
                assert await accepter.receive_datagram() == largest
                await asyncio.gather(*(exchange(dialer, accepter, 10_000) for _ in range(20)))

    with RelayProcess(tmp_path) as relay:
        asyncio.run(main(relay.address))
