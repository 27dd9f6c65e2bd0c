"""The TLS side of a connection: configuration, pre-shared keys, and refusing to go without them."""

import ssl
from datetime import UTC, datetime
from functools import cache

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite, SessionTicket
from cryptography.hazmat.primitives.serialization import Encoding

from relay.wire.connection_id import CONNECTION_ID_LENGTH

from ..identity import Identity
from .parts import ExternalPsk, TlsParts, TransportSettings

_INITIAL_RTT_S = 0.1
"""The first probe goes out after twice this. aioquic's default, and short of RFC 9002's 0.333."""
_MAX_DATAGRAM_FRAME = 65535
"""RFC 9221 §3: any DATAGRAM frame that fits in a packet is welcome."""

_PSK_CIPHER = CipherSuite.AES_128_GCM_SHA256
"""One suite only: TLS ties a pre-shared key to a hash, aioquic ties it to a suite."""
_CIPHERS = [CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256]

# aioquic looks at the machine's clock to see whether a ticket is valid. Ours always is.
_ALWAYS_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_ALWAYS_UNTIL = datetime(9999, 12, 31, tzinfo=UTC)


class UnknownPsk(tls.Alert):
    """The client offers a pre-shared key that we do not have."""

    description = tls.AlertDescription.unknown_psk_identity


class NoPsk(tls.Alert):
    """The other end does not use a pre-shared key at all."""

    description = tls.AlertDescription.handshake_failure


def configuration(
    parts: TlsParts, settings: TransportSettings, *, is_client: bool
) -> QuicConfiguration:
    """The aioquic configuration of one end. Certificate chains are never checked by TLS."""
    result = QuicConfiguration(
        alpn_protocols=[parts.alpn],
        cipher_suites=[_PSK_CIPHER] if parts.psk else list(_CIPHERS),
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=settings.idle_timeout_s,
        initial_rtt=_INITIAL_RTT_S,
        is_client=is_client,
        max_data=settings.connection_window,
        max_datagram_frame_size=_MAX_DATAGRAM_FRAME,
        max_datagram_size=settings.max_datagram_size,
        max_stream_data=settings.stream_window,
        server_name=parts.server_name,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        verify_mode=ssl.CERT_NONE,
    )
    identity = parts.identity
    if identity is None and not is_client:
        identity = _throw_away()
    if identity is not None:
        result.certificate = identity.certificate
        result.private_key = identity.private_key
    if parts.psk is not None and is_client:
        result.session_ticket = session_ticket(parts.psk, parts.server_name)
    return result


def session_ticket(psk: ExternalPsk, server_name: str | None) -> SessionTicket:
    """A pre-shared key in the form of a resumption ticket, the one form that aioquic knows.

    On the wire it differs from an external key in one label: the binder's (RFC 8446 §7.1) is
    `res binder`. There is no early data.
    """
    return SessionTicket(
        age_add=0,
        cipher_suite=_PSK_CIPHER,
        not_valid_after=_ALWAYS_UNTIL,
        not_valid_before=_ALWAYS_FROM,
        resumption_secret=psk.secret,
        # `server_name` may be None, as in aioquic's own tickets: the annotation there is too strict
        server_name=server_name,  # type: ignore[arg-type]
        ticket=psk.identity,
    )


def psk_lookup(psk: ExternalPsk, identity: bytes) -> SessionTicket:
    """What a server answers to the client's offer.

    :raises UnknownPsk: where aioquic would go on with certificates, silently.
    """
    if identity != psk.identity:
        raise UnknownPsk("the dialer offers another key than ours")
    return session_ticket(psk, None)


def check_psk_used(context: tls.Context, *, is_client: bool) -> None:
    """Called as soon as it is settled which key schedule the handshake uses.

    :raises NoPsk: if it goes without the pre-shared key.
    """
    if not context.session_resumed:
        other = "accepter" if is_client else "dialer"
        raise NoPsk(f"the {other} does not use a shared key")


def peer_certificates(context: tls.Context) -> list[bytes]:
    """What the other end has shown, DER, its own certificate first; empty: nothing.

    That it holds the private key was proven by CertificateVerify (RFC 8446 §4.4.3).
    """
    if context._peer_certificate is None:
        return []
    chain = [context._peer_certificate, *context._peer_certificate_chain]
    return [each.public_bytes(Encoding.DER) for each in chain]


def request_client_certificate(context: tls.Context) -> None:
    """Let a server ask the client for its certificate (RFC 8446 §4.3.2)."""
    context._request_client_certificate = True


@cache
def _throw_away() -> Identity:
    # aioquic wants a server to have a certificate even where a pre-shared key makes it needless.
    return Identity.generate()
