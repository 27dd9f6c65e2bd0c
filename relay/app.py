"""The registration protocol as a Starlette application. docs/protocol.md §3.

It knows nothing of QUIC (see relay/requests.py), and a `RegistrationService` keeps the
registrations. What else the relay serves brings its own routes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from relay.core.admission import Grant, TokenRefusal, TokenRefused
from relay.core.destinations import DestinationRefused
from relay.core.limits import RateLimits
from relay.core.path import Path
from relay.core.quota import RelayLeaves, TokenOver
from relay.core.registry import HolderId, RegistrationRefused, RegistryFull
from relay.gate import grant_of, unauthorized
from relay.problem import PROBLEM_TYPE, problem_body
from relay.requests import (
    Clock,
    Problem,
    RegisterGuard,
    connection_of,
    read_body,
    validated_path,
)
from relay.wire.address import Address
from relay.wire.body import MalformedRequest
from relay.wire.outside import ADDRESS_PATH, AddressAnswer
from relay.wire.registration import (
    HEALTH_PATH,
    REGISTER_PATH,
    REGISTRATIONS_PATH,
    RegisterAnswer,
    RegisterRequest,
)


class RegistrationService(Protocol):
    """Who keeps the registrations."""

    def register(
        self, request: RegisterRequest, path: Path, holder: HolderId, grant: Grant | None
    ) -> RegisterAnswer:
        """:param grant: what the client's token permits, where the relay wants one.
        :raises RegistrationRefused: nothing changed.
        :raises DestinationRefused: nothing changed.
        """

    def delete(self, registration_id: str) -> bool:
        """Whether there was one of that name."""


def create_app(
    service: RegistrationService,
    *,
    rate_limits: RateLimits | None = None,
    guard: RegisterGuard | None = None,
    clock: Clock | None = None,
    listeners: Sequence[Address] = (),
    more: Sequence[BaseRoute] = (),
    is_leaving: Callable[[], bool] = lambda: False,
) -> Starlette:
    """Make the application. `clock` (seconds) is the running loop's unless given.

    :param guard: has the rates of registrations; else they are `rate_limits` for each source.
    :param listeners: the relay's own addresses, for peers that want to ask at another one.
    :param more: what else is served.
    :param is_leaving: whether the relay is about to end: whoever asks for its health shall know.
    """
    rates = guard or RegisterGuard(rate_limits or RateLimits(), clock=clock)

    async def register(request: Request) -> Response:
        body = await read_body(request)
        connection = connection_of(request)
        path = validated_path(connection)
        grant = grant_of(request)
        rates.take_registration(path, grant)
        try:
            answer = _register(service, body, path, connection.id, grant)
        except TokenOver as error:
            return unauthorized(TokenRefused(TokenRefusal.EXPIRED, str(error)))
        return Response(answer.encode(), media_type="application/json")

    async def address(request: Request) -> Response:
        path = validated_path(connection_of(request))
        answer = AddressAnswer(path.remote, tuple(listeners))
        return Response(answer.encode(), media_type="application/json")

    async def delete(request: Request) -> Response:
        if not service.delete(request.path_params["id"]):
            raise Problem(404, "there is no registration of that id; it may have expired")
        return Response(status_code=204)

    async def health(request: Request) -> Response:
        if is_leaving():
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok"})

    routes = [
        Route(REGISTER_PATH, register, methods=["POST"]),
        Route(REGISTRATIONS_PATH + "/{id}", delete, methods=["DELETE"]),
        Route(ADDRESS_PATH, address, methods=["GET"]),
        Route(HEALTH_PATH, health, methods=["GET"]),
        *more,
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_problem, Exception: _server_problem},
    )
    app.router.redirect_slashes = False  # a path is right or it is 404
    return app


def _register(
    service: RegistrationService,
    body: bytes,
    path: Path,
    holder: HolderId,
    grant: Grant | None,
) -> RegisterAnswer:
    try:
        return service.register(RegisterRequest.decode(body), path, holder, grant)
    except MalformedRequest as error:
        raise Problem(400, str(error)) from None
    except DestinationRefused as error:
        raise Problem(403, str(error)) from None
    except RegistryFull as error:
        raise Problem(429, str(error), retry_after_s=error.retry_after_s) from None
    except RelayLeaves as error:
        raise Problem(503, str(error), retry_after_s=error.retry_after_s) from None
    except TokenOver:
        raise
    except RegistrationRefused as error:
        raise Problem(409, str(error)) from None


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
            f"there is nothing here; this relay has POST {REGISTER_PATH}, GET {HEALTH_PATH}"
            " and what else docs/protocol.md says"
        )
    if error.status_code == 405 and error.headers and "Allow" in error.headers:
        return f"not possible here; expected {error.headers['Allow']}"
    return error.detail


async def _server_problem(request: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this answer, so that the server logs it.
    return _problem(500, "the relay failed; its log says more")


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(problem_body(status, detail), status, headers, PROBLEM_TYPE)
