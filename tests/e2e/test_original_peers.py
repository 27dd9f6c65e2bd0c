"""The original's own peers, both of them, through our relay. docs/protocol.md §7."""

import asyncio
import itertools
import json
import os

import pytest

from relay.certificate import ServerCertificate
from relay.core.outcome import Outcome

from ..lab.original import ALPN, OriginalPeer
from ..lab.scene import Scene, scene
from ..lab.virtual_loop import run_virtual

MINUTE = 60.0
HOUR = 60 * MINUTE


async def _converse(here: OriginalPeer, there: OriginalPeer) -> None:
    """The dialer, `here`, speaks first; each hears what the other said."""
    await here.connected.wait()
    await there.connected.wait()
    assert here.alpn == there.alpn == ALPN
    request, answer = os.urandom(40_000), os.urandom(60_000)
    here.write(request)
    assert await there.read(len(request)) == request
    there.write(answer)
    assert await here.read(len(answer)) == answer


async def _whole_conversation(at: Scene, wait_s: float) -> None:
    async with at.original_dialer() as dialer, at.original_accepter() as accepter:
        invite = await dialer.invite()
        assert list(json.loads(invite)) == ["packet"]
        await asyncio.sleep(wait_s)
        await accepter.accept(invite)
        await _converse(dialer, accepter)
        await dialer.close()
        assert (await accepter.terminated).error_code == 0


@pytest.mark.parametrize("families", ["ipv4", "ipv6", "mixed"])
def test_talk_to_each_other_through_our_relay(
    certificate: ServerCertificate, families: str
) -> None:
    dialer = ("2001:db8:d::2",) if families == "ipv6" else ("198.51.100.2",)
    accepter = ("203.0.113.3",) if families == "ipv4" else ("2001:db8:a::3",)

    async def main() -> None:
        async with scene(certificate, dialer=dialer, accepter=accepter) as at:
            await _whole_conversation(at, wait_s=0.0)
            assert at.relay.outcomes[Outcome.FORWARDED] > 80
            assert at.relay.outcomes[Outcome.UNREGISTERED_SOURCE] == 0

    run_virtual(main(), limit_s=60)


@pytest.mark.parametrize("minutes", [2, 10, 55])
def test_dialer_waits_silent_up_to_a_minute_and_is_still_registered(
    certificate: ServerCertificate, minutes: int
) -> None:
    async def main() -> None:
        async with (
            scene(certificate) as at,
            at.original_dialer() as dialer,
            at.original_accepter() as accepter,
        ):
            invite = await dialer.invite()
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(minutes * MINUTE)
            sent = [began, *dialer.pipe_sent_at]
            silences = [later - earlier for earlier, later in itertools.pairwise(sent)]
            assert MINUTE / 2 < max(silences) <= MINUTE
            # Nobody but the accepter may answer its repeated Initial, least of all HTTP/3.
            assert at.relay.outcomes[Outcome.STRAY_PEER_PACKET] == len(dialer.pipe_sent_at)
            assert at.relay.control.registrations == 1
            await accepter.accept(invite)
            await _converse(dialer, accepter)

    run_virtual(main(), limit_s=2 * HOUR)


def test_registration_is_as_the_original_makes_it(certificate: ServerCertificate) -> None:
    async def main() -> None:
        async with scene(certificate) as at, at.original_dialer() as dialer:
            status, body = await dialer.register()
            assert status == 200
            assert json.loads(body)["connection_ids"] == 10
            await asyncio.sleep(1)
            counters = at.relay.control.http3_counters
            assert (counters.requests, counters.connections) == (1, 0)

    run_virtual(main(), limit_s=60)


@pytest.mark.parametrize(("pause_s", "times"), [(1, 900), (100, 36)])
def test_forwarded_while_packets_flow_and_after_silences_of_100_s(
    certificate: ServerCertificate, pause_s: float, times: int
) -> None:
    """For many times the lease, and nothing ever renews the registrations."""

    async def main() -> None:
        async with (
            scene(certificate) as at,
            at.original_dialer() as dialer,
            at.original_accepter() as accepter,
        ):
            await accepter.accept(await dialer.invite(), idle_timeout_s=HOUR)
            await _converse(dialer, accepter)
            for _ in range(times):
                await asyncio.sleep(pause_s)
                dialer.write(b"tick")
                assert await accepter.read(4) == b"tick"
                accepter.write(b"tock")
                assert await dialer.read(4) == b"tock"
            assert at.relay.control.registrations == 2
            await asyncio.sleep(300)
            assert at.relay.control.registrations == 0

    run_virtual(main(), limit_s=2 * HOUR)
