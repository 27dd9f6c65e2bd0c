"""What every handler of the relay's HTTP does: who asks, what for, how often, and what goes wrong.

The handlers know nothing of QUIC: whoever serves them puts the client's connection into
`scope["extensions"]["quicpipe.connection"]`.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from relay.core.admission import Grant
from relay.core.limits import RateLimiter, RateLimits, source_of
from relay.core.path import Path
from relay.core.registry import HolderId
from relay.wire.address import Address
from relay.wire.body import MalformedRequest
from relay.wire.registration import MAX_BODY

CONNECTION_EXTENSION = "quicpipe.connection"
"""The key in `scope["extensions"]` under which the server puts the client's connection."""

Clock = Callable[[], float]
"""Gives seconds."""

OnRefused = Callable[[str, Address | None, str | None], None]
"""Told of a request that is refused: the reason, whence it came, and by whose token."""

Decoded = TypeVar("Decoded")


class Connection(Protocol):
    """What the application needs to know of the connection that a request came on."""

    @property
    def id(self) -> HolderId:
        """Unique among those that live."""

    @property
    def validated_path(self) -> Path | None:
        """The way to the client, if QUIC has validated it (RFC 9000 §8); read at request time."""


class Problem(HTTPException):
    """An answer other than success; `detail` is for the person who reads it."""

    def __init__(self, status: int, detail: str, *, retry_after_s: float | None = None) -> None:
        headers = None if retry_after_s is None else {"retry-after": str(math.ceil(retry_after_s))}
        super().__init__(status, detail, headers)


class RateGuard:
    """One rate of requests for each source, over all that this guard is asked about."""

    def __init__(self, limits: RateLimits, clock: Clock | None = None) -> None:
        """:param clock: the running loop's unless given."""
        self._limiter = RateLimiter(limits)
        self._clock = clock or loop_time
        self.refused = 0
        """How many requests were too many."""

    def now(self) -> float:
        """The time on its clock, in seconds."""
        return self._clock()

    def change(self, limits: RateLimits) -> None:
        """From now on these."""
        self._limiter.change(limits)

    def take(self, path: Path, what: str) -> str:
        """Count a request, and say which source it counts for (`limits.source_of`).

        :param what: of which there are too many, for people.
        :raises Problem: 429.
        """
        source = source_of(path.remote)
        wait_s = self._limiter.take(source, self.now())
        if wait_s > 0:
            self.refused += 1
            raise Problem(429, f"too many {what} from your address", retry_after_s=wait_s)
        return source


TOO_OFTEN_BY_SOURCE = "too_often_by_source"
TOO_OFTEN_BY_TOKEN = "too_often_by_token"
TOO_OFTEN_IN_ALL = "too_often_in_all"
"""Why a registration is too many, in every report."""


class RegisterGuard(RateGuard):
    """The rates of registrations: of one source, of one subject's tokens, and of everybody."""

    def __init__(
        self,
        source: RateLimits,
        token: RateLimits | None = None,
        total: RateLimits | None = None,
        clock: Clock | None = None,
        on_refused: OnRefused | None = None,
    ) -> None:
        """:param on_refused: told of each that is too many."""
        super().__init__(source, clock)
        self._on_refused = on_refused
        self._token = RateLimiter(token or _NO_LIMIT)
        self._total = RateLimiter(total or _NO_LIMIT)
        self.refused_token = self.refused_total = 0

    def change_all(
        self, source: RateLimits, token: RateLimits | None, total: RateLimits | None
    ) -> None:
        """From now on these."""
        self.change(source)
        self._token.change(token or _NO_LIMIT)
        self._total.change(total or _NO_LIMIT)

    def take_registration(self, path: Path, grant: Grant | None) -> None:
        """Count a registration.

        :raises Problem: 429.
        """
        subject = grant.subject if grant is not None else None
        try:
            self.take(path, "registrations")
        except Problem:
            self._tell(TOO_OFTEN_BY_SOURCE, path, subject)
            raise
        if grant is not None:
            own = grant.limits.registrations_per_minute
            limits = None if own is None else RateLimits.of(own)
            if wait_s := self._token.take(grant.subject, self.now(), limits):
                self.refused_token += 1
                self._tell(TOO_OFTEN_BY_TOKEN, path, subject)
                detail = "too many registrations a minute for your token"
                raise Problem(429, detail, retry_after_s=wait_s)
        if wait_s := self._total.take("", self.now()):
            self.refused_total += 1
            self._tell(TOO_OFTEN_IN_ALL, path, subject)
            detail = "the relay takes no more registrations in this minute"
            raise Problem(429, detail, retry_after_s=wait_s)

    def _tell(self, reason: str, path: Path, subject: str | None) -> None:
        if self._on_refused is not None:
            self._on_refused(reason, path.remote, subject)


def loop_time() -> float:
    """The running loop's clock, in seconds."""
    return asyncio.get_running_loop().time()


_NO_LIMIT = RateLimits(per_minute=1e9, burst=10**9)


def connection_of(request: Request) -> Connection:
    """The connection that a request came on."""
    connection: Connection = request.scope["extensions"][CONNECTION_EXTENSION]
    return connection


def validated_path(connection: Connection) -> Path:
    """The way to the client: ask after the last `await`, as it may move meanwhile.

    :raises Problem: 425, it has moved just now.
    """
    path = connection.validated_path
    if path is None:
        raise Problem(425, "your new address is not validated yet; repeat the request")
    return path


async def read_body(request: Request) -> bytes:
    """The whole body, at most `MAX_BODY` bytes.

    :raises Problem: 413, or 400 if it ends early.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise Problem(413, f"the body has more than {MAX_BODY} bytes")
    except ClientDisconnect:
        raise Problem(400, "the body ended early") from None
    return bytes(body)


def decoded(decode: Callable[[bytes], Decoded], body: bytes) -> Decoded:
    """What a body means, by the message that it is to be.

    :raises Problem: 400, and says what was expected.
    """
    try:
        return decode(body)
    except MalformedRequest as error:
        raise Problem(400, str(error)) from None


def json_answer(body: bytes, status: int = 200) -> Response:
    """An answer whose body is JSON already."""
    return Response(body, status, media_type="application/json")
