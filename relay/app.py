"""The registration protocol as a Starlette application. docs/protocol.md §3.

It knows nothing of QUIC: whoever serves it puts the client's connection into
`scope["extensions"]["quicpipe.connection"]`, and a `RegistrationService` keeps the registrations.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.core.limits import RateLimiter, RateLimits, source_of
from relay.core.path import Path
from relay.core.registry import HolderId, RegistrationRefused, RegistryFull
from relay.problem import PROBLEM_TYPE, problem_body
from relay.wire.address import Address
from relay.wire.outside import ADDRESS_PATH, AddressAnswer
from relay.wire.registration import (
    HEALTH_PATH,
    MAX_BODY,
    REGISTER_PATH,
    REGISTRATIONS_PATH,
    MalformedRequest,
    RegisterAnswer,
    RegisterRequest,
)

CONNECTION_EXTENSION = "quicpipe.connection"
"""The key in `scope["extensions"]` under which the server puts the client's connection."""


class Connection(Protocol):
    """What the application needs to know of the connection that a request came on."""

    @property
    def id(self) -> HolderId:
        """Unique among those that live."""

    @property
    def validated_path(self) -> Path | None:
        """The way to the client, if QUIC has validated it (RFC 9000 §8); read at request time."""


class RegistrationService(Protocol):
    """Who keeps the registrations."""

    def register(self, request: RegisterRequest, path: Path, holder: HolderId) -> RegisterAnswer:
        """:raises RegistrationRefused: nothing changed."""

    def delete(self, registration_id: str) -> bool:
        """Whether there was one of that name."""


class Problem(HTTPException):
    """An answer other than success; `detail` is for the person who reads it."""

    def __init__(self, status: int, detail: str, *, retry_after_s: float | None = None) -> None:
        headers = None if retry_after_s is None else {"retry-after": str(math.ceil(retry_after_s))}
        super().__init__(status, detail, headers)


def create_app(
    service: RegistrationService,
    *,
    rate_limits: RateLimits | None = None,
    clock: Callable[[], float] | None = None,
    listeners: Sequence[Address] = (),
) -> Starlette:
    """Make the application. `clock` (seconds) is the running loop's unless given.

    :param listeners: the relay's own addresses, for peers that want to ask at another one.
    """
    limiter = RateLimiter(rate_limits or RateLimits())

    async def register(request: Request) -> Response:
        body = await _body(request)
        connection = _connection(request)
        path = _validated_path(connection)  # after the last await: the client may move meanwhile
        now = clock() if clock else asyncio.get_running_loop().time()
        wait = limiter.take(source_of(path.remote), now)
        if wait > 0:
            raise Problem(429, "too many registrations from your address", retry_after_s=wait)
        answer = _register(service, body, path, connection.id)
        return Response(answer.encode(), media_type="application/json")

    async def address(request: Request) -> Response:
        path = _validated_path(_connection(request))
        answer = AddressAnswer(path.remote, tuple(listeners))
        return Response(answer.encode(), media_type="application/json")

    async def delete(request: Request) -> Response:
        if not service.delete(request.path_params["id"]):
            raise Problem(404, "there is no registration of that id; it may have expired")
        return Response(status_code=204)

    routes = [
        Route(REGISTER_PATH, register, methods=["POST"]),
        Route(REGISTRATIONS_PATH + "/{id}", delete, methods=["DELETE"]),
        Route(ADDRESS_PATH, address, methods=["GET"]),
        Route(HEALTH_PATH, _health, methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_problem, Exception: _server_problem},
    )
    app.router.redirect_slashes = False  # a path is right or it is 404
    return app


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _register(
    service: RegistrationService, body: bytes, path: Path, holder: HolderId
) -> RegisterAnswer:
    try:
        return service.register(RegisterRequest.decode(body), path, holder)
    except MalformedRequest as error:
        raise Problem(400, str(error)) from None
    except RegistryFull as error:
        raise Problem(429, str(error), retry_after_s=error.retry_after_s) from None
    except RegistrationRefused as error:
        raise Problem(409, str(error)) from None


def _connection(request: Request) -> Connection:
    connection: Connection = request.scope["extensions"][CONNECTION_EXTENSION]
    return connection


def _validated_path(connection: Connection) -> Path:
    path = connection.validated_path
    if path is None:
        raise Problem(425, "your new address is not validated yet; repeat the request")
    return path


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise Problem(413, f"the body has more than {MAX_BODY} bytes")
    except ClientDisconnect:
        raise Problem(400, "the body ended early") from None
    return bytes(body)


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):  # Starlette's signature is wider than its calls
        return await _server_problem(request, error)
    detail = error.detail
    if not isinstance(error, Problem):
        detail = _router_detail(request, error)
    return _problem(error.status_code, detail, error.headers)


def _router_detail(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return (
            f"there is nothing here; this relay has POST {REGISTER_PATH}, "
            f"DELETE {REGISTRATIONS_PATH}/{{id}}, GET {ADDRESS_PATH} and GET {HEALTH_PATH}"
        )
    if error.status_code == 405 and error.headers and "Allow" in error.headers:
        return f"not possible here; expected {error.headers['Allow']}"
    return error.detail


async def _server_problem(request: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this answer, so that the server logs it.
    return _problem(500, "the relay failed; its log says more")


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(problem_body(status, detail), status, headers, PROBLEM_TYPE)
