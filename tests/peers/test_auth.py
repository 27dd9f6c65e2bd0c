"""Who is let in: every kind, and every way in which it fails, at both ends."""

import asyncio
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from peers.auth import (
    Authentication,
    InviteKey,
    Original,
    PairingKey,
    Peer,
    Pinned,
    derive_psk,
)
from peers.errors import (
    AuthenticationFailed,
    IdentityInvalid,
    InviteExpired,
    KeyInvalid,
    NoAnswer,
    PeersError,
    UsageError,
)
from peers.identity import Identity
from peers.invite import AuthKind, Invite
from peers.link.registration import Registration
from peers.pipe import Pipe
from peers.quic.parts import ExternalPsk, TlsParts
from relay.wire.connection_id import Derivation
from tests.lab.virtual_loop import run_virtual

from .pipe_pair import Link

DIALER, ACCEPTER, STRANGER = Identity.generate(), Identity.generate(), Identity.generate()
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))


def p256_identity() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now - datetime.timedelta(days=8))  # expired: nobody looks
        .sign(key, SHA256())
    )
    return Identity(certificate, key)


def test_secrets_are_in_no_representation() -> None:
    invite = Invite(b"\xc0packet", auth=AuthKind.INVITE_KEY, key=KEY)
    registration = Registration(KEY, Derivation.BLAKE3, id="5ec2e7" * 5)
    for each in (PairingKey(KEY), InviteKey(KEY), Pinned(DIALER, [STRANGER.fingerprint])):
        parts = each.parts(is_dialer=True)
        secrets = [KEY] if parts.psk is None else [KEY, parts.psk.secret]
        shown = "".join(map(repr, (each, parts, parts.psk, DIALER, invite, registration)))
        assert "5ec2e7" not in shown
        for secret in secrets:
            assert repr(secret)[2:-1] not in shown
            assert secret.hex() not in shown


async def outcome(pipe: Pipe) -> Peer | PeersError:
    try:
        return await pipe.wait_open()
    except PeersError as error:
        return error


def meet(
    dialer: Authentication, accepter: Authentication
) -> tuple[Peer | PeersError, Peer | PeersError]:
    """How the handshake ends for the dialer and for the accepter."""

    async def main() -> tuple[Peer | PeersError, Peer | PeersError]:
        link = Link()
        first, packet = link.dial(dialer, 60.0)
        second = link.answer(accepter, packet)
        results = await asyncio.gather(outcome(first), outcome(second))
        link.stop()
        return results[0], results[1]

    return run_virtual(main())


@pytest.mark.parametrize(
    ("dialer", "accepter", "peers"),
    [
        (InviteKey(KEY), InviteKey(KEY), (Peer(AuthKind.INVITE_KEY),) * 2),
        (PairingKey(KEY), PairingKey(KEY), (Peer(AuthKind.PAIRING_KEY),) * 2),
        (Original(), Original(), (Peer(None),) * 2),
        (
            Pinned(DIALER, [ACCEPTER.fingerprint, STRANGER.fingerprint.upper()]),
            Pinned(ACCEPTER, [DIALER.fingerprint]),
            (
                Peer(AuthKind.CERTIFICATE, ACCEPTER.fingerprint),
                Peer(AuthKind.CERTIFICATE, DIALER.fingerprint),
            ),
        ),
    ],
    ids=["invite key", "pairing key", "original", "pinned"],
)
def test_both_ends_open(
    dialer: Authentication, accepter: Authentication, peers: tuple[Peer, Peer]
) -> None:
    assert meet(dialer, accepter) == peers


def test_ecdsa_certificates_work_at_both_ends() -> None:
    one, other = p256_identity(), p256_identity()
    for dialer, accepter in ((one, other), (one, DIALER), (DIALER, one)):
        results = meet(
            Pinned(dialer, [accepter.fingerprint]), Pinned(accepter, [dialer.fingerprint])
        )
        assert [each.fingerprint for each in results if isinstance(each, Peer)] == [
            accepter.fingerprint,
            dialer.fingerprint,
        ]


class _WithPsk(InviteKey):
    """Offers a pre-shared key of one's choice."""

    def __init__(self, psk: ExternalPsk) -> None:
        super().__init__(KEY)
        self._psk = psk


class _WithoutCertificate(Pinned):
    """A dialer that wants to see a certificate but shows none."""

    def parts(self, *, is_dialer: bool) -> TlsParts:
        return TlsParts(super().parts(is_dialer=is_dialer).alpn)


FORGED = _WithPsk(ExternalPsk(derive_psk(KEY).identity, b"x" * 32))
PINNED_DIALER = Pinned(DIALER, [ACCEPTER.fingerprint])
PINNED_ACCEPTER = Pinned(ACCEPTER, [DIALER.fingerprint])


