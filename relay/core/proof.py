"""Whether a listener holds the key of its certificate. docs/protocol.md §10.2.

A challenge belongs to one HTTP/3 connection, serves once, and does not live long.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

from relay.wire.rendezvous import ListenRequest, bytes_to_sign

from .registry import HolderId

CHALLENGE_LIFETIME_S = 30.0
MAX_CHALLENGES = 10_000
"""Remembered at a time; beyond it the oldest is forgotten."""


class ProofInvalid(Exception):
    """The listener has not proved what it says; the text is for people."""


class ChallengeUnknown(ProofInvalid):
    """This connection has no challenge, or no longer: it is to ask for one."""


class Challenges:
    """The challenges that wait for their answer: one for each connection at the most."""

    def __init__(self, new_challenge: Callable[[], bytes]) -> None:
        """`new_challenge` gives 32 random bytes."""
        self._new_challenge = new_challenge
        # Oldest first: all live equally long.
        self._by_holder: OrderedDict[HolderId, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_holder)

    def give(self, holder: HolderId, now: float) -> bytes:
        """A new challenge for this connection; an earlier one is void."""
        self._expire(now)
        self._by_holder.pop(holder, None)
        if len(self._by_holder) >= MAX_CHALLENGES:
            self._by_holder.popitem(last=False)
        challenge = self._new_challenge()
        self._by_holder[holder] = (challenge, now + CHALLENGE_LIFETIME_S)
        return challenge

    def take(self, holder: HolderId, now: float) -> bytes:
        """The challenge of this connection, which is void from now on.

        :raises ChallengeUnknown: there is none.
        """
        self._expire(now)
        found = self._by_holder.pop(holder, None)
        if found is None:
            raise ChallengeUnknown(
                "this connection has no challenge: ask for one, and answer within"
                f" {CHALLENGE_LIFETIME_S:.0f} s"
            )
        return found[0]

    def forget(self, holder: HolderId) -> None:
        """The connection has ended."""
        self._by_holder.pop(holder, None)

    def _expire(self, now: float) -> None:
        while self._by_holder:
            holder, (_, due) = next(iter(self._by_holder.items()))
            if due > now:
                return
            del self._by_holder[holder]


def check_proof(request: ListenRequest, challenge: bytes, relay_fingerprint: str) -> str:
    """See that the request is signed by its certificate's key; returns the fingerprint.

    :param relay_fingerprint: of our own certificate.
    :raises ProofInvalid: for any other.
    """
    try:
        certificate = x509.load_der_x509_certificate(request.certificate)
        key = certificate.public_key()
    except Exception as error:  # besides ValueError the library promises no list of errors
        raise ProofInvalid(f"'certificate' is none: {type(error).__name__}") from None
    signed = bytes_to_sign(relay_fingerprint, challenge, request.certificate, request.name)
    try:
        match key:
            case ed25519.Ed25519PublicKey():
                key.verify(request.signature, signed)
            case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
                key.verify(request.signature, signed, ec.ECDSA(SHA256()))
            case _:
                raise ProofInvalid("the certificate's key is neither Ed25519 nor ECDSA P-256")
    except InvalidSignature:
        raise ProofInvalid(
            "'signature' is not one of this relay's challenge by the certificate's key"
        ) from None
    return f"sha256:{sha256(request.certificate).hexdigest()}"
