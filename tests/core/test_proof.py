"""Who signs with its certificate's key is let in; nobody else."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from peers.identity import Identity
from relay.core.proof import (
    CHALLENGE_LIFETIME_S,
    MAX_CHALLENGES,
    Challenges,
    ChallengeUnknown,
    ProofInvalid,
    check_proof,
)
from relay.wire.rendezvous import ListenRequest, bytes_to_sign

RELAY, OTHER_RELAY = "sha256:" + "11" * 32, "sha256:" + "22" * 32
CHALLENGE = bytes(range(32))
WHO = Identity.generate()
OTHER = Identity.generate()


def signed(
    who: Identity = WHO,
    relay: str = RELAY,
    challenge: bytes = CHALLENGE,
    name: str | None = "laptop",
) -> ListenRequest:
    message = bytes_to_sign(relay, challenge, who.certificate_der, name)
    return ListenRequest(who.certificate_der, who.sign(message), name)


def certified(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    public: ed25519.Ed25519PublicKey | None = None,
) -> x509.Certificate:
    """A certificate signed by `key`, of its own public key or of another one's."""
    name = x509.Name([])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public or key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256())
    )


@pytest.mark.parametrize("name", ["laptop", None])
def test_the_right_proof(name: str | None) -> None:
    assert check_proof(signed(name=name), CHALLENGE, RELAY) == WHO.fingerprint


def test_a_key_on_p256() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    who = Identity(certified(key), key)
    assert check_proof(signed(who), CHALLENGE, RELAY) == who.fingerprint


ALTERED: dict[str, Callable[[], ListenRequest]] = {
    "another relay": lambda: signed(relay=OTHER_RELAY),
    "another challenge": lambda: signed(challenge=bytes(32)),
    "another name": lambda: replace(signed(), name="desktop"),
    "no name": lambda: replace(signed(), name=None),
    "another's certificate": lambda: replace(signed(), certificate=OTHER.certificate_der),
    "a signature cut short": lambda: replace(signed(), signature=signed().signature[:-1]),
    "no certificate": lambda: replace(signed(), certificate=b"\x30\x03\x02\x01\x01"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_proof_that_is_none(what: str) -> None:
    with pytest.raises(ProofInvalid):
        check_proof(ALTERED[what](), CHALLENGE, RELAY)


def test_a_certificate_that_somebody_else_made_of_the_same_key() -> None:
    """Its fingerprint is another one: the signature is for the certificate that was meant."""
    private = WHO.private_key
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    theirs = certified(ed25519.Ed25519PrivateKey.generate(), private.public_key())
    with pytest.raises(ProofInvalid, match="signature"):
        check_proof(
            replace(signed(), certificate=theirs.public_bytes(Encoding.DER)), CHALLENGE, RELAY
        )


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA"],
)
def test_a_key_that_pipes_do_not_take(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    der = certified(key).public_bytes(Encoding.DER)
    with pytest.raises(ProofInvalid, match="neither Ed25519 nor ECDSA P-256"):
        check_proof(ListenRequest(der, b"x"), CHALLENGE, RELAY)


@given(st.binary(max_size=400), st.binary(max_size=100), st.integers(0, 400))
def test_anything_else_is_refused(noise: bytes, signature: bytes, at: int) -> None:
    der = WHO.certificate_der
    for certificate in (noise, der[:at] + noise + der[at + len(noise) :]):
        with pytest.raises(ProofInvalid):
            check_proof(ListenRequest(certificate, signature, None), CHALLENGE, RELAY)


def challenges() -> Challenges:
    numbers = count(1)
    return Challenges(lambda: next(numbers).to_bytes(32, "big"))


def test_a_challenge_is_of_one_connection_and_serves_once() -> None:
    given_ = challenges()
    first, second = given_.give(1, 0.0), given_.give(2, 0.0)
    assert first != second
    with pytest.raises(ChallengeUnknown):
        given_.take(3, 0.0)
    assert given_.take(2, 0.0) == second
    with pytest.raises(ChallengeUnknown):
        given_.take(2, 0.0)
    assert given_.take(1, 0.0) == first


def test_a_new_challenge_makes_the_former_void() -> None:
    given_ = challenges()
    given_.give(1, 0.0)
    second = given_.give(1, 1.0)
    assert len(given_) == 1
    assert given_.take(1, 1.0) == second


def test_a_challenge_lives_to_the_moment() -> None:
    given_ = challenges()
    for holder in (1, 2):
        given_.give(holder, 0.0)
    assert given_.take(1, CHALLENGE_LIFETIME_S - 1e-9)
    with pytest.raises(ChallengeUnknown):
        given_.take(2, CHALLENGE_LIFETIME_S)
    assert len(given_) == 0


def test_a_connection_that_ends_takes_its_challenge_along() -> None:
    given_ = challenges()
    given_.give(1, 0.0)
    given_.forget(1)
    given_.forget(1)
    with pytest.raises(ChallengeUnknown):
        given_.take(1, 0.0)


def test_challenges_are_bounded() -> None:
    given_ = challenges()
    for holder in range(MAX_CHALLENGES + 1):
        given_.give(holder, 0.0)
    assert len(given_) == MAX_CHALLENGES
    with pytest.raises(ChallengeUnknown):
        given_.take(0, 0.0)
    assert given_.take(1, 0.0)
