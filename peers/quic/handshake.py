"""The handshake of a connection: with which keys and certificates, and not without them."""

from functools import partial

from aioquic import tls

from relay.wire.invariants import LongHeader, parse_invariants

from ..connection_ids import ConnectionIdSource
from .ids import RoutedConnection
from .parts import TlsParts, TransportSettings
from .tls import (
    check_psk_used,
    configuration,
    peer_certificates,
    psk_lookup,
    request_client_certificate,
)

QUIC_V1 = 1
SMALLEST_INITIAL = 1200
"""RFC 9000 §14.1."""


class HandshakeConnection(RoutedConnection):
    """A client, or the server that a client's first datagram makes."""

    def __init__(
        self,
        settings: TransportSettings,
        connection_ids: ConnectionIdSource,
        parts: TlsParts,
        first_datagram: bytes | None,
    ) -> None:
        """:raises ValueError: if the first datagram does not begin with a v1 long header, or no
        connection ID is left to take."""
        is_client = first_datagram is None
        super().__init__(
            settings,
            connection_ids,
            configuration=configuration(parts, settings, is_client=is_client),
            original_destination_connection_id=_first_destination(first_datagram),
            session_ticket_fetcher=(
                None if is_client or parts.psk is None else partial(psk_lookup, parts.psk)
            ),
        )
        self._parts = parts
        self._first_datagram = first_datagram

    @property
    def is_client(self) -> bool:
        """Whether this end is the TLS client: the dialer."""
        return self._is_client

    @property
    def is_handshake_complete(self) -> bool:
        """Whether the other end has proven what TLS lets it prove."""
        return self._handshake_complete

    @property
    def is_handshake_confirmed(self) -> bool:
        """Whether the other end is also known to have accepted us (RFC 9001 §4.1.2)."""
        return self._handshake_confirmed

    @property
    def is_psk_used(self) -> bool:
        """Whether the handshake used the pre-shared key."""
        return self._handshake_complete and self.tls.session_resumed

    @property
    def peer_certificates(self) -> list[bytes]:
        """What the other end has shown, DER, its own certificate first; empty: nothing."""
        return peer_certificates(self.tls)

    # Overridden

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._parts.request_certificate and not self._is_client:
            request_client_certificate(self.tls)

    def _update_traffic_key(
        self,
        direction: tls.Direction,
        epoch: tls.Epoch,
        cipher_suite: tls.CipherSuite,
        secret: bytes,
    ) -> None:
        if epoch is tls.Epoch.ZERO_RTT:
            return  # early data can be replayed (RFC 8446 §8): its packets stay unreadable
        if self._parts.psk is not None and epoch is tls.Epoch.HANDSHAKE:
            check_psk_used(self.tls, is_client=self._is_client)
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)


def _first_destination(first_datagram: bytes | None) -> bytes | None:
    if first_datagram is None:
        return None
    header = parse_invariants(first_datagram)
    if not isinstance(header, LongHeader) or header.version != QUIC_V1:
        raise ValueError("the first datagram does not begin with a QUIC version 1 packet")
    if len(first_datagram) < SMALLEST_INITIAL:
        raise ValueError(f"the first datagram has less than {SMALLEST_INITIAL} bytes")
    return header.destination_cid
