"""Whoever is not who it should be gets no pipe, and both ends say why in one line."""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from peers import (
    Authentication,
    AuthenticationFailed,
    Invite,
    InviteExpired,
    InviteInvalid,
    InviteKey,
    NoAnswer,
    Original,
    PairingKey,
    PeersError,
    Pinned,
    RelayTrust,
    RelayUnreachable,
    RelayUntrusted,
    accept,
    dial,
)
from peers.identity import Identity
from peers.invite import AuthKind
from peers.relay_name import RelayName
from relay.certificate import ServerCertificate
from relay.core.path import Path
from relay.wire.address import Address
from relay.wire.invariants import LongHeader, parse_invariants

from ..lab.pairs import RELAY, dial_at, exchange, joined
from ..lab.scene import Scene, scene
from ..lab.virtual_loop import run_virtual

MINUTE = 60.0
LIFETIME_S = 30.0


@pytest.fixture(scope="session")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return ServerCertificate.self_signed(tmp_path_factory.mktemp("other"), "relay.example")


async def _errors(
    at: Scene,
    dialer: Authentication,
    accepter: Authentication | None,
    alter: Callable[[Invite], Invite] = lambda invite: invite,
) -> tuple[PeersError, PeersError]:
    """Try to open a pipe; returns what the dialer and the accepter got instead."""
    trust = RelayTrust(at.relay.certificate.fingerprint)
    dialing = await dial(RELAY, auth=dialer, trust=trust, lifetime_s=LIFETIME_S, network=at.dialer)
    async with dialing:
        invite = alter(dialing.invite)
        own_trust = trust if invite.is_original else None  # such an invite names no fingerprint
        with pytest.raises(PeersError) as there:
            await accept(invite, auth=accepter, trust=own_trust, network=at.accepter)
        with pytest.raises(PeersError) as here:
            await dialing.pipe()
    for error in (here.value, there.value):
        assert "\n" not in str(error)
        assert len(str(error)) > 10
    return here.value, there.value


# The relay.


def test_relay_shows_another_certificate(
    certificate: ServerCertificate, other_certificate: ServerCertificate
) -> None:
    async def main() -> None:
        async with scene(certificate) as at:
            trust = RelayTrust(other_certificate.fingerprint)
            with pytest.raises(RelayUntrusted) as refused:
                await dial(RELAY, auth=InviteKey(), trust=trust, network=at.dialer)
            assert refused.value.fingerprint == certificate.fingerprint
            assert certificate.fingerprint in str(refused.value)
            assert at.relay.control.http3_counters.requests == 0  # it was told nothing

            with pytest.raises(RelayUntrusted, match="self-signed"):
                await dial(RELAY, auth=InviteKey(), trust=RelayTrust(), network=at.dialer)

            # The dialer's relay is the right one; the accepter's has taken its place.
            async with await dial_at(at) as dialing:
                at.relay.kill()
                at.relay.certificate = other_certificate
                await at.relay.start()
                with pytest.raises(RelayUntrusted) as refused:
                    await accept(dialing.invite, network=at.accepter)
                assert refused.value.fingerprint == other_certificate.fingerprint
                await asyncio.sleep(MINUTE)
                assert at.relay.control.registrations == 0  # the dialer, too, told it nothing

    run_virtual(main(), limit_s=10 * MINUTE)


def _swap(at: Scene) -> Callable[[bytes, Address, Path], Iterable[tuple[bytes, Path]]]:
    """Give each peer its own packets back, instead of the other's."""
    paths: dict[str, Path] = {}

    def tamper(datagram: bytes, source: Address, path: Path) -> Iterable[tuple[bytes, Path]]:
        paths[path.remote.host] = path
        back = paths.get(source.host) or Path(source, path.listener, path.local)
        return [(datagram, back)]

    return tamper


def test_relay_swaps_the_packets_of_the_two_peers(certificate: ServerCertificate) -> None:
    async def main() -> None:
        async with scene(certificate) as at:
            at.relay.tamper = _swap(at)
            here, there = await _errors(at, InviteKey(), None)
            assert isinstance(here, InviteExpired)
            assert isinstance(there, NoAnswer)

    run_virtual(main(), limit_s=10 * MINUTE)


