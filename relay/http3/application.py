"""The ASGI application as hypercorn runs it: configuration, lifespan, and what requests share."""

import asyncio
import logging
from typing import cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from starlette.types import ASGIApp

from relay.http3.load import RequestLoad
from relay.http3.report import Http3Report
from relay.http3.requests import RequestServer

_SHUTDOWN_S = 0.2
"""Seconds for the application's own shutdown."""


class Application:
    """Starts and stops an application; between the two, `requests` serves it."""

    def __init__(self, app: ASGIApp, report: Http3Report) -> None:
        self._config = Config()
        self._config.errorlog = logging.getLogger("relay.http3.server")
        self._config.include_server_header = False
        self._config.shutdown_timeout = _SHUTDOWN_S
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._state = LifespanState()
        self._lifespan: Lifespan | None = None
        self._task: asyncio.Task[None] | None = None
        self.requests = RequestServer(
            app=self._app,
            config=self._config,
            context=WorkerContext(max_requests=None),
            state=ConnectionState(self._state),
            report=report,
            load=RequestLoad(),
        )

    async def start(self) -> None:
        """Run the application's startup.

        :raises hypercorn.utils.LifespanFailureError: if the application says that it failed.
        """
        loop = asyncio.get_running_loop()
        self._lifespan = Lifespan(self._app, self._config, loop, self._state)
        self._task = loop.create_task(self._lifespan.handle_lifespan())
        await self._lifespan.wait_for_startup()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Run the application's shutdown, if it has started."""
        if self._lifespan is None or self._task is None:
            return
        try:
            await self._lifespan.wait_for_shutdown()
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._lifespan = self._task = None
