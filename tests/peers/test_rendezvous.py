"""Dialers find a listener at the relay, on a virtual network."""

import asyncio

import pytest

from peers import (
    AnyPeer,
    AuthenticationFailed,
    AuthKind,
    InviteKey,
    NoAnswer,
    NotListening,
    Original,
    PairingKey,
    PeersError,
    Pinned,
    Pipe,
    RelayUntrusted,
    UsageError,
    dial_to,
    listen,
    look_up,
)
from peers.rendezvous.listener import Refused
from relay.core.rendezvous import RendezvousLimits
from tests.lab.scene import Scene
from tests.lab.virtual_network import Conditions
from tests.peers.dial_scene import RELAY, now, run, say, trust
from tests.peers.rendezvous_scene import (
    HERE,
    KEY,
    STRANGER,
    THERE,
    dial_from,
    listen_at,
    relay_counts,
)


def test_a_fingerprint_is_dialled() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at) as listener:
            assert listener.fingerprint == THERE.fingerprint
            async with await dial_from(at) as here:
                there = await listener.accept()
                await say(here, there, b"hello")
                await say(there, here, b"hello yourself")
                assert here.peer.fingerprint == THERE.fingerprint
                assert there.peer.fingerprint == HERE.fingerprint

    run(main)


def test_an_absent_peer_is_told_at_once() -> None:
    async def main(at: Scene) -> None:
        began = now()
        for to in (THERE.fingerprint, "laptop"):
            with pytest.raises(NotListening, match="nobody listens"):
                await dial_from(at, to)
        with pytest.raises(NotListening):
            await look_up(RELAY, "laptop", trust=trust(at), network=at.dialer)
        assert now() - began < 3.0

    run(main)


def test_a_name_and_a_pairing_key() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, PairingKey(KEY), name="Laptop") as listener:
            assert listener.name == "laptop"
            async with await dial_from(at, "LAPTOP", PairingKey(KEY)) as here:
                there = await listener.accept()
                await say(here, there, b"hello")
                assert here.peer.kind is there.peer.kind is AuthKind.PAIRING_KEY
            found = await look_up(RELAY, "laptop", trust=trust(at), network=at.dialer)
            assert found == THERE.fingerprint

    run(main)


def test_anyone_is_let_in_with_a_certificate() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, AnyPeer(THERE)) as listener:
            auth = Pinned(STRANGER, [THERE.fingerprint])
            async with await dial_from(at, auth=auth) as here:
                there = await listener.accept()
                await say(there, here, b"hello")
                assert there.peer.fingerprint == STRANGER.fingerprint

    run(main)


def test_first_byte_within_three_round_trips() -> None:
    """Cold, from the moment when the invite is at the relay: earlier than it is at the accepter."""
    one_way = 0.1  # of two links
    round_trip = 2 * one_way

    async def main(at: Scene) -> None:
        for host in (at.dialer, at.accepter):
            host.set_conditions(Conditions(latency_s=one_way / 2))
        async with await listen_at(at, AnyPeer(THERE)) as listener:
            await asyncio.sleep(1.0)
            dialing = asyncio.create_task(dial_from(at))
            while not relay_counts(at, "invites"):  # noqa: ASYNC110  # no event tells it
                await asyncio.sleep(0.001)
            began = now()
            there = await listener.accept()
            greeting = there.open_stream(unidirectional=True)
            await greeting.write(b"x")
            async with await dialing as here:
                question = here.open_stream(unidirectional=True)
                await question.write(b"y")
                assert await (await here.accept_stream()).read() == b"x"
                assert now() - began <= 2.5 * round_trip
                assert await (await there.accept_stream()).read() == b"y"
                assert now() - began <= 3 * round_trip

    run(main)


# Many at once.


def test_many_dialers_at_once_get_a_pipe_each() -> None:
    async def main(at: Scene) -> None:
        async def talk_to(number: int) -> None:
            async with await dial_from(at, auth=Pinned(STRANGER, [THERE.fingerprint])) as here:
                stream = here.open_stream()
                await stream.write(b"%d" % number)
                stream.write_eof()
                assert await stream.read() == b"%d squared is %d" % (number, number * number)
                await here.wait_closed()

        async def serve(pipe: Pipe) -> None:
            async with pipe:
                stream = await pipe.accept_stream()
                number = int(await stream.read())
                await stream.write(b"%d squared is %d" % (number, number * number))
                stream.write_eof()
                await stream.drain_acknowledged()

        async with await listen_at(at, AnyPeer(THERE)) as listener:
            dialers = [asyncio.create_task(talk_to(n)) for n in range(20)]
            servers = []
            async for pipe in listener:
                servers.append(asyncio.create_task(serve(pipe)))
                if len(servers) == len(dialers):
                    break
            await asyncio.gather(*dialers, *servers)
            assert not listener.refused

    run(main)


