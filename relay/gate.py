"""Who may ask for anything: tokens at the door of the application. docs/protocol.md §14.

Everything wants a token, where the relay wants any, but what shows an unguessable id instead, and
`/health`. What came in gets its grant along with the request (`grant_of`).
"""

import time
from collections import Counter
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.core.admission import Grant, TokenRefusal, TokenRefused, expired
from relay.core.limits import RateLimiter, RateLimits, source_of
from relay.problem import PROBLEM_TYPE, problem_body
from relay.requests import CONNECTION_EXTENSION, Clock, Connection, OnRefused, loop_time
from relay.tokens import Verifier
from relay.wire import rendezvous, slots
from relay.wire.outside import ADDRESS_PATH
from relay.wire.registration import HEALTH_PATH, REGISTER_PATH, REGISTRATIONS_PATH

GRANT_EXTENSION = "quicpipe.grant"
"""The key in `scope["extensions"]` under which what the token permits is found."""

FREE = frozenset({HEALTH_PATH, rendezvous.END_PATH, slots.END_PATH})
"""What needs no token. So does whatever is below `REGISTRATIONS_PATH`: its id is a secret."""

KEEPING = frozenset(
    {REGISTER_PATH, ADDRESS_PATH, rendezvous.WAIT_PATH, slots.SEND_PATH, slots.RECEIVE_PATH}
)
"""What a token that is over may still do, for a while: go on with what it has begun. Whether there
is anything to go on with, whoever serves these knows."""

REQUESTS_FULL = "requests_of_token_full"
TOO_MANY_REFUSED = "refused_too_often"
"""Reasons of the gate's own, beside those of `TokenRefusal`."""

_RETRY_S = 1.0

_REFUSALS = RateLimits(per_minute=120.0, burst=120)
"""Requests with no token, or a bad one, that a source gets a proper answer to."""


class Gate:
    """An ASGI middleware. For one event loop."""

    def __init__(
        self,
        verifier: Verifier | None,
        *,
        max_requests: int = 256,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
        on_refused: OnRefused | None = None,
    ) -> None:
        """:param verifier: None: everybody is let in.
        :param max_requests: at once, of one subject.
        :param clock: gives seconds; the running loop's unless given.
        :param wall_clock: gives seconds since 1970.
        :param on_refused: told of each that is not let in.
        """
        self._on_refused = on_refused
        self.verifier = verifier
        self.max_requests = max_requests
        self._clock = clock or loop_time
        self._wall_clock = wall_clock
        self._running = Counter[str]()  # by subject
        self._refusals = RateLimiter(_REFUSALS)
        self.refused = Counter[str]({REQUESTS_FULL: 0, TOO_MANY_REFUSED: 0})
        """What was not let in since the start, by reason."""

    def before(self, app: ASGIApp) -> ASGIApp:
        """The application behind the gate."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or self.verifier is None or _is_free(scope["path"]):
                await app(scope, receive, send)
                return
            try:
                grant = self._admit(self.verifier, scope)
            except TokenRefused as error:
                await self._refuse(scope, error)(scope, receive, send)
                return
            if self._running[grant.subject] >= self.max_requests:
                self._count(REQUESTS_FULL, scope, grant.subject)
                detail = f"your token permits {self.max_requests} requests at once"
                await _problem(429, detail, retry_after_s=_RETRY_S)(scope, receive, send)
                return
            scope["extensions"][GRANT_EXTENSION] = grant
            self._running[grant.subject] += 1
            try:
                await app(scope, receive, send)
            finally:
                self._running[grant.subject] -= 1
                if not self._running[grant.subject]:
                    del self._running[grant.subject]

        return guarded

    def _admit(self, verifier: Verifier, scope: Scope) -> Grant:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) > 1:
            raise TokenRefused(TokenRefusal.MALFORMED, "there is more than one Authorization")
        header = values[0].decode("latin-1") if values else None
        grant = verifier.check(header, self._wall_clock())
        if not grant.is_fresh and scope["path"] not in KEEPING:
            raise expired()
        return grant

    def _refuse(self, scope: Scope, error: TokenRefused) -> Response:
        connection: Connection = scope["extensions"][CONNECTION_EXTENSION]
        path = connection.validated_path
        if path is not None:
            wait_s = self._refusals.take(source_of(path.remote), self._clock())
            if wait_s:
                self._count(TOO_MANY_REFUSED, scope)
                return _problem(429, "too many requests without a good token", retry_after_s=wait_s)
        self._count(error.reason.value, scope)
        return unauthorized(error)

    def _count(self, reason: str, scope: Scope, subject: str | None = None) -> None:
        self.refused[reason] += 1
        if self._on_refused is not None:
            path = scope["extensions"][CONNECTION_EXTENSION].validated_path
            self._on_refused(reason, path.remote if path else None, subject)


def grant_of(request: Request) -> Grant | None:
    """What the request's token permits; None: the relay wants none here."""
    grant: Grant | None = request.scope["extensions"].get(GRANT_EXTENSION)
    return grant


def unauthorized(error: TokenRefused) -> Response:
    """401, with what RFC 6750 §3 asks for."""
    challenge = 'Bearer realm="quicpipe"'
    if error.reason is not TokenRefusal.MISSING:
        challenge += ', error="invalid_token"'
    body = problem_body(401, str(error))
    return Response(body, 401, {"www-authenticate": challenge}, PROBLEM_TYPE)


def _is_free(path: str) -> bool:
    return path in FREE or path.startswith(REGISTRATIONS_PATH + "/")


def _problem(status: int, detail: str, *, retry_after_s: float) -> Response:
    headers = {"retry-after": str(max(1, round(retry_after_s + 0.5)))}
    return Response(problem_body(status, detail), status, headers, PROBLEM_TYPE)
