"""What the two ends of a code say to each other (docs/protocol.md §11.3), and what follows from it.

SPAKE2 turns the words into a key that nobody else can know: whoever is in between, or at the other
end, gets one guess for each run, and there is one run for each code. Then each end proves that it
has the key, and the private key of the certificate whose fingerprint it named. No sockets here.

The accepter makes the code and is SPAKE2's A; the dialer is B.
"""

import base64
import binascii
import hashlib
import hmac
import json
from abc import ABC, abstractmethod
from typing import Any

import spake2
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from relay.wire.slots import MAX_MESSAGE

from ..errors import (
    AuthenticationFailed,
    CodeWrong,
    IdentityInvalid,
    InviteInvalid,
    UsageError,
    printable,
)
from ..identity import Identity, fingerprint_of, parse_fingerprint
from .code import Code

VERSION = 1

_CONTEXT = "quicpipe/1 code"
_NONCE = bytes(12)  # each key seals one message
_ELEMENT_LENGTH = 33  # the library's: its side, and a point of Ed25519


class _End(ABC):
    """What both ends do."""

    def __init__(self, code: Code, identity: Identity) -> None:
        """:raises UsageError: the identity's certificate does not fit into a message."""
        self._code = code
        self._identity = identity
        self._certificate = identity.certificate_der
        if 4 * len(self._certificate) // 3 > MAX_MESSAGE - 512:
            raise UsageError(
                f"the identity's certificate has {len(self._certificate)} bytes, which is too much"
                " for a code: use a smaller one, as 'quicpipe identity' makes it"
            )
        self._key = b""  # SPAKE2's; empty until both elements are known
        self._transcript = b""
        self._peer_fingerprint = ""

    @property
    def peer_fingerprint(self) -> str:
        """Of the other end's certificate; proven once its proof was received."""
        return self._peer_fingerprint

    @property
    def pairing_key(self) -> bytes:
        """32 bytes that both ends have, and nobody else, once the other end's proof was received.

        :raises RuntimeError: there is none yet.
        """
        return self._derive("pairing key")

    def _hello(self) -> dict[str, Any]:
        return {"v": VERSION, "fingerprint": self._identity.fingerprint}

    def _learn_peer(self, fields: dict[str, Any]) -> None:
        version = fields.get("v")
        if type(version) is not int or version != VERSION:
            raise AuthenticationFailed(
                f"the other end speaks version {printable(str(version), 20)} of codes, this program"
                f" version {VERSION}: use the same release at both ends"
            )
        try:
            self._peer_fingerprint = parse_fingerprint(str(fields.get("fingerprint")))
        except IdentityInvalid:
            raise _malformed("'fingerprint' is none") from None

    def _identities(self, accepter: str, dialer: str) -> tuple[bytes, bytes]:
        """Of A and B for SPAKE2: slot, role and fingerprint."""
        slot = f"{_CONTEXT} {self._code.slot}"
        return f"{slot} accepter {accepter}".encode(), f"{slot} dialer {dialer}".encode()

    def _agree(self, spake: Any, element: bytes, a_says: bytes, b_says: bytes) -> None:
        """:raises AuthenticationFailed: the other end's element is none."""
        try:
            self._key = spake.finish(element)
        except Exception:  # the library's own, ValueError, AssertionError: it has no list of them
            raise _malformed("'element' is no element of the group") from None
        a, b = self._identities(*self._fingerprints())
        hashed = hashlib.sha256()
        for part in (_CONTEXT.encode(), a, b, a_says, b_says):
            hashed.update(len(part).to_bytes(2, "big") + part)
        self._transcript = hashed.digest()

    @abstractmethod
    def _fingerprints(self) -> tuple[str, str]:
        """The accepter's and the dialer's."""

    def _prove(self, role: str) -> dict[str, Any]:
        signature = self._identity.sign(self._signed(role))
        return {
            "certificate": _encode(self._certificate),
            "signature": _encode(signature),
            "proof": _encode(self._proof(role, self._certificate, signature)),
        }

    def _check(self, fields: dict[str, Any], role: str) -> None:
        """:raises CodeWrong: the other end does not have the key.
        :raises AuthenticationFailed: it has, and is not whom it says it is.
        """
        certificate = _bytes(fields, "certificate")
        signature = _bytes(fields, "signature")
        proof = _bytes(fields, "proof")
        if not hmac.compare_digest(proof, self._proof(role, certificate, signature)):
            raise CodeWrong(
                "wrong code: the words at the two ends differ. It is used up: make a new one"
            )
        if fingerprint_of(certificate) != self._peer_fingerprint:
            raise AuthenticationFailed("the other end shows a certificate that is not its own")
        if not _is_signed(certificate, signature, self._signed(role)):
            raise AuthenticationFailed(
                "the other end cannot prove that its certificate is its own: no key of Ed25519 or"
                " ECDSA P-256 has signed"
            )

    def _signed(self, role: str) -> bytes:
        return f"{_CONTEXT} {role} signature".encode() + b"\0" + self._transcript

    def _proof(self, role: str, certificate: bytes, signature: bytes) -> bytes:
        message = self._transcript
        for part in (certificate, signature):
            message += len(part).to_bytes(2, "big") + part
        return hmac.digest(self._derive(f"{role} proof"), message, "sha256")

    def _derive(self, purpose: str) -> bytes:
        if not self._key:
            raise RuntimeError("there is no key before both elements are known")
        info = f"{_CONTEXT} {purpose}".encode()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._key)


