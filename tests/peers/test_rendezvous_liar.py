"""A relay that lies can refuse service. It cannot be either end, nor let anybody else be."""

import asyncio
import base64
import json
from collections.abc import Awaitable

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from peers import (
    Accepter,
    AnyPeer,
    Authentication,
    AuthenticationFailed,
    Identity,
    Invite,
    InviteKey,
    NoAnswer,
    PairingKey,
    PeersError,
    Pinned,
    Pipe,
    dial,
    look_up,
)
from peers.auth import derive_psk
from peers.rendezvous.listener import Refused
from relay.core.proof import ProofInvalid, check_proof
from tests.peers.dial_scene import now, say
from tests.peers.fake_relay import certificate
from tests.peers.lying_relay import LyingRelay
from tests.peers.lying_world import ATTACKER, RELAY, TRUST, World, run
from tests.peers.rendezvous_scene import HERE, KEY, STRANGER, THERE


def test_the_liar_can_be_honest() -> None:
    """Else the other tests would show nothing."""

    async def main(at: World) -> None:
        async with await at.listen() as listener, await at.dial() as here:
            await say(here, await listener.accept(), b"hello")

    run(main)


# Another one in the accepter's place.


@pytest.mark.parametrize("kind", ["pinned", "key", "name and key"])
def test_the_invite_is_given_to_another_accepter(kind: str) -> None:
    """The accomplice answers as well as it can."""
    auth = Pinned(HERE, [THERE.fingerprint]) if kind == "pinned" else PairingKey(KEY)
    its: Authentication = AnyPeer(ATTACKER) if kind == "pinned" else PairingKey(KEY[::-1])
    to = "laptop" if kind.startswith("name") else THERE.fingerprint

    async def main(at: World) -> None:
        at.relay.redirect = lambda relay, to, invite: relay.deliver("0", invite)
        async with await at.listen(its, ATTACKER, at.attacker) as accomplice:
            error = await at.expect_failure(to, auth)
            assert isinstance(error, AuthenticationFailed)
            await asyncio.sleep(1.0)
            assert accomplice.refused == {Refused.UNAUTHENTICATED: 1}

    run(main)


def test_the_invite_is_altered_for_another_accepter() -> None:
    """The accomplice takes whatever the altered invite asks for."""

    async def main(at: World) -> None:
        its = InviteKey()
        answers: list[asyncio.Task[Pipe]] = []

        def answer(relay: LyingRelay, to: str, text: str) -> None:
            honest = Invite.decode(text)
            for kind in (AnyPeer(ATTACKER), its, PairingKey(KEY[::-1])):
                invite = Invite(
                    honest.packet,
                    honest.relay,
                    honest.fingerprint,
                    honest.expires,
                    kind.kind,
                    its.key if kind is its else None,
                )
                one = Accepter.connect(RELAY, trust=TRUST, network=at.attacker)
                answers.append(asyncio.create_task(_answer(one, invite, kind)))

        at.relay.redirect = answer
        assert isinstance(await at.expect_failure(), AuthenticationFailed)
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert len(results) == 3
        assert all(isinstance(each, PeersError) for each in results)

    run(main)


async def _answer(connecting: Awaitable[Accepter], invite: Invite, auth: Authentication) -> Pipe:
    async with await connecting as accepter:
        return await accepter.accept(invite, auth=auth)


def test_two_invites_are_swapped() -> None:
    """Each of two honest listeners gets what was for the other."""

    async def main(at: World) -> None:
        at.relay.redirect = lambda relay, to, invite: relay.deliver(
            "1" if to == THERE.fingerprint else "0", invite
        )
        async with (
            await at.listen(AnyPeer(THERE)) as first,
            await at.listen(AnyPeer(STRANGER), STRANGER) as second,
        ):
            for to in (THERE, STRANGER):
                auth = Pinned(HERE, [to.fingerprint])
                error = await at.expect_failure(to.fingerprint, auth)
                assert "is not pinned here" in str(error)
            await asyncio.sleep(1.0)
            for listener in (first, second):
                assert listener.refused == {Refused.UNAUTHENTICATED: 1}

    run(main)


def test_a_name_is_said_to_stand_for_the_attacker() -> None:
    """The library tells what the relay says, and dials nobody on its word."""

    async def main(at: World) -> None:
        at.relay.name_stands_for = ATTACKER.fingerprint
        found = await look_up(RELAY, "laptop", trust=TRUST, network=at.dialer)
        assert found == ATTACKER.fingerprint
        at.relay.redirect = lambda relay, to, invite: relay.deliver("0", invite)
        async with await at.listen(AnyPeer(ATTACKER), ATTACKER, at.attacker):
            assert isinstance(await at.expect_failure("laptop"), AuthenticationFailed)

    run(main)


# Another one in the dialer's place.


