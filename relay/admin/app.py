"""The admin listener's application: routes to what `Sight` sees. relay/admin/openapi.py says what
each answers; relay/admin/guard.py stands before it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from relay.admin.guard import HEALTH_PATH, MAX_REQUESTS, PAGE_PATH, Guard, Rules
from relay.admin.metrics import Metrics
from relay.admin.openapi import DOCUMENT_PATH, document
from relay.admin.page import Page
from relay.admin.questions import (
    BadQuestion,
    Parameters,
    no_parameters,
    wanted_events,
    wanted_registrations,
)
from relay.admin.sight import Sight
from relay.admin.stream import EventStream, Streams
from relay.core.admission import MAX_NAME
from relay.core.events import TooManyWatchers
from relay.problem import PROBLEM_TYPE, problem_body

_NAME = re.compile(r"[0-9a-f]{32}")
_RETRY_S = 5

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Offer:
    """What the listener offers besides /health."""

    metrics: bool = True
    registrations: bool = True
    page: bool = True


@dataclass(frozen=True, slots=True)
class AdminApp:
    """The application, and what its keeper needs of it."""

    app: Guard
    streams: Streams


def create_admin_app(
    sight: Sight, rules: Rules, offer: Offer | None = None, max_requests: int = MAX_REQUESTS
) -> AdminApp:
    """Make the application."""
    offer = offer or Offer()
    streams = Streams(sight)
    routes: list[BaseRoute] = [_health(sight)]
    if offer.registrations:
        routes += _Registrations(sight, streams).routes
    if offer.registrations and offer.page:
        routes.append(_page(Page.load()))
    starlette = Starlette(
        routes=routes, exception_handlers={HTTPException: _http_problem, Exception: _failed}
    )
    starlette.router.redirect_slashes = False  # a path is right or it is 404
    guard = Guard(starlette, rules, max_requests)
    if offer.metrics:
        starlette.router.routes.append(_metrics(Metrics(sight, guard)))
    return AdminApp(guard, streams)


def _health(sight: Sight) -> Route:
    async def health(request: Request) -> Response:
        _nothing_asked(request)
        if sight.totals().is_draining:
            return _json({"status": "draining"}, 503)
        return _json({"status": "ok"})

    return Route(HEALTH_PATH, health, methods=["GET"])


def _metrics(metrics: Metrics) -> Route:
    async def scrape(request: Request) -> Response:
        text, content_type = metrics.expose(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return Route("/metrics", scrape, methods=["GET"])


def _page(page: Page) -> Route:
    async def show(request: Request) -> Response:
        return Response(page.html, headers=dict(page.headers))

    return Route(PAGE_PATH, show, methods=["GET"])


class _Registrations:
    """Everything under /v1."""

    def __init__(self, sight: Sight, streams: Streams) -> None:
        self._sight = sight
        self._streams = streams
        self._document = document()

    @property
    def routes(self) -> list[BaseRoute]:
        return [
            Route(DOCUMENT_PATH, self._describe, methods=["GET"]),
            Route("/v1/overview", self._overview, methods=["GET"]),
            Route("/v1/history", self._history, methods=["GET"]),
            Route("/v1/registrations", self._list, methods=["GET"]),
            Route("/v1/registrations/{id}", self._one, methods=["GET"]),
            Route("/v1/registrations/{id}", self._end, methods=["DELETE"]),
            Route("/v1/revoked/{token_id}", self._revoke, methods=["PUT"]),
            Route("/v1/events", self._events, methods=["GET"]),
        ]

    async def _describe(self, request: Request) -> Response:
        _nothing_asked(request)
        return _json(self._document)

    async def _overview(self, request: Request) -> Response:
        _nothing_asked(request)
        return _json(self._sight.overview())

    async def _history(self, request: Request) -> Response:
        _nothing_asked(request)
        return _json({"steps": [step.to_json() for step in self._sight.history.steps]})

    async def _list(self, request: Request) -> Response:
        page = await self._sight.listing.page(_asked(request, wanted_registrations))
        return _json({"registrations": page.registrations, "next": page.next})

    async def _one(self, request: Request) -> Response:
        _nothing_asked(request)
        one = self._sight.listing.one(_name(request))
        if one is None:
            raise _no_such()
        return _json(one)

    async def _end(self, request: Request) -> Response:
        _nothing_asked(request)
        if not self._sight.source.end(_name(request)):
            raise _no_such()
        return Response(status_code=204)

    async def _revoke(self, request: Request) -> Response:
        _nothing_asked(request)
        token_id = request.path_params["token_id"]
        if not 1 <= len(token_id) <= MAX_NAME or not token_id.isprintable():
            raise HTTPException(400, f"a token's id has 1 to {MAX_NAME} printable characters")
        ended = self._sight.source.revoke(token_id)
        if ended is None:
            raise HTTPException(409, "this relay takes no tokens: there is nothing to revoke")
        return _json({"ended": ended})

    async def _events(self, request: Request) -> EventStream:
        last = request.headers.get("last-event-id")
        ask = _asked(request, lambda parameters: wanted_events(parameters, last))
        try:
            return self._streams.open(ask)
        except TooManyWatchers:
            raise HTTPException(
                503, "too many follow the events already", {"retry-after": str(_RETRY_S)}
            ) from None


def _asked(request: Request, read: Callable[[Parameters], _T]) -> _T:
    try:
        return read(request.query_params.multi_items())
    except BadQuestion as error:
        raise HTTPException(400, str(error)) from None


def _nothing_asked(request: Request) -> None:
    _asked(request, no_parameters)


def _name(request: Request) -> str:
    name: str = request.path_params["id"]
    if not _NAME.fullmatch(name):
        raise HTTPException(400, "a registration's id has 32 hexadecimal digits")
    return name


def _no_such() -> HTTPException:
    return HTTPException(404, "there is no registration of that id; it may have ended")


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):  # Starlette's signature is wider than its calls
        return await _failed(request, error)
    detail = error.detail
    if error.status_code == 404 and "id" not in request.path_params:
        detail = "there is nothing here; /openapi.json says what there is"
    elif error.status_code == 405 and error.headers and "Allow" in error.headers:
        detail = f"not possible here; expected {error.headers['Allow']}"
    return Response(
        problem_body(error.status_code, detail), error.status_code, error.headers, PROBLEM_TYPE
    )


async def _failed(request: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this answer, so that the server logs it.
    return Response(
        problem_body(500, "the relay failed; its log says more"), 500, None, PROBLEM_TYPE
    )