def test_who_does_not_fit_waits_at_the_relay() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, AnyPeer(THERE), max_pending=2) as listener:
            dialers = [asyncio.create_task(dial_from(at)) for _ in range(5)]
            await asyncio.sleep(40.0)  # longer than the relay keeps a listener that says nothing
            assert sum(each.done() for each in dialers) == 2
            assert relay_counts(at, "invites") == 3
            theirs = [await listener.accept() for _ in range(5)]
            ours = [await each for each in dialers]
            assert all(pipe.is_open for pipe in (*ours, *theirs))
            await asyncio.gather(*(pipe.close() for pipe in ours))

    run(main)


def test_a_dialer_who_is_not_answered_in_time() -> None:
    async def main(at: Scene) -> None:
        async with (
            await listen_at(at, AnyPeer(THERE), max_pending=1) as listener,
            await dial_from(at),
        ):
            with pytest.raises(NoAnswer, match="did not answer within 5 s"):
                await dial_from(at, timeout_s=5.0)
            async with await listener.accept():
                await asyncio.sleep(15.0)
                assert listener.refused == {Refused.NO_ANSWER: 1}

    run(main)


def test_the_relay_has_no_room_for_another_invite() -> None:
    """The dialer waits as it is told, and gets its turn."""

    async def main(at: Scene) -> None:
        async with await listen_at(at, AnyPeer(THERE), max_pending=1) as listener:
            bound = RendezvousLimits().max_invites_per_listener
            dialers = [asyncio.create_task(dial_from(at)) for _ in range(bound + 2)]
            await asyncio.sleep(2.0)
            assert bound - 1 <= relay_counts(at, "invites") <= bound
            assert relay_counts(at, "refused_invites_of_listener_full") >= 1
            for _ in dialers:
                async with await listener.accept():
                    pass
            for each in dialers:
                await (await each).close()

    run(main)


# Who is not let in.


def test_a_stranger_is_not_let_in_and_both_are_told() -> None:
    async def main(at: Scene) -> None:
        told: list[PeersError] = []
        async with await listen_at(at) as listener:
            listener.on_refused = told.append
            with pytest.raises(AuthenticationFailed, match=r"refused us.*is not pinned here"):
                await dial_from(at, auth=Pinned(STRANGER, [THERE.fingerprint]))
            await asyncio.sleep(1.0)
            assert listener.refused == {Refused.UNAUTHENTICATED: 1}
            (error,) = told
            assert STRANGER.fingerprint in str(error)
            async with await dial_from(at):  # the next one is served
                await listener.accept()

    run(main)


@pytest.mark.parametrize("keyed", ["dialer", "accepter"])
def test_different_kinds_of_proof_are_told_to_both(keyed: str) -> None:
    async def main(at: Scene) -> None:
        pinned, key = Pinned(HERE, [THERE.fingerprint]), PairingKey(KEY)
        async with await listen_at(at, key if keyed == "accepter" else None) as listener:
            began = now()
            with pytest.raises(PeersError, match="shared key"):
                await dial_from(at, auth=key if keyed == "dialer" else pinned)
            assert now() - began < 5.0
            await asyncio.sleep(1.0)
            assert sum(listener.refused.values()) == 1

    run(main)


def test_another_pairing_key() -> None:
    async def main(at: Scene) -> None:
        async with await listen_at(at, PairingKey(KEY), name="laptop"):
            with pytest.raises(AuthenticationFailed, match="another key than ours"):
                await dial_from(at, "laptop", PairingKey(KEY[::-1]))

    run(main)


def test_arguments_that_make_no_sense() -> None:
    async def main(at: Scene) -> None:
        for auth in (InviteKey(), Original()):
            with pytest.raises(UsageError, match="one-time key"):
                await dial_from(at, auth=auth)
            with pytest.raises(UsageError, match="certificate or a pairing key"):
                await listen_at(at, auth)
        with pytest.raises(UsageError, match="whose certificate"):
            await dial_from(at, auth=AnyPeer(HERE))
        for to in ("", "7-crossword-puppet", "a b", "sha256:12", "x" * 64):
            with pytest.raises(UsageError):
                await dial_from(at, to)
        with pytest.raises(UsageError, match="not a name"):
            await listen_at(at, name="7")
        with pytest.raises(UsageError, match="one dialer at least"):
            await listen_at(at, max_pending=0)
        pinned = Pinned(HERE, [THERE.fingerprint])
        with pytest.raises(UsageError, match="the relay"):
            await dial_to("a/b", THERE.fingerprint, auth=pinned, trust=trust(at))
        with pytest.raises(UsageError, match="the relay"):
            await listen("a/b", identity=THERE, auth=pinned, trust=trust(at))

    run(main)


def test_a_relay_that_is_not_trusted_hears_nothing() -> None:
    async def main(at: Scene) -> None:
        wrong = type(trust(at))(STRANGER.fingerprint)
        auth = Pinned(HERE, [THERE.fingerprint])
        with pytest.raises(RelayUntrusted):
            await dial_to(RELAY, "laptop", auth=auth, trust=wrong, network=at.dialer)
        with pytest.raises(RelayUntrusted):
            await listen(RELAY, identity=THERE, auth=auth, trust=wrong, network=at.accepter)
        assert at.relay.control.http3_counters.requests == 0

    run(main)
