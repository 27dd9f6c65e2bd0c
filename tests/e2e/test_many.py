"""More than two peers: one accepter for many dialers, and two accepters for one invite."""

import asyncio

import pytest

from peers import Accepter, InviteUsed, NoAnswer, PeersError, Pipe, RelayTrust, accept
from relay.certificate import ServerCertificate

from ..lab.pairs import RELAY, dial_at, exchange
from ..lab.scene import scene
from ..lab.virtual_loop import run_virtual
from ..lab.virtual_network import Conditions
from .conftest import LONG

DIALERS = 20


def test_one_accepter_answers_many_dialers_over_one_socket(certificate: ServerCertificate) -> None:
    conditions = Conditions(latency_s=0.02, jitter_s=0.01, loss=0.05)

    async def main() -> None:
        async with scene(certificate, peers=conditions) as at:
            trust = RelayTrust(certificate.fingerprint)
            accepter = await Accepter.connect(RELAY, trust=trust, network=at.accepter)
            async with accepter:
                dialings = [await dial_at(at) for _ in range(DIALERS)]

                async def talk(number: int) -> None:
                    dialing = dialings[number]
                    there, here = await asyncio.gather(
                        accepter.accept(dialing.invite), dialing.pipe()
                    )
                    await exchange(here, there, 1000 * number)
                    await here.close()

                await asyncio.gather(*(talk(number) for number in range(DIALERS)))
                with pytest.raises(InviteUsed):
                    await accepter.accept(dialings[0].invite)
            await asyncio.sleep(1)
            assert at.relay.control.registrations == 0

    run_virtual(main(), limit_s=120)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_two_accepters_answer_one_invite(certificate: ServerCertificate, loss: float) -> None:
    """Both know the one-time key, and only one of them gets the pipe: a whole one."""

    async def main(seed: int) -> None:
        async with scene(certificate, seed=seed) as at, await dial_at(at) as dialing:
            second = at.network.host("second", "203.0.113.99", "2001:db8:a::99")
            for host in (at.dialer, at.accepter, second):
                host.set_conditions(Conditions(latency_s=0.02, jitter_s=0.01, loss=loss))
            answers = await asyncio.gather(
                accept(dialing.invite, network=at.accepter),
                accept(dialing.invite, network=second),
                return_exceptions=True,
            )
            pipes = [each for each in answers if isinstance(each, Pipe)]
            errors = [each for each in answers if isinstance(each, PeersError)]
            assert [len(pipes), len(errors)] == [1, 1], (seed, answers)
            assert isinstance(errors[0], NoAnswer), (seed, errors)
            async with pipes[0] as there:
                await exchange(await dialing.pipe(), there, 20_000)

    for seed in range(100 if LONG else 10):
        run_virtual(main(seed), limit_s=120)


def test_dialer_leaves_while_it_waits(certificate: ServerCertificate) -> None:
    async def main() -> None:
        async with scene(certificate) as at:
            async with await dial_at(at) as dialing:
                pass
            await asyncio.sleep(1)
            assert at.relay.control.registrations == 0
            began = asyncio.get_running_loop().time()
            with pytest.raises(NoAnswer):
                await accept(dialing.invite, network=at.accepter)
            assert 9.5 < asyncio.get_running_loop().time() - began < 12.5

    run_virtual(main(), limit_s=60)


@pytest.mark.parametrize("side", ["dialer", "accepter"])
def test_peer_that_dies_is_noticed(certificate: ServerCertificate, side: str) -> None:
    """It is asked after 10 s of silence, and has 30 s to answer."""

    async def main() -> None:
        async with scene(certificate) as at:
            dialing = await dial_at(at)
            there, here = await asyncio.gather(
                accept(dialing.invite, network=at.accepter), dialing.pipe()
            )
            dead, survivor = (at.dialer, there) if side == "dialer" else (at.accepter, here)
            dead.move()
            began = asyncio.get_running_loop().time()
            assert "not heard" in str(await survivor.wait_closed())
            assert asyncio.get_running_loop().time() - began < 45
            await asyncio.gather(here.close(), there.close())

    run_virtual(main(), limit_s=120)