class AccepterEnd(_End):
    """Of whoever has made the code. Its methods are called once each, in this order."""

    def receive_hello(self, message: bytes) -> bytes:
        """Take the dialer's claim; returns our message 0, with our element.

        :raises AuthenticationFailed: it is malformed.
        """
        self._learn_peer(_fields(message))
        a, b = self._identities(*self._fingerprints())
        self._spake = spake2.SPAKE2_A(self._code.password, idA=a, idB=b)
        self._element: bytes = self._spake.start()
        return _message(self._hello() | {"element": _encode(self._element)})

    def receive_proof(self, message: bytes) -> bytes:
        """Take the dialer's element and proof; returns our message 1, with our proof.

        :raises CodeWrong: the dialer, or the relay in its place, guessed.
        :raises AuthenticationFailed: it is malformed, or not who it says it is.
        """
        fields = _fields(message)
        element = _element(fields)
        self._agree(self._spake, element, self._element, element)
        self._check(fields, "dialer")
        return _message(self._prove("accepter"))

    def receive_invite(self, message: bytes) -> bytes:
        """Open the dialer's last message; returns the invite's line.

        :raises InviteInvalid: it is not what the dialer has sealed.
        """
        try:
            cipher = ChaCha20Poly1305(self._derive("invite"))
            return cipher.decrypt(_NONCE, message, self._transcript)
        except InvalidTag:
            raise InviteInvalid("the relay has altered the invite on its way") from None

    def _fingerprints(self) -> tuple[str, str]:
        return self._identity.fingerprint, self._peer_fingerprint


class DialerEnd(_End):
    """Of whoever was told the code. Its methods are called once each, in this order."""

    def hello(self) -> bytes:
        """Our message 0, which claims the slot."""
        return _message(self._hello())

    def receive_element(self, message: bytes) -> bytes:
        """Take the accepter's element; returns our message 1, with our element and proof.

        :raises AuthenticationFailed: it is malformed.
        """
        fields = _fields(message)
        self._learn_peer(fields)
        a, b = self._identities(*self._fingerprints())
        spake = spake2.SPAKE2_B(self._code.password, idA=a, idB=b)
        element: bytes = spake.start()
        theirs = _element(fields)
        self._agree(spake, theirs, theirs, element)
        return _message({"element": _encode(element)} | self._prove("dialer"))

    def receive_proof(self, message: bytes) -> None:
        """Take the accepter's proof.

        :raises CodeWrong: the accepter, or the relay in its place, does not know the words.
        :raises AuthenticationFailed: it is malformed, or not who it says it is.
        """
        self._check(_fields(message), "accepter")

    def seal_invite(self, line: bytes) -> bytes:
        """Our message 2: the invite, which nobody on the way can read or exchange."""
        cipher = ChaCha20Poly1305(self._derive("invite"))
        return cipher.encrypt(_NONCE, line, self._transcript)

    def _fingerprints(self) -> tuple[str, str]:
        return self._peer_fingerprint, self._identity.fingerprint


def _is_signed(certificate: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the certificate's key has signed, as `Identity.sign` does."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        match key:
            case ed25519.Ed25519PublicKey():
                key.verify(signature, message)
            case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
                key.verify(signature, message, ec.ECDSA(SHA256()))
            case _:
                return False
    except Exception:  # InvalidSignature; of what is no certificate the library has no list
        return False
    return True


def _message(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _fields(message: bytes) -> dict[str, Any]:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        raise _malformed("it is not JSON") from None
    if not isinstance(value, dict):
        raise _malformed("it is not a JSON object")
    return value


def _element(fields: dict[str, Any]) -> bytes:
    element = _bytes(fields, "element")
    if len(element) != _ELEMENT_LENGTH:
        raise _malformed(f"'element' has not {_ELEMENT_LENGTH} bytes")
    return element


def _bytes(fields: dict[str, Any], name: str) -> bytes:
    text = fields.get(name)
    if not isinstance(text, str):
        raise _malformed(f"'{name}' is missing")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed(f"'{name}' is not base64") from None


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _malformed(what: str) -> AuthenticationFailed:
    return AuthenticationFailed(f"the other end's message about the code makes no sense: {what}")
