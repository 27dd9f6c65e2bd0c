"""What a QUIC connection is made from, and what it tells: values only."""

from dataclasses import dataclass, field
from enum import Enum

from ..identity import Identity

PIPE_ALPN = "quicpipe/1"
ORIGINAL_ALPN = "EXAMPLE"
HTTP3_ALPN = "h3"

APPLICATION_ERROR = 0x0C
"""RFC 9000 §20.1: what an application's close becomes before the handshake is done."""
CRYPTO_ERROR = 0x100
"""RFC 9000 §20.1: plus a TLS alert, 0 to 255."""


class TlsAlert:
    """The alerts (RFC 8446 §6) that we send or explain."""

    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    ACCESS_DENIED = 49
    DECRYPT_ERROR = 51
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


@dataclass(frozen=True, slots=True)
class ExternalPsk:
    """A key for TLS that both ends have from elsewhere (docs/protocol.md §6.2)."""

    identity: bytes
    secret: bytes = field(repr=False)
    """32 bytes, as SHA-256 gives."""


@dataclass(frozen=True, slots=True)
class TlsParts:
    """What the TLS handshake is to use."""

    alpn: str
    server_name: str | None = None
    """For SNI. Pipes have none."""
    psk: ExternalPsk | None = None
    """If set, the handshake fails unless it uses this key."""
    identity: Identity | None = None
    """The certificate to show. A server without one shows a throw-away certificate."""
    request_certificate: bool = False
    """A server asks the client for its certificate. Whether it gives one is checked elsewhere."""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """The sizes and times of a connection."""

    idle_timeout_s: float = 30.0
    """Silence after which the connection is dead (RFC 9000 §10.1)."""
    max_datagram_size: int = 1200
    """Bytes of the largest UDP payload that is sent; any QUIC path takes 1,200."""
    stream_window: int = 6 * 1024 * 1024
    """Bytes that may arrive on one stream before the application reads them. 300 Mbit/s over a
    round trip of 100 ms has 3.75 MB under way, and updates are sent by the quarter."""
    connection_window: int = 16 * 1024 * 1024
    """The same for all streams together: the bound on the memory that the other end can take."""
    max_streams: int = 128
    """Streams of either kind that the other end may have open at a time."""
    packets_per_key: int = 2**22
    """Packets that are sent before the keys are renewed; RFC 9001 §6.6 permits 2²³ with AES-GCM,
    which is 10 GB."""
    datagram_queue: int = 256
    """DATAGRAM frames that wait to be sent; when full, the oldest is dropped."""


class EndedBy(Enum):
    """Why a connection is no more."""

    US = "us"
    """We closed it, or found an error in what came."""
    PEER = "peer"
    SILENCE = "silence"
    """Nothing was heard for the idle timeout."""


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended."""

    by: EndedBy
    code: int
    is_application: bool
    """Whether `code` is the application's; else it is one of RFC 9000 §20.1."""
    reason: str
    """The other end's words if it was the one: not to be trusted."""


@dataclass(frozen=True, slots=True)
class QuicStatistics:
    """Counts since the start, and the state of the path now. Sizes in bytes, times in seconds."""

    smoothed_rtt_s: float
    """0.0: not measured yet."""
    smallest_rtt_s: float
    congestion_window: int
    bytes_in_flight: int
    datagrams_sent: int
    datagrams_received: int
    bytes_sent: int
    """UDP payload, so with all overhead of QUIC but without that of UDP and IP."""
    bytes_received: int
    packets_lost: int
    """Declared lost, those that a probe repeated too early included."""
    probe_timeouts: int
    datagram_frames_dropped: int
    """DATAGRAM frames that were dropped because too many waited to be sent."""
    malformed_received: int
    """Datagrams whose content broke the parser; the connection is closed at the first."""
