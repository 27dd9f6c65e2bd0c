"""What the relay's HTTP/3 server takes on."""

from dataclasses import dataclass

from relay.wire.registration import MAX_BODY


@dataclass(frozen=True, slots=True)
class Http3Limits:
    """Bounds of everything that a client can make grow. The defaults suit one relay."""

    max_connections: int = 10_000
    """Connections in all, half-open ones included; an idle one costs about 80 kB."""
    max_connections_per_source: int = 1_000
    """Of one IPv4 address or IPv6 /64, which may be a whole site behind its NAT."""
    max_half_open: int = 192
    """Unfinished handshakes; each costs about 70 kB for at most `handshake_timeout_s`."""
    max_half_open_per_source: int = 64
    """Of one source whose address is validated: one client alone cannot keep the others out."""
    retry_above_half_open: int = 64
    """From so many on, a client must first show that it receives at its address (Retry)."""
    unproven_per_minute: int = 300
    """Handshakes begun with clients that have not shown that they receive, half of them at once;
    beyond it: Retry. What is no handshake at all fails at once and is never half-open, but takes a
    millisecond each."""
    handshake_timeout_s: float = 10.0
    """Seconds from the first Initial to the end of the handshake."""
    idle_timeout_s: float = 45.0
    """Seconds without a packet after which a connection is gone; peers ping every 15 s."""
    max_streams: int = 16
    """Request streams that a client may have open at once."""
    max_requests: int = 8
    """Requests of one connection that the application works on at once; beyond it: 429."""
    max_requests_per_source: int = 2_000
    """Requests of one source, likewise."""
    max_requests_in_all: int = 20_000
    """Requests of everybody, likewise; a long poll that waits costs about 20 kB."""
    max_body: int = MAX_BODY
    """Bytes of a request's body."""
    request_timeout_s: float = 10.0
    """Seconds for a request to arrive whole."""
    answer_timeout_s: float = 35.0
    """Seconds for the application to answer it: a long poll takes up to 25."""
    handshakes_per_turn: int = 4
    """Handshakes begun in one turn of the event loop: each computes for milliseconds."""
    stop_timeout_s: float = 0.6
    """Seconds for telling all clients that the relay stops."""