def test_relay_swaps_packets_of_an_open_pipe(certificate: ServerCertificate) -> None:
    """It can disturb, and that is all: what it swaps is thrown away, the rest arrives."""

    async def main() -> None:
        async with scene(certificate) as at, joined(at) as pair:
            at.relay.tamper = _swap(at)
            disturbed = asyncio.create_task(exchange(pair.dialer, pair.accepter, 100_000))
            await asyncio.sleep(2)
            assert not disturbed.done()
            at.relay.tamper = None
            await disturbed

    run_virtual(main(), limit_s=MINUTE)


def test_relay_crosses_two_pipes(certificate: ServerCertificate) -> None:
    """Each dialer gets the answers that were meant for the other one."""

    async def main() -> None:
        async with scene(certificate) as at:
            trust = RelayTrust(certificate.fingerprint)
            hosts = [at.dialer, at.network.host("other", "198.51.100.99")]
            dialings = [
                await dial(
                    RELAY, auth=InviteKey(), trust=trust, lifetime_s=LIFETIME_S, network=host
                )
                for host in hosts
            ]
            path_by_cid: dict[bytes, Path] = {}
            cids = [_source_cid(each.invite.packet) for each in dialings]

            def tamper(
                datagram: bytes, source: Address, path: Path
            ) -> Iterable[tuple[bytes, Path]]:
                header = parse_invariants(datagram)
                assert isinstance(header, LongHeader)
                path_by_cid[header.destination_cid] = path
                other = cids[1 - cids.index(header.destination_cid)]
                if other not in path_by_cid:
                    return []
                # With the right connection ID in its place: a relay can write that.
                crossed = datagram[:6] + other + datagram[6 + len(other) :]
                return [(crossed, path_by_cid[other])]

            at.relay.tamper = tamper
            outcomes = await asyncio.gather(
                *(accept(each.invite, network=at.accepter) for each in dialings),
                *(each.pipe() for each in dialings),
                return_exceptions=True,
            )
            kinds = [type(each) for each in outcomes]
            assert kinds == [NoAnswer, NoAnswer, InviteExpired, InviteExpired]
            for each in dialings:
                await each.close()

    run_virtual(main(), limit_s=10 * MINUTE)


def _source_cid(packet: bytes) -> bytes:
    header = parse_invariants(packet)
    assert isinstance(header, LongHeader)
    return header.source_cid


# The other peer.

_ONE, _OTHER, _STRANGER = (Identity.generate() for _ in range(3))


@pytest.mark.parametrize(
    ("dialer", "accepter"),
    [
        (PairingKey(os.urandom(32)), PairingKey(os.urandom(32))),
        (
            Pinned(_ONE, [_OTHER.fingerprint]),
            Pinned(_STRANGER, [_ONE.fingerprint]),
        ),
        (
            Pinned(_ONE, [_OTHER.fingerprint]),
            Pinned(_OTHER, [_STRANGER.fingerprint]),
        ),
    ],
    ids=["another pairing key", "not pinned by the dialer", "not pinned by the accepter"],
)
def test_accepter_has_another_key(
    certificate: ServerCertificate, dialer: Authentication, accepter: Authentication
) -> None:
    async def main() -> None:
        async with scene(certificate) as at:
            here, there = await _errors(at, dialer, accepter)
            assert isinstance(here, AuthenticationFailed)
            assert isinstance(there, AuthenticationFailed)
            print(f"dialer: {here}\naccepter: {there}")

    run_virtual(main(), limit_s=10 * MINUTE)


_KINDS: dict[str, tuple[Authentication, Authentication]] = {
    "invite-key": (InviteKey(), InviteKey()),
    "pairing-key": (PairingKey(os.urandom(32)), PairingKey(os.urandom(32))),
    "certificate": (Pinned(_ONE, [_OTHER.fingerprint]), Pinned(_OTHER, [_ONE.fingerprint])),
    "original": (Original(), Original()),
}


@pytest.mark.parametrize(("dials", "accepts"), list(itertools.permutations(_KINDS, 2)))
def test_the_two_ends_use_different_kinds(
    certificate: ServerCertificate, dials: str, accepts: str
) -> None:
    """The accepter has another invite than the dialer gave: it claims the accepter's own kind."""
    dialer, accepter = _KINDS[dials][0], _KINDS[accepts][1]

    def claim(invite: Invite) -> Invite:
        if accepter.kind is None:
            return Invite(invite.packet, relay=RelayName.parse(RELAY))
        return Invite(
            packet=invite.packet,
            relay=RelayName.parse(RELAY),
            fingerprint=certificate.fingerprint,
            expires=4_000_000_000,
            auth=accepter.kind,
            key=accepter.key if isinstance(accepter, InviteKey) else None,
        )

    async def main() -> None:
        async with scene(certificate) as at:
            here, there = await _errors(at, dialer, accepter, claim)
            assert isinstance(here, AuthenticationFailed), here
            assert isinstance(there, AuthenticationFailed), there

    run_virtual(main(), limit_s=10 * MINUTE)


