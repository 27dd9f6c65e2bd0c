"""The admin listener beside a running relay; nothing at all where it is not wanted."""

import asyncio
import logging
from collections.abc import Callable

from relay.admin.app import Offer, create_admin_app
from relay.admin.guard import Rules
from relay.admin.server import AdminListenError, AdminServer
from relay.admin.settings import AdminSettings, AdminTokenError, load_token
from relay.admin.sight import KernelUse, Sight
from relay.admin.source import Source
from relay.wire.address import Address

logger = logging.getLogger(__name__)

TICK_S = 1.0
_LOOK_S = 0.05
"""How often it is seen by how much the event loop is late: what stalls it for longer is missed by
no more than that."""


class AdminService:
    """Starts, feeds and stops it."""

    def __init__(
        self,
        settings: AdminSettings,
        source: Source,
        *,
        clock: Callable[[], float],
        kernel_use: KernelUse = lambda: None,
    ) -> None:
        """Read the token; nothing listens before `start`.

        :param clock: the registry's, in seconds.
        :raises AdminTokenError: there is to be one, and it cannot be read.
        """
        self._settings = settings
        self._rules = _rules(settings, load_token(settings))
        self.sight = Sight(source, clock=clock, kernel_use=kernel_use)
        offer = Offer(settings.metrics, settings.registrations, settings.page)
        self._made = create_admin_app(self.sight, self._rules, offer)
        self._server = AdminServer(self._made.app)
        self._timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._late_s = 0.0

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return self._server.addresses

    async def start(self, patience_s: float = 0.0) -> None:
        """Listen, and look once a second.

        :param patience_s: see `AdminServer.start`.
        :raises AdminListenError: it cannot.
        """
        await self._server.start(self._settings.listen, patience_s)
        for address in self.addresses:
            logger.info("admin listener on http://%s", address)
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._tick()
        self._look(self._loop.time())

    def reload(self, settings: AdminSettings) -> None:
        """Take another token; all else is for the next start.

        :raises AdminTokenError: it cannot be read; the old one stays.
        """
        self._rules.token = load_token(settings)

    async def stop(self) -> None:
        """End all streams and connections, well within a second."""
        for timer in (self._timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._look_timer = None
        self._made.streams.close()
        await self._server.stop()

    def _look(self, due: float) -> None:
        now = self._loop.time()
        self._late_s = max(self._late_s, now - due)
        due = now + _LOOK_S
        self._look_timer = self._loop.call_at(due, self._look, due)

    def _tick(self) -> None:
        late_s, self._late_s = max(self._late_s, self._loop.time() - self._due), 0.0
        try:
            step = self.sight.tick(late_s)
            if step is not None:
                self._made.streams.sample(step)
        except Exception:  # what is shown may be wrong; the relay itself goes on
            logger.exception("looking at the counters failed")
        self._due = max(self._due + TICK_S, self._loop.time())
        self._timer = self._loop.call_at(self._due, self._tick)


def _rules(settings: AdminSettings, token: str | None) -> Rules:
    hosts = frozenset(host.lower().removesuffix(".") for host in settings.hosts)
    return Rules(hosts, token, settings.reads_want_token)


__all__ = ["AdminListenError", "AdminService", "AdminTokenError"]