@pytest.mark.parametrize("auth", ["certificate", "pairing-key"])
def test_the_attackers_own_invite_is_delivered(auth: str) -> None:
    """As it is, and made out to be one of the kind that the accepter serves."""

    async def main(at: World) -> None:
        kinds = (AnyPeerDialer(), PairingKey(KEY[::-1]), InviteKey())
        serves = Pinned(THERE, [HERE.fingerprint]) if auth == "certificate" else PairingKey(KEY)
        async with await at.listen(serves) as listener:
            for kind in kinds:
                dialing = await dial(RELAY, auth=kind, trust=TRUST, network=at.attacker)
                async with dialing:
                    fields = json.loads(dialing.invite.encode())
                    at.relay.deliver("0", json.dumps(fields))
                    with pytest.raises(PeersError):
                        await dialing.pipe()
            await asyncio.sleep(1.0)
            assert listener.refused == {Refused.UNAUTHENTICATED: len(kinds)}

    run(main)


class AnyPeerDialer(Pinned):
    """A dialer that the attacker runs: it is content with whoever answers."""

    def __init__(self) -> None:
        super().__init__(ATTACKER, [THERE.fingerprint])


def test_what_the_invite_says_is_damaged_or_for_another_relay() -> None:
    async def main(at: World) -> None:
        deliveries: list[str] = []

        def damage(relay: LyingRelay, to: str, text: str) -> None:
            honest = json.loads(text)
            other = Invite.decode(text)
            elsewhere = Invite(
                other.packet,
                other.relay,
                STRANGER.fingerprint,
                other.expires,
                other.auth,
            )
            packet = bytearray(other.packet)
            packet[600] ^= 1
            broken = Invite(
                bytes(packet), other.relay, other.fingerprint, other.expires, other.auth
            )
            deliveries.extend(
                [
                    json.dumps({**honest, "expires": 1}),
                    "{}",
                    json.dumps({"packet": honest["packet"]}),  # as the original's are
                    elsewhere.encode(),
                    broken.encode(),
                ]
            )
            for each in deliveries:
                relay.deliver("0", each)

        at.relay.redirect = damage
        async with await at.listen() as listener:
            # The original's form has nothing but the packet; ours is what it is answered with. So
            # the dialer is served, by the very peer that it wants.
            async with await at.dial() as here:
                await say(here, await listener.accept(), b"hello")
            assert listener.refused == {Refused.MALFORMED: 3, Refused.UNFIT: 1}

    run(main)


# Held back, and delivered again.


def test_an_invite_is_held_back() -> None:
    async def main(at: World) -> None:
        held: list[str] = []
        at.relay.redirect = lambda relay, to, invite: held.append(invite)
        async with await at.listen() as listener:
            began = now()
            assert isinstance(await at.expect_failure(), NoAnswer)
            assert now() - began < 30.0
            at.relay.deliver("0", held[0])
            await asyncio.sleep(20.0)
            assert listener.refused == {Refused.NO_ANSWER: 1}

    run(main)


def test_an_invite_is_delivered_again_and_again() -> None:
    async def main(at: World) -> None:
        async with await at.listen() as listener, await at.dial() as here:
            await say(here, await listener.accept(), b"hello")
            for _ in range(5):
                at.relay.deliver("0", at.relay.invites[0][1])
            await asyncio.sleep(20.0)
            assert listener.refused == {Refused.REPEATED: 5}
            assert here.is_open
        async with await at.listen() as listener:  # which remembers nothing of that
            at.relay.deliver("1", at.relay.invites[0][1])
            await asyncio.sleep(20.0)
            assert listener.refused == {Refused.NO_ANSWER: 1}

    run(main)


def test_what_the_listener_signed_is_worth_nothing_elsewhere() -> None:
    """The liar hands out an honest relay's challenge."""

    async def main(at: World) -> None:
        at.relay.challenge = bytes(range(32))
        async with await at.listen():
            (mailbox,) = at.relay.mailboxes.values()
            proof = mailbox.request
            assert check_proof(proof, at.relay.challenge, certificate().fingerprint)
            with pytest.raises(ProofInvalid):
                check_proof(proof, at.relay.challenge, STRANGER.fingerprint)

    run(main)


# What it saw.


def test_all_that_the_relay_saw_holds_no_secret() -> None:
    """Requests decrypted, and all datagrams; in the clear, in base64 and in hexadecimal digits."""
    told = b"what the application says " * 4

    async def main(at: World) -> None:
        for to, ours, theirs in (
            (THERE.fingerprint, Pinned(HERE, [THERE.fingerprint]), None),
            (THERE.fingerprint, PairingKey(KEY), PairingKey(KEY)),
        ):
            async with await at.listen(theirs) as listener, await at.dial(to, ours) as here:
                await say(here, await listener.accept(), told)
        seen = b"\n".join([*(each.body for each in at.relay.requests), *at.datagrams])
        assert len(at.relay.invites) == 2
        psk = derive_psk(KEY).secret
        for secret in (KEY, psk, _private(HERE), _private(THERE), told):
            for form in (
                secret,
                secret.hex().encode(),
                base64.b64encode(secret)[:-4],
                base64.urlsafe_b64encode(secret)[:-4],
            ):
                assert form not in seen
        for _, invite in at.relay.invites:
            assert set(json.loads(invite)) == {
                "packet",
                "v",
                "relay",
                "fingerprint",
                "expires",
                "auth",
                "check",
            }

    run(main)


def _private(identity: Identity) -> bytes:
    """The 32 bytes of an Ed25519 key."""
    return identity.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[
        -32:
    ]