# The invite.


def test_no_byte_of_an_invite_can_be_altered_unnoticed(certificate: ServerCertificate) -> None:
    async def main() -> str:
        async with scene(certificate) as at, await dial_at(at) as dialing:
            return dialing.invite.encode()

    line = run_virtual(main()).rstrip("\n").encode()
    assert Invite.decode(line).auth is AuthKind.INVITE_KEY
    for position in range(len(line)):
        altered = bytearray(line)
        altered[position] ^= 0x01
        with pytest.raises(InviteInvalid) as refused:
            Invite.decode(bytes(altered))
        assert "\n" not in str(refused.value)


def _in_packet(position: int) -> Callable[[Invite], Invite]:
    """Alter the packet, which is shorter than its datagram: zeros follow that nobody reads."""

    def alter(invite: Invite) -> Invite:
        length = int.from_bytes(invite.packet[32:34], "big") & 0x3FFF
        packet = bytearray(invite.packet[: 34 + length])
        packet[position] ^= 0x01
        return replace(invite, packet=bytes(packet) + invite.packet[len(packet) :])

    return alter


def _in_key(invite: Invite) -> Invite:
    if invite.key is None:
        raise ValueError("no key")
    return replace(invite, key=bytes([invite.key[0] ^ 1]) + invite.key[1:])


# The dialer's Initial: form (1 byte), version (4), length and destination ID (13), length and
# source ID (13), token length (1), length (2), packet number and frames, tag (16).
_ALTERATIONS: dict[str, Callable[[Invite], Invite]] = {
    "form bit": _in_packet(0),
    "version": _in_packet(4),
    "length of the destination ID": _in_packet(5),
    "destination ID": _in_packet(6),
    "length of the source ID": _in_packet(18),
    "source ID": _in_packet(19),
    "token length": _in_packet(31),
    "packet length": _in_packet(33),
    "packet number": _in_packet(34),
    "first frame": _in_packet(40),
    "ClientHello": _in_packet(300),
    "tag": _in_packet(-1),
    "key": _in_key,
}


@pytest.mark.parametrize("what", _ALTERATIONS)
def test_altered_and_rehashed_invite_opens_no_pipe(
    certificate: ServerCertificate, what: str
) -> None:
    """Whoever alters it on purpose can repair the checksum. Then the handshake fails."""

    async def main() -> tuple[PeersError, PeersError]:
        async with scene(certificate) as at:
            return await _errors(at, InviteKey(), None, _ALTERATIONS[what])

    here, there = run_virtual(main(), limit_s=10 * MINUTE)
    if what == "key":
        assert isinstance(here, AuthenticationFailed)
        assert isinstance(there, AuthenticationFailed)
    else:
        # Nothing of the accepter's reaches the dialer in a form that it can believe.
        assert isinstance(here, InviteExpired)
        assert isinstance(there, InviteInvalid | NoAnswer)


def test_altered_addressing_opens_no_pipe(
    certificate: ServerCertificate, other_certificate: ServerCertificate
) -> None:
    async def main() -> None:
        async with scene(certificate) as at:

            def fingerprint(invite: Invite) -> Invite:
                return replace(invite, fingerprint=other_certificate.fingerprint)

            def relay(invite: Invite) -> Invite:
                return replace(invite, relay=RelayName("elsewhere.example", 4433))

            def expires(invite: Invite) -> Invite:
                return replace(invite, expires=1_000_000_000)

            for alter, expected in (
                (fingerprint, RelayUntrusted),
                (relay, RelayUnreachable),
                (expires, InviteExpired),
            ):
                here, there = await _errors(at, InviteKey(), None, alter)
                assert isinstance(here, InviteExpired)
                assert isinstance(there, expected)

    run_virtual(main(), limit_s=10 * MINUTE)


def test_invite_opens_one_pipe_only(certificate: ServerCertificate) -> None:
    async def main() -> None:
        async with scene(certificate) as at, joined(at) as pair:
            second = at.network.host("second", "203.0.113.99")
            with pytest.raises(NoAnswer, match="used or expired"):
                await accept(pair.invite, network=second)
            await exchange(pair.dialer, pair.accepter, 10_000)

    run_virtual(main(), limit_s=10 * MINUTE)
