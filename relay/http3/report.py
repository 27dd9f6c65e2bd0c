"""What the HTTP/3 server counts, and the reasons by which it counts."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

_LOG_INTERVAL_S = 10.0
"""Seconds between two failures that are logged: a client can cause any number of them."""

logger = logging.getLogger("relay.http3.server")


class Refused(StrEnum):
    """Why a datagram was not taken. The value is its name in every report."""

    MALFORMED = "malformed"
    """Does not begin with a QUIC packet."""
    UNKNOWN_CONNECTION = "unknown_connection"
    """For a connection that does not exist, or no longer."""
    TOO_SMALL = "too_small"
    """Would open a connection, but a client pads that to 1,200 bytes (RFC 9000 §14.1)."""
    FOREIGN_VERSION = "foreign_version"
    """Of another QUIC version; answered with those we know if it has at least 1,200 bytes."""
    INVALID_TOKEN = "invalid_token"
    """An address validation token that is not ours, too old, or another address's; answered."""
    NO_ROOM = "no_room"
    """A bound on connections or half-open ones is reached."""
    NO_ROOM_FOR_SOURCE = "no_room_for_source"
    """A bound on connections or half-open ones of one source is reached."""
    MOVED_TOO_EARLY = "moved_too_early"
    """From another address than its handshake began at, and that is not complete yet."""
    STOPPING = "stopping"
    """The relay is not running, or no longer."""


class Failure(StrEnum):
    """Why the relay ended a connection or a request. The value is its name in every report."""

    INTERNAL_ERROR = "internal_error"
    """An exception that nobody expected: the log has it."""
    APPLICATION_ERROR = "application_error"
    """The application raised; the client got status 500."""
    APPLICATION_TIMEOUT = "application_timeout"
    """The application took too long; the request was cancelled."""
    BAD_INITIAL = "bad_initial"
    """The first datagram of a connection could not be decrypted."""
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HANDSHAKE_FAILED = "handshake_failed"
    """Either side ended it before it was complete."""
    PROTOCOL_ERROR = "protocol_error"
    """The client broke QUIC or HTTP/3, and its connection was closed."""
    IDLE_TIMEOUT = "idle_timeout"
    REQUEST_TIMEOUT = "request_timeout"
    """A request did not arrive whole in time; its stream was reset."""
    REQUEST_CANCELLED = "request_cancelled"
    """The client reset or stopped its request before it was answered."""
    BAD_REQUEST = "bad_request"
    """Answered with a problem before it reached the application."""
    BODY_TOO_LARGE = "body_too_large"
    """So is each of these: 413, or 429."""
    TOO_MANY_OF_CONNECTION = "requests_of_connection_full"
    TOO_MANY_OF_SOURCE = "requests_of_source_full"
    TOO_MANY_REQUESTS = "requests_full"
    SEND_FAILED = "send_failed"
    """The caller's `send` raised."""


@dataclass(frozen=True, slots=True)
class Http3Counters:
    """The server's state and history at one moment."""

    connections: int
    """Whose handshake is complete."""
    half_open: int
    handshakes: int
    """Completed since the start."""
    retried: int
    """Initials answered with Retry."""
    requests: int
    """Given to the application."""
    refused: Mapping[Refused, int]
    """Datagrams not taken, by reason; reasons that never occurred are absent."""
    failures: Mapping[Failure, int]
    """Connections and requests that ended badly, by reason."""
    pauses: int = 0
    """How often newcomers had to wait, since others wanted the core."""


class Http3Report:
    """The one place where it is counted. Failures that have an exception are logged too."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.handshakes = 0
        self.retried = 0
        self.pauses = 0
        self.requests = 0
        self._clock = clock
        self._refused: dict[Refused, int] = {}
        self._failures: dict[Failure, int] = {}
        self._next_log = -math.inf
        self._not_logged = 0

    def refuse(self, reason: Refused) -> None:
        """A datagram was not taken."""
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def fail(self, reason: Failure, error: Exception | None = None) -> None:
        """A connection or a request ended badly. An `error` is logged, but not too often."""
        self._failures[reason] = self._failures.get(reason, 0) + 1
        if error is None:
            return
        now = self._clock()
        if now < self._next_log:
            self._not_logged += 1
            return
        logger.error(
            "%s: %s (%d more since the last report)",
            reason.value,
            error,
            self._not_logged,
            exc_info=error,
        )
        self._next_log = now + _LOG_INTERVAL_S
        self._not_logged = 0

    def snapshot(self, connections: int, half_open: int) -> Http3Counters:
        """The counters at this moment."""
        return Http3Counters(
            connections=connections,
            half_open=half_open,
            handshakes=self.handshakes,
            retried=self.retried,
            requests=self.requests,
            refused=dict(self._refused),
            failures=dict(self._failures),
            pauses=self.pauses,
        )
