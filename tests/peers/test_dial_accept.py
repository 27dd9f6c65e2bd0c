"""Dialing and accepting, on a virtual network with the relay's real control.

What goes wrong must be said at once and in time, and leave nothing behind.
"""

import asyncio
import time
from dataclasses import replace

import pytest
from aioquic.quic.connection import QuicConnection

from peers import (
    AuthenticationFailed,
    AuthKind,
    Invite,
    InviteExpired,
    InviteInvalid,
    InviteKey,
    NoAnswer,
    Original,
    PairingKey,
    PipeClosed,
    RelayUnreachable,
    UsageError,
    accept,
    dial,
)
from peers.berth import CONNECTION_IDS, HANDSHAKE_TIMEOUT_S
from relay.wire.connection_id import is_towards_http3
from relay.wire.invariants import Malformed, parse_invariants
from tests.lab.scene import Scene
from tests.peers.dial_scene import RELAY, accepter_at, dial_at, now, run, say, trust

KEY = bytes(range(100, 132))


# It works, and ends.


def test_a_whole_life() -> None:
    async def main(at: Scene) -> None:
        async with await dial_at(at) as dialing:
            invite = Invite.decode(dialing.invite.encode())
            assert str(invite.relay) == RELAY
            assert invite.fingerprint == at.relay.certificate.fingerprint
            assert invite.auth is AuthKind.INVITE_KEY
            assert invite.expires == pytest.approx(time.time() + 3600, abs=5)
            async with await accept(invite, network=at.accepter) as there:
                here = await dialing.pipe()
                assert at.relay.control.registrations == 2
                await say(here, there, b"hello")
                await say(there, here, b"hello yourself")

    run(main)


def test_nobody_needs_to_close_a_pipe_that_the_other_end_has_closed() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at)
        there = await accept(dialing.invite, network=at.accepter)
        here = await dialing.pipe()
        await there.close(7, "enough")
        ended = await here.wait_closed()
        assert isinstance(ended, PipeClosed)
        assert ended.code == 7

    run(main)


def test_closing_twice_and_from_two_sides() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at)
        there = await accept(dialing.invite, network=at.accepter)
        here = await dialing.pipe()
        await asyncio.gather(here.close(), there.close(), dialing.close(), here.close())
        await here.close()
        assert at.relay.control.registrations == 0  # close waits until the relay was told

    run(main)


def test_a_pipe_whose_connection_ids_are_used_up_gets_more() -> None:
    async def main(at: Scene) -> None:
        async with await dial_at(at) as dialing, accepter_at(at) as accepter:
            there = await accepter.accept(dialing.invite)
            here = await dialing.pipe()
            for number in range(3 * CONNECTION_IDS):
                # What an application cannot do, but another implementation of the protocol may:
                # retire a connection ID of the other end after each use.
                QuicConnection.change_connection_id(here._quic)
                await say(here, there, b"%d" % number)
            assert at.relay.control.connection_ids >= 4 * CONNECTION_IDS

    run(main)


# The invite.


def test_a_damaged_packet_is_noticed_before_the_network_is_asked() -> None:
    async def main(at: Scene) -> None:
        async with await dial_at(at) as dialing:
            invite = dialing.invite
            for position in (0, 1, 5, 6, 20, 30, 600, 1199):
                damaged = bytearray(invite.packet)
                damaged[position] ^= 0x55
                start = now()
                with pytest.raises(InviteInvalid):
                    await accept(replace(invite, packet=bytes(damaged)), network=at.accepter)
                assert now() == start
            for packet in (b"", bytes(1200), invite.packet[:1199], b"\xc0" * 1200):
                with pytest.raises(InviteInvalid):
                    await accept(replace(invite, packet=packet), network=at.accepter)

    run(main)


def test_an_expired_invite() -> None:
    async def main(at: Scene) -> None:
        async with await dial_at(at) as dialing:
            with pytest.raises(InviteExpired):
                await accept(replace(dialing.invite, expires=1), network=at.accepter)

    run(main)


def test_a_dialer_whose_invite_expires() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at, lifetime_s=1800.0)
        start = now()
        with pytest.raises(InviteExpired, match="nobody answered"):
            await dialing.pipe()
        assert now() - start == pytest.approx(1800.0, abs=1.0)

    run(main)


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, float("nan")])
def test_a_lifetime_that_is_none(lifetime_s: float) -> None:
    async def main(at: Scene) -> None:
        with pytest.raises(UsageError, match="cannot live"):
            await dial_at(at, lifetime_s=lifetime_s)

    run(main)