@pytest.mark.parametrize(
    ("dialer", "accepter", "dialer_reads", "accepter_reads"),
    [
        (
            InviteKey(KEY),
            InviteKey(OTHER_KEY),
            "the accepter refused us: the dialer offers another key than ours",
            "the dialer offers another key than ours",
        ),
        (
            PairingKey(KEY),
            PairingKey(OTHER_KEY),
            "the accepter refused us: the dialer offers another key than ours",
            "the dialer offers another key than ours",
        ),
        (
            FORGED,
            InviteKey(KEY),
            "the accepter refused us: we could not prove to have the key",
            "the dialer could not prove to have the key",
        ),
        (
            PINNED_DIALER,
            InviteKey(KEY),
            "the accepter refused us: the dialer does not use a shared key",
            "the dialer does not use a shared key",
        ),
        (
            InviteKey(KEY),
            PINNED_ACCEPTER,
            "the accepter does not use a shared key",
            "the dialer refused us: the accepter does not use a shared key",
        ),
        (
            PINNED_DIALER,
            Pinned(ACCEPTER, [STRANGER.fingerprint]),
            f"the accepter refused us: the dialer's certificate {DIALER.fingerprint} is not pinned",
            f"the dialer's certificate {DIALER.fingerprint} is not pinned here",
        ),
        (
            Pinned(DIALER, [STRANGER.fingerprint]),
            PINNED_ACCEPTER,
            f"the accepter's certificate {ACCEPTER.fingerprint} is not pinned here",
            f"the dialer refused us: the accepter's certificate {ACCEPTER.fingerprint} is not",
        ),
        (
            _WithoutCertificate(DIALER, [ACCEPTER.fingerprint]),
            PINNED_ACCEPTER,
            "the accepter refused us: the dialer shows no certificate",
            "the dialer shows no certificate",
        ),
        (
            Original(),
            InviteKey(KEY),
            "different protocols",
            "different protocols",
        ),
    ],
    ids=[
        "another invite key",
        "another pairing key",
        "right identity, wrong secret",
        "certificate meets key",
        "key meets certificate",
        "dialer not pinned",
        "accepter not pinned",
        "dialer without certificate",
        "original meets ours",
    ],
)
def test_what_does_not_match_opens_at_neither_end(
    dialer: Authentication, accepter: Authentication, dialer_reads: str, accepter_reads: str
) -> None:
    results = meet(dialer, accepter)
    for result, text in zip(results, (dialer_reads, accepter_reads), strict=True):
        assert isinstance(result, AuthenticationFailed), result
        assert text in str(result)


def test_stranger_with_a_pinned_certificate_but_not_its_key_is_refused() -> None:
    forged = Identity(DIALER.certificate, STRANGER.private_key)
    first, second = meet(Pinned(forged, [ACCEPTER.fingerprint]), PINNED_ACCEPTER)
    assert isinstance(first, AuthenticationFailed)
    assert isinstance(second, AuthenticationFailed)
    assert "could not prove" in str(second)
    forged = Identity(ACCEPTER.certificate, STRANGER.private_key)
    first, second = meet(PINNED_DIALER, Pinned(forged, [DIALER.fingerprint]))
    assert isinstance(first, AuthenticationFailed)
    assert isinstance(second, AuthenticationFailed)
    assert "could not prove" in str(first)


def test_refused_dialer_never_opens_though_its_own_handshake_was_complete() -> None:
    async def main() -> None:
        link = Link()
        dialer, packet = link.dial(PINNED_DIALER, 60.0)
        accepter = link.answer(Pinned(ACCEPTER, [STRANGER.fingerprint]), packet)
        opened = [asyncio.ensure_future(outcome(each)) for each in (dialer, accepter)]
        while not all(each.done() for each in opened):
            assert not dialer.is_open
            assert not accepter.is_open
            await asyncio.sleep(0.001)
        for each in opened:
            assert isinstance(each.result(), AuthenticationFailed)
        link.stop()

    run_virtual(main())


def test_silence_is_told_apart() -> None:
    async def main() -> tuple[Peer | PeersError, Peer | PeersError]:
        link = Link(loss=lambda to_server, datagram: True)
        dialer, packet = link.dial(InviteKey(KEY), 60.0)
        accepter = link.answer(InviteKey(KEY), packet)
        results = await asyncio.gather(outcome(dialer), outcome(accepter))
        link.stop()
        return results[0], results[1]

    first, second = run_virtual(main())
    assert isinstance(first, InviteExpired)
    assert isinstance(second, NoAnswer)
    assert "used or expired?" in str(second)


def test_psk_is_derived_as_the_protocol_says() -> None:
    # Computed with another implementation of HKDF, from the text of docs/protocol.md §6.2.
    psk = derive_psk(KEY)
    assert psk.identity == b"quicpipe/1 dialer 6b2e9bb666738a9c"
    assert psk.secret.hex() == ("9d1bcad3df9b3f0e5e0e4ab9aea1a07b5896ddeae86f408f31fbd6b2e209eae0")
    assert derive_psk(OTHER_KEY) != psk


@pytest.mark.parametrize("length", [0, 1, 8, 15])
def test_weak_pairing_keys_are_refused(length: int) -> None:
    with pytest.raises(KeyInvalid, match="at least 128 are needed"):
        PairingKey(KEY[:length])
    assert PairingKey(KEY[:16]).key == KEY[:16]


def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        InviteKey(b"short")
    with pytest.raises(UsageError, match="no peer's fingerprint"):
        Pinned(DIALER, [])
    with pytest.raises(IdentityInvalid):
        Pinned(DIALER, ["sha256:123"])
    assert InviteKey().key != InviteKey().key
