"""How much the relay takes on, as settings: of one token, of one source, and in all.

Each has a default that suits a relay of some thousand peers. What each part of the relay needs of
them, it gets in its own terms. docs/operating.md explains them to operators.
"""

import math
from dataclasses import dataclass

from relay.core.charging import ForwardLimits
from relay.core.limits import RateLimits
from relay.core.quota import RegistryLimits
from relay.http3.limits import Http3Limits
from relay.settings.declare import setting
from relay.settings.kinds import Amount, ByteRate, Integer, Seconds
from relay.wire.registration import MAX_BODY

_MANY = 10_000_000
_RATE = 10**12
_MIN_RATE = 1_000
"""Less than a packet a second is no rate that a pipe could live with."""
_REGISTRY = RegistryLimits()
_HTTP3 = Http3Limits()


def _number(default: int, help: str, high: int = _MANY) -> int:
    return setting(default, Integer(1, high), help, reload=True)


def _bytes_per_s(default: int, help: str) -> int:
    kind = ByteRate(_MIN_RATE, _RATE, or_zero=True)
    return setting(default, kind, help, default_help="0: no limit", reload=True)


def _packets_per_s(default: int, help: str) -> int:
    kind = Integer(1, _RATE, or_zero=True)
    return setting(default, kind, help, default_help="0: no limit", reload=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """All of them. A *source* is an IPv4 address or an IPv6 /64, which may be a whole site behind
    its NAT. What is said of a token holds for its subject, unless the token says otherwise."""

    registrations: int = _number(_REGISTRY.max_registrations, "registrations in all")
    registrations_per_source: int = _number(
        _REGISTRY.max_registrations_per_source, "registrations of one source"
    )
    registrations_per_token: int = _number(
        _REGISTRY.max_registrations_per_token, "registrations of one subject's tokens"
    )
    registrations_per_connection: int = _number(
        _REGISTRY.max_registrations_per_peer,
        "registrations of one HTTP/3 connection, or of one address and port",
        1_000,
    )
    connection_ids: int = _number(_REGISTRY.max_connection_ids, "connection IDs in all")
    connection_ids_per_source: int = _number(
        _REGISTRY.max_connection_ids_per_source, "connection IDs of one source"
    )
    connection_ids_per_token: int = _number(
        _REGISTRY.max_connection_ids_per_token, "connection IDs of one subject's tokens"
    )
    connection_ids_per_registration: int = _number(
        _REGISTRY.max_connection_ids_per_registration, "connection IDs of one registration"
    )
    registrations_per_minute: int = _number(
        12_000, "requests to register in a minute, of all; half of them may come at once"
    )
    registrations_per_minute_per_source: int = _number(
        120, "requests in a minute to register, to listen, and so on, of one source"
    )
    registrations_per_minute_per_token: int = _number(
        120, "requests to register in a minute by one subject's tokens"
    )
    connections: int = _number(_HTTP3.max_connections, "HTTP/3 connections in all", 1_000_000)
    connections_per_source: int = _number(
        _HTTP3.max_connections_per_source, "HTTP/3 connections of one source", 1_000_000
    )
    half_open: int = _number(
        _HTTP3.max_half_open, "unfinished handshakes in all; 70 kB each", 100_000
    )
    half_open_per_source: int = _number(
        _HTTP3.max_half_open_per_source, "unfinished handshakes of one source", 100_000
    )
    half_open_before_retry: int = setting(
        _HTTP3.retry_above_half_open,
        Integer(0, 100_000),
        "unfinished handshakes from which on clients must show first that they receive (Retry)",
        reload=True,
    )
    unproven_per_minute: int = _number(
        _HTTP3.unproven_per_minute,
        "handshakes in a minute, half of them at once, with clients that have not shown that they"
        " receive; beyond it they must (Retry)",
    )
    streams_per_connection: int = _number(
        _HTTP3.max_streams, "HTTP/3 request streams open at once on one connection", 1_000
    )
    requests: int = _number(_HTTP3.max_requests_in_all, "requests worked on at once, in all")
    requests_per_source: int = _number(
        _HTTP3.max_requests_per_source, "requests worked on at once for one source"
    )
    requests_per_token: int = _number(
        256, "requests worked on at once for one subject's tokens; a listener's poll is one"
    )
    requests_per_connection: int = _number(
        _HTTP3.max_requests, "requests worked on at once for one connection", 1_000
    )
    body: int = setting(
        _HTTP3.max_body, Amount(256, MAX_BODY), "bytes of a request's body", reload=True
    )
    bytes_per_s: int = _bytes_per_s(0, "forwarded in all, shared fairly between those who send")
    bytes_per_s_per_source: int = _bytes_per_s(0, "forwarded for one source")
    bytes_per_s_per_token: int = _bytes_per_s(0, "forwarded for one subject's tokens")
    packets_per_s: int = _packets_per_s(0, "packets forwarded in a second, in all, shared fairly")
    packets_per_s_per_source: int = _packets_per_s(0, "packets forwarded in a second, of a source")
    packets_per_s_per_token: int = _packets_per_s(
        0, "packets forwarded in a second, of one subject's tokens"
    )
    bytes_per_token: int = setting(
        0,
        Amount(1_000, 10**15, or_zero=True),
        "forwarded in the life of one token",
        default_help="0: no limit",
        reload=True,
    )
    after_expiry_s: float = setting(
        86_400.0,
        Seconds(1.0, 366 * 86_400.0, or_zero=True),
        "how long what a token has begun goes on after the token has expired",
        name="after-expiry",
        default_help="1d",
        reload=True,
    )

    def problem(self) -> tuple[str, str] | None:
        """What does not fit the rest; see `relay.settings.load.Checked`."""
        if self.half_open_before_retry > self.half_open:
            return "half_open_before_retry", "is more than half-open: no client would be asked"
        return None

    def registry(self, lease_s: float) -> RegistryLimits:
        """For the registry; the lease is a setting of its own."""
        return RegistryLimits(
            lease_s=lease_s,
            max_registrations=self.registrations,
            max_connection_ids=self.connection_ids,
            max_registrations_per_source=self.registrations_per_source,
            max_connection_ids_per_source=self.connection_ids_per_source,
            max_registrations_per_token=self.registrations_per_token,
            max_connection_ids_per_token=self.connection_ids_per_token,
            max_connection_ids_per_registration=self.connection_ids_per_registration,
            max_registrations_per_peer=self.registrations_per_connection,
        )

    def http3(self) -> Http3Limits:
        """For the HTTP/3 server."""
        return Http3Limits(
            max_connections=self.connections,
            max_connections_per_source=self.connections_per_source,
            max_half_open=self.half_open,
            max_half_open_per_source=self.half_open_per_source,
            retry_above_half_open=self.half_open_before_retry,
            unproven_per_minute=self.unproven_per_minute,
            max_streams=self.streams_per_connection,
            max_requests=self.requests_per_connection,
            max_requests_per_source=self.requests_per_source,
            max_requests_in_all=self.requests,
            max_body=self.body,
        )

    def forwarding(self) -> ForwardLimits:
        """For those who forward."""
        return ForwardLimits(
            bytes_per_s=self.bytes_per_s or math.inf,
            packets_per_s=self.packets_per_s or math.inf,
            bytes_per_s_per_source=self.bytes_per_s_per_source or math.inf,
            packets_per_s_per_source=self.packets_per_s_per_source or math.inf,
            bytes_per_s_per_token=self.bytes_per_s_per_token or math.inf,
            packets_per_s_per_token=self.packets_per_s_per_token or math.inf,
            bytes_per_token=self.bytes_per_token or math.inf,
        )

    def source_rate(self) -> RateLimits:
        """Requests of one source."""
        return RateLimits.of(self.registrations_per_minute_per_source)

    def token_rate(self) -> RateLimits:
        """Registrations of one subject."""
        return RateLimits.of(self.registrations_per_minute_per_token)

    def total_rate(self) -> RateLimits:
        """Registrations of everybody."""
        return RateLimits.of(self.registrations_per_minute)