def test_the_dialer_has_gone() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at)
        await dialing.close()
        start = now()
        with pytest.raises(NoAnswer, match="invite used or expired"):
            await accept(dialing.invite, network=at.accepter)
        assert 10.0 <= now() - start < 13.0

    run(main)


def test_an_invite_used_twice() -> None:
    async def main(at: Scene) -> None:
        async with (
            await dial_at(at) as dialing,
            await accept(dialing.invite, network=at.accepter) as there,
        ):
            here = await dialing.pipe()
            with pytest.raises(NoAnswer):
                await accept(dialing.invite, network=at.accepter)
            await say(here, there, b"undisturbed")

    run(main)


@pytest.mark.parametrize("auth", [PairingKey(KEY), Original()], ids=["pairing", "original"])
def test_another_authentication_than_the_invites(auth: PairingKey | Original) -> None:
    async def main(at: Scene) -> None:
        async with await dial_at(at) as dialing:
            with pytest.raises(UsageError, match="the invite is for a one-time key, not for"):
                await accept(dialing.invite, auth=auth, network=at.accepter)
        dialing = await dial(RELAY, auth=auth, trust=trust(at), network=at.dialer)
        async with dialing:
            with pytest.raises(UsageError, match="the invite needs"):
                await accept(dialing.invite, network=at.accepter)

    run(main)


def test_a_wrong_key_ends_both() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial(RELAY, auth=PairingKey(KEY), trust=trust(at), network=at.dialer)
        with pytest.raises(AuthenticationFailed):
            await accept(dialing.invite, auth=PairingKey(bytes(KEY[::-1])), network=at.accepter)
        with pytest.raises(AuthenticationFailed):
            await dialing.pipe()

    run(main)


# The relay.


def test_the_relays_name_is_none() -> None:
    async def main(at: Scene) -> None:
        for name in ("", "a b", "http://relay", "relay:0", "relay:70000", "1:2:3"):
            with pytest.raises(UsageError, match="the relay"):
                await dial(name, auth=InviteKey(), trust=trust(at), network=at.dialer)

    run(main)


def test_there_is_no_relay() -> None:
    async def main(at: Scene) -> None:
        at.relay.kill()
        with pytest.raises(RelayUnreachable, match="does not answer"):
            await dial_at(at)
        await at.relay.start()

    run(main)


# Giving up on the way.


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.05, 0.07, 0.09, 0.11, 0.15, 0.5])
def test_a_cancelled_dial_leaves_nothing(after_s: float) -> None:
    async def main(at: Scene) -> None:
        dialing = asyncio.create_task(dial_at(at))
        await asyncio.sleep(after_s)
        if not dialing.cancel():
            await (await dialing).close()

    run(main)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.05, 0.07, 0.09, 0.11, 0.13, 0.15, 5.0])
def test_a_cancelled_accept_leaves_nothing(after_s: float) -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at)
        invite = dialing.invite
        if after_s == 5.0:
            await dialing.close()  # nobody there to answer
        accepting = asyncio.create_task(accept(invite, network=at.accepter))
        await asyncio.sleep(after_s)
        if not accepting.cancel():
            await (await accepting).close()
        await dialing.close()

    run(main)


def test_a_dialer_that_waits_can_be_closed_meanwhile() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at)
        waiting = asyncio.create_task(dialing.pipe())
        await asyncio.sleep(60.0)
        await dialing.close()
        with pytest.raises(PipeClosed):
            await waiting

    run(main)


def test_a_handshake_that_begins_must_end() -> None:
    async def main(at: Scene) -> None:
        dialing = await dial_at(at)
        # It hears the accepter, and is not heard: only what is for the relay itself goes out.
        at.dialer.up.passes = lambda datagram, *_: is_towards_http3(destination_of(datagram))
        accepting = asyncio.create_task(
            accept(dialing.invite, network=at.accepter, answer_timeout_s=300.0)
        )
        start = now()
        with pytest.raises(NoAnswer, match="did not open within"):
            await dialing.pipe()
        assert now() - start == pytest.approx(HANDSHAKE_TIMEOUT_S, abs=1.0)
        with pytest.raises(NoAnswer):
            await accepting

    run(main)


def destination_of(datagram: bytes) -> bytes:
    header = parse_invariants(datagram)
    assert not isinstance(header, Malformed)
    return header.destination_cid
