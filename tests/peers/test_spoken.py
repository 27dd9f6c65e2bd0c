"""Meeting by a spoken code, through the relay on a virtual network."""

import asyncio
import json

import pytest

from peers import RelayName, RelayTrust
from peers.errors import (
    AuthenticationFailed,
    CodeInvalid,
    CodeRefused,
    CodeWrong,
    NoAnswer,
    PipeClosed,
    RelayUnreachable,
    RelayUntrusted,
    UsageError,
)
from peers.invite import AuthKind
from peers.link.link import RelayLink
from peers.rendezvous.code import Code
from peers.rendezvous.spoken import accept_code, dial_code
from relay.certificate import ServerCertificate
from relay.wire.slots import (
    CLAIM_PATH,
    END_PATH,
    OPEN_PATH,
    SEND_PATH,
    ClaimRequest,
    End,
    EndRequest,
    SendRequest,
)
from tests.lab.pairs import RELAY, exchange
from tests.lab.scene import Scene
from tests.lab.virtual_network import Conditions
from tests.peers.spoken_scene import (
    ALICE,
    BOB,
    make_code,
    met,
    other_words,
    outcome,
    play,
    trust,
    use_code,
)


def test_two_strangers_meet(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        async with met(at) as (dialer, accepter):
            assert dialer.peer.fingerprint == ALICE.fingerprint
            assert accepter.peer.fingerprint == BOB.fingerprint
            assert dialer.peer.kind is accepter.peer.kind is AuthKind.PAIRING_KEY
            assert ALICE.fingerprint in str(dialer.peer)
            await exchange(dialer, accepter, 100_000)
        await accepter.wait_closed()
        assert at.relay.control.registrations == 0
        counted = at.relay.control.rendezvous_counters()
        assert counted["slot_ended_done"] == 1
        assert not [name for name, n in counted.items() if n and "refused" in name]

    play(certificate, test)


def test_a_code_waits_for_its_dialer(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        async with await make_code(at) as waiting, asyncio.TaskGroup() as group:
            assert Code.parse(waiting.code)
            assert waiting.lifetime_s == 600.0
            accepting = group.create_task(waiting.pipe())
            await asyncio.sleep(595.0)
            async with await use_code(at, waiting.code.upper().replace("-", " ")):
                await accepting

    play(certificate, test)


def test_a_code_that_nobody_uses(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        began = asyncio.get_running_loop().time()
        with pytest.raises(CodeRefused, match=r"nobody has used the code: .* time is over"):
            await waiting.pipe()
        assert 600.0 <= asyncio.get_running_loop().time() - began < 630.0
        with pytest.raises(CodeRefused, match="knows no code that begins with"):
            await use_code(at, waiting.code)
        with pytest.raises(PipeClosed, match="used, or closed, before"):
            await waiting.pipe()

    play(certificate, test)


def test_a_wrong_guess_is_told_at_both_ends_and_is_the_last(
    certificate: ServerCertificate,
) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        with pytest.raises(CodeWrong, match="wrong code: the other end found"):
            await use_code(at, other_words(waiting.code))
        assert isinstance(await accepting, CodeWrong)
        with pytest.raises(CodeRefused):
            await use_code(at, waiting.code)
        assert at.relay.control.rendezvous_counters()["slot_ended_wrong_code"] == 1
        assert at.relay.control.registrations == 0

    play(certificate, test)


def test_a_second_dialer_is_refused(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        async with await make_code(at) as waiting:
            accepting = asyncio.create_task(waiting.pipe())
            dialling = [asyncio.create_task(outcome(use_code(at, waiting.code))) for _ in range(2)]
            results = [await each for each in dialling]
            await accepting
            assert [each for each in results if each is None] == [None]
            (refused,) = [each for each in results if each is not None]
            assert isinstance(refused, CodeRefused)
            assert "somebody has used the code" in str(refused)

    play(certificate, test)


def test_a_code_of_nobody(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(CodeRefused, match="knows no code that begins with 7: it is used"):
            await use_code(at, "7-crossword-puppet")
        assert asyncio.get_running_loop().time() - began < 2.0
        with pytest.raises(CodeInvalid):
            await use_code(at, "7-crosswort-puppet")
        with pytest.raises(UsageError, match="the relay"):
            await dial_code("7-cros-pupp", "https://x", trust=trust(at))
        with pytest.raises(UsageError, match="the relay"):
            await accept_code("https://x", trust=trust(at))

    play(certificate, test)


def test_a_relay_that_is_not_trusted_hears_nothing(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        other = RelayTrust("sha256:" + "ab" * 32)
        with pytest.raises(RelayUntrusted):
            await accept_code(RELAY, trust=other, network=at.accepter)
        with pytest.raises(RelayUntrusted):
            await dial_code("7-cros-pupp", RELAY, trust=other, network=at.dialer)
        assert at.relay.control.rendezvous_counters()["slots"] == 0

    play(certificate, test)


def test_whoever_gives_up_ends_the_code_for_the_other(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        await waiting.close()
        with pytest.raises(CodeRefused):
            await use_code(at, waiting.code)
        cancelled = await make_code(at)
        accepting = asyncio.create_task(cancelled.pipe())
        await asyncio.sleep(1.0)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        with pytest.raises(CodeRefused):
            await use_code(at, cancelled.code)
        assert at.relay.control.rendezvous_counters()["slot_ended_left"] == 2

    play(certificate, test)


def test_a_code_that_is_closed_while_it_waits(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        await asyncio.sleep(5.0)
        await waiting.close()
        assert isinstance(await accepting, PipeClosed | CodeRefused)
        await waiting.close()

    play(certificate, test)


def test_an_accepter_that_died_ends_the_dialers_waiting(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)  # and never asks who has claimed it
        with pytest.raises(NoAnswer, match="does not answer any more"):
            await use_code(at, waiting.code)
        with pytest.raises(CodeRefused, match="given up"):
            await waiting.pipe()

    play(certificate, test)


def test_a_relay_that_was_restarted_knows_no_codes(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        await asyncio.sleep(30.0)
        at.relay.kill()
        await at.relay.start()
        failed = await accepting
        assert isinstance(failed, CodeRefused)
        assert "was it restarted?" in str(failed)
        # Any other slot of that number is none of our business.
        with pytest.raises(CodeRefused):
            await use_code(at, waiting.code)

    play(certificate, test)


def test_the_accepters_network_changes_while_the_code_waits(
    certificate: ServerCertificate,
) -> None:
    async def test(at: Scene) -> None:
        async with await make_code(at) as waiting, asyncio.TaskGroup() as group:
            accepting = group.create_task(waiting.pipe())
            await asyncio.sleep(10.0)
            at.accepter.set_conditions(Conditions(loss=1.0))
            await asyncio.sleep(20.0)
            at.accepter.set_conditions(Conditions())
            await asyncio.sleep(20.0)
            async with await use_code(at, waiting.code):
                await accepting

    play(certificate, test)


def test_requests_are_repeated_over_a_new_connection(certificate: ServerCertificate) -> None:
    """Each of them may arrive twice: the relay says the same again."""

    async def test(at: Scene) -> None:
        link = await RelayLink.connect(at.dialer, RelayName.parse(RELAY), trust(at))
        token, other = "a" * 32, "b" * 32
        slots = []
        for _ in range(2):
            response = await link.request("POST", OPEN_PATH, b'{"token": "%s"}' % token.encode())
            slots.append(json.loads(response.body)["slot"])
        assert slots[0] == slots[1]
        for path, body in (
            (CLAIM_PATH, ClaimRequest(slots[0], other, b"x").encode()),
            (SEND_PATH, SendRequest(token, 0, b"y").encode()),
            (END_PATH, EndRequest(token, End.DONE).encode()),
        ):
            for _ in range(2):
                assert (await link.request("POST", path, body)).status == 204
        await link.close()
        with pytest.raises(RelayUnreachable):
            await link.request("POST", OPEN_PATH, b"{}")

    play(certificate, test)


def test_an_error_is_an_authentication_failure_where_it_should_be() -> None:
    assert issubclass(CodeWrong, AuthenticationFailed)
    assert not issubclass(CodeRefused, AuthenticationFailed)
