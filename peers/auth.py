"""How two peers make sure of each other (docs/protocol.md §6.2): give `dial` and `accept` one.

Both ends must use the same kind with the same secret, or pin each other. Whatever does not match
ends the handshake on both sides: a pipe that opens is authenticated.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import AuthenticationFailed, CloseCode, PeersError, PipeClosed, UsageError, printable
from .identity import Identity, fingerprint_of, parse_fingerprint
from .invite import KEY_LENGTH, AuthKind
from .keys import check_strength
from .quic.connection import PeerConnection
from .quic.parts import (
    CRYPTO_ERROR,
    ORIGINAL_ALPN,
    PIPE_ALPN,
    End,
    EndedBy,
    ExternalPsk,
    TlsAlert,
    TlsParts,
)

_PSK_INFO = b"quicpipe/1 psk dialer"
_PSK_ID_INFO = b"quicpipe/1 psk id"
_PSK_ID_PREFIX = "quicpipe/1 dialer "


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a pipe leads to, as far as that was proven."""

    kind: AuthKind | None
    """How it was proven; None: not at all."""
    fingerprint: str | None = None
    """Of its certificate, `sha256:` and 64 hexadecimal digits: with `AuthKind.CERTIFICATE`, or if a
    spoken code has led to the pairing key."""

    def __str__(self) -> str:
        match self.kind:
            case AuthKind.INVITE_KEY:
                return "whoever has the invite"
            case AuthKind.PAIRING_KEY if self.fingerprint is not None:
                return f"the holder of the code, {self.fingerprint}"
            case AuthKind.PAIRING_KEY:
                return "the holder of the pairing key"
            case AuthKind.CERTIFICATE:
                return f"the holder of {self.fingerprint}"
            case None:
                return "an unauthenticated peer"


class Authentication(ABC):
    """Base of all kinds."""

    kind: AuthKind | None
    """What the invite says about it; None: it is an original's invite, which says nothing."""

    @abstractmethod
    def parts(self, *, is_dialer: bool) -> TlsParts:
        """What the handshake of that role is to use."""

    @abstractmethod
    def check(self, connection: PeerConnection) -> Peer:
        """Decide on a handshake that is complete as far as TLS is concerned.

        :raises AuthenticationFailed: and says why; the text is fit for both ends.
        """


class _SharedKey(Authentication):
    """A secret that both ends have: TLS with a pre-shared key and (EC)DHE."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._psk = derive_psk(key)

    @property
    def key(self) -> bytes:
        """The secret itself."""
        return self._key

    def parts(self, *, is_dialer: bool) -> TlsParts:
        """The pre-shared key of the dialer's role, whoever we are: RFC 9257 §4 on reflection."""
        return TlsParts(PIPE_ALPN, psk=self._psk)

    def check(self, connection: PeerConnection) -> Peer:
        """Both proved in the handshake to know the key, or it went without it, which fails."""
        if not connection.is_psk_used:
            raise AuthenticationFailed(f"the {other_role(connection)} does not use a shared key")
        return Peer(self.kind)


class InviteKey(_SharedKey):
    """A one-time key that travels in the invite: whoever has the invite is let in, once."""

    kind = AuthKind.INVITE_KEY

    def __init__(self, key: bytes | None = None) -> None:
        """Without a key (32 bytes) a new one is made.

        :raises UsageError: for a key of another length.
        """
        if key is not None and len(key) != KEY_LENGTH:
            raise UsageError(f"an invite's key has {KEY_LENGTH} bytes, this one has {len(key)}")
        super().__init__(secrets.token_bytes(KEY_LENGTH) if key is None else key)


class PairingKey(_SharedKey):
    """A key that both peers have had before: whoever has it is let in. The invite is no secret."""

    kind = AuthKind.PAIRING_KEY

    def __init__(self, key: bytes) -> None:
        """:raises KeyInvalid: below 128 bits: it could be guessed from the invite (RFC 9257 §4)."""
        check_strength(key)
        super().__init__(key)


class _Certified(Authentication):
    """Both ends show a certificate, and TLS proves that each has its key."""

    kind = AuthKind.CERTIFICATE

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    @property
    def identity(self) -> Identity:
        """What we show."""
        return self._identity

    def parts(self, *, is_dialer: bool) -> TlsParts:
        """Our certificate, and the wish to see the other one's."""
        return TlsParts(PIPE_ALPN, identity=self._identity, request_certificate=True)

    def _peer(self, connection: PeerConnection) -> Peer:
        """Whose certificate the other end has shown.

        :raises AuthenticationFailed: it has shown none.
        """
        shown = connection.peer_certificates
        if not shown:
            raise AuthenticationFailed(f"the {other_role(connection)} shows no certificate")
        return Peer(self.kind, fingerprint_of(shown[0]))


