"""The original's peers against ours, both ways. docs/protocol.md §7."""

import asyncio
import json
import os
from dataclasses import replace

import pytest

from peers import Invite, Original, Pipe, RelayTrust, accept, dial
from peers.relay_name import RelayName
from relay.certificate import ServerCertificate

from ..lab.original import ALPN, OriginalPeer
from ..lab.pairs import RELAY
from ..lab.scene import Scene, scene
from ..lab.virtual_loop import run_virtual
from ..lab.virtual_network import Conditions

MINUTE = 60.0
REQUEST, ANSWER = os.urandom(300_000), os.urandom(300_000)


def _trust(at: Scene) -> RelayTrust:
    return RelayTrust(at.relay.certificate.fingerprint)


def _invite(line: str) -> Invite:
    """What `quicpipe accept --original` makes of the line: the user names the relay."""
    return replace(Invite.decode(line), relay=RelayName.parse(RELAY))


async def _our_dialers_talk(pipe: Pipe, accepter: OriginalPeer) -> None:
    stream = pipe.open_stream()
    await stream.write(REQUEST)
    assert await accepter.read(len(REQUEST)) == REQUEST
    accepter.write(ANSWER, end=True)
    assert b"".join([data async for data in stream]) == ANSWER


async def _our_accepters_talk(pipe: Pipe, dialer: OriginalPeer) -> None:
    dialer.write(REQUEST, end=True)
    stream = await pipe.accept_stream()
    assert b"".join([data async for data in stream]) == REQUEST
    await stream.write(ANSWER)
    assert await dialer.read(len(ANSWER)) == ANSWER


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("wait_s", [0.0, 70.0, 10 * MINUTE])
def test_original_accepter_answers_our_dialer(
    certificate: ServerCertificate, wait_s: float, loss: float
) -> None:
    async def main() -> None:
        async with scene(certificate, peers=Conditions(latency_s=0.02)) as at:
            dialing = await dial(RELAY, auth=Original(), trust=_trust(at), network=at.dialer)
            async with dialing, at.original_accepter() as accepter:
                line = dialing.invite.encode()
                assert list(json.loads(line)) == ["packet"]
                await asyncio.sleep(wait_s)
                await accepter.accept(line)
                pipe = await dialing.pipe()
                at.dialer.set_conditions(Conditions(latency_s=0.02, loss=loss))
                assert accepter.alpn == ALPN
                assert pipe.peer.kind is None
                await _our_dialers_talk(pipe, accepter)
                await pipe.close()
                assert (await accepter.terminated).error_code == 0

    run_virtual(main(), limit_s=30 * MINUTE)


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("wait_s", [0.0, 70.0, 10 * MINUTE])
def test_our_accepter_answers_an_original_dialer(
    certificate: ServerCertificate, wait_s: float, loss: float
) -> None:
    async def main() -> None:
        async with scene(certificate, peers=Conditions(latency_s=0.02)) as at:
            at.accepter.set_conditions(Conditions(latency_s=0.02, loss=loss))
            async with at.original_dialer() as dialer:
                invite = _invite(await dialer.invite())
                await asyncio.sleep(wait_s)
                accepting = accept(invite, auth=Original(), trust=_trust(at), network=at.accepter)
                async with await accepting as pipe:
                    assert dialer.alpn == ALPN
                    await _our_accepters_talk(pipe, dialer)
                assert (await dialer.terminated).error_code == 0

    run_virtual(main(), limit_s=30 * MINUTE)


def test_pipe_lives_on_while_the_original_says_nothing(certificate: ServerCertificate) -> None:
    """Its registration is renewed by nobody: our keepalive makes it send, and that is enough."""

    async def main() -> None:
        async with scene(certificate) as at, at.original_dialer() as dialer:
            invite = _invite(await dialer.invite())
            accepting = accept(invite, auth=Original(), trust=_trust(at), network=at.accepter)
            async with await accepting as pipe:
                await asyncio.sleep(30 * MINUTE)
                await _our_accepters_talk(pipe, dialer)

    run_virtual(main(), limit_s=60 * MINUTE)
