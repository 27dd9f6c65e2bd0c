"""One request in the terms of ASGI, by hypercorn's HTTPStream and without its task group."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self, cast

from hypercorn.config import Config
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, HTTPScope, Scope


class Exchange(HTTPStream):
    """One request and its response, in the terms of ASGI."""

    @property
    def is_unanswered(self) -> bool:
        """Whether the application has not begun to answer."""
        return self.state is ASGIHTTPState.REQUEST


class ApplicationRun:
    """Hypercorn's TaskGroup for one run of the application, by whoever calls it."""

    def __init__(self, extensions: dict[str, Any]) -> None:
        self._extensions = extensions
        self._run: Callable[[], Awaitable[None]] | None = None

    async def __call__(self) -> None:
        """Run the application, after HTTPStream has taken the whole request."""
        if self._run is not None:
            await self._run()

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Called by HTTPStream when it has made the scope."""
        queue: asyncio.Queue[ASGIReceiveEvent] = asyncio.Queue()
        # Hypercorn's own extensions (push, early hints, trailers) are not offered.
        cast(HTTPScope, scope)["extensions"] = self._extensions
        self._run = partial(app, scope, queue.get, send, _not_for_asgi, _not_for_asgi)
        return queue.put

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        """Hypercorn's HTTPStream does not use it."""
        _not_for_asgi()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass


def _not_for_asgi(*_: object) -> None:
    # For good: what would call it is hypercorn's wrapper of WSGI applications, and ours is ASGI.
    raise NotImplementedError("only WSGI applications need threads")