class Pinned(_Certified):
    """Certificates that the two ends know by their fingerprints. The invite is no secret."""

    def __init__(self, identity: Identity, fingerprints: Iterable[str]) -> None:
        """:param identity: our own.
        :param fingerprints: of the peers that are let in.
        :raises IdentityInvalid: if one of them is none.
        :raises UsageError: if there are none.
        """
        super().__init__(identity)
        self._allowed = frozenset(parse_fingerprint(each) for each in fingerprints)
        if not self._allowed:
            raise UsageError("no peer's fingerprint is pinned: nobody could be let in")

    def check(self, connection: PeerConnection) -> Peer:
        """The certificate is one of the pinned ones."""
        peer = self._peer(connection)
        if peer.fingerprint not in self._allowed:
            raise AuthenticationFailed(
                f"the {other_role(connection)}'s certificate {peer.fingerprint} is not pinned here"
            )
        return peer


class AnyPeer(_Certified):
    """For accepters that serve whoever comes, with a certificate, but anyone's.

    `Pipe.peer` says whose it is. What an accepter of this kind offers, it offers to strangers.
    """

    def __init__(self, identity: Identity) -> None:
        """:param identity: our own, which dialers pin."""
        super().__init__(identity)

    def parts(self, *, is_dialer: bool) -> TlsParts:
        """As ever for an accepter.

        :raises UsageError: for a dialer, who must know whom it wants.
        """
        if is_dialer:
            raise UsageError("a dialer must say whose certificate it expects: pin a fingerprint")
        return super().parts(is_dialer=False)

    def check(self, connection: PeerConnection) -> Peer:
        """There is a certificate."""
        return self._peer(connection)


class Original(Authentication):
    """For the original's peers: encrypted, but to whom, nobody knows (docs/protocol.md §7)."""

    kind = None

    def parts(self, *, is_dialer: bool) -> TlsParts:
        """The original's protocol name; a server shows any certificate."""
        return TlsParts(ORIGINAL_ALPN)

    def check(self, connection: PeerConnection) -> Peer:
        """Nothing is checked."""
        return Peer(None)


def derive_psk(key: bytes) -> ExternalPsk:
    """The pre-shared key of TLS and its identity, from an invite's or a pairing key."""
    identity = _PSK_ID_PREFIX + _hkdf(key, _PSK_ID_INFO, 8).hex()
    return ExternalPsk(identity.encode("ascii"), _hkdf(key, _PSK_INFO, 32))


def _hkdf(key: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(key)


def other_role(connection: PeerConnection) -> str:
    """What the other end is called."""
    return "accepter" if connection.is_client else "dialer"


def refuse(connection: PeerConnection, error: AuthenticationFailed) -> None:
    """Close because of what `check` found, in words that reach the other end."""
    if connection.is_client:
        # The server may lack our Finished, and then reads nothing of the application's level.
        connection.refuse(TlsAlert.ACCESS_DENIED, str(error))
    else:
        connection.finish(CloseCode.AUTHENTICATION_FAILED, str(error))


def explain_failure(end: End, other: str) -> PeersError:
    """Why a pipe did not open, when its connection ended before it could.

    :param other: what the other end is called, `dialer` or `accepter`.
    """
    alert = end.code - CRYPTO_ERROR
    reason = printable(end.reason)
    if end.is_application and end.code == CloseCode.AUTHENTICATION_FAILED:
        return AuthenticationFailed(f"the {other} refused us: {reason}")
    if end.is_application or not 0 <= alert <= 255:
        who = "we" if end.by is EndedBy.US else f"the {other}"
        what = reason or "without a reason"
        return PipeClosed(f"{who} closed the pipe before it was open: {what}", code=end.code)
    if end.by is EndedBy.PEER:
        return AuthenticationFailed(f"the {other} refused us: {_in_words(alert, reason, 'we')}")
    return AuthenticationFailed(_in_words(alert, reason, f"the {other}"))


def _in_words(alert: int, reason: str, who: str) -> str:
    """What a TLS alert means here, where the reason phrase does not say it by itself."""
    match alert:
        case TlsAlert.NO_APPLICATION_PROTOCOL:
            return "the two ends speak different protocols: does one of them use --original?"
        case TlsAlert.HANDSHAKE_FAILURE if "PSK" in reason or not reason:
            return f"{who} could not prove to have the key; was the invite altered?"
        case TlsAlert.DECRYPT_ERROR | TlsAlert.BAD_CERTIFICATE if not reason:
            return f"{who} could not prove to be who {who} claimed; was something altered?"
        case TlsAlert.UNKNOWN_PSK_IDENTITY if not reason:
            return "the two ends have different keys"
        case TlsAlert.CERTIFICATE_REQUIRED if not reason:
            return f"{who} showed no certificate"
    return reason or f"TLS alert {alert}"
