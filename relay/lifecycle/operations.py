"""What is done to a running relay by signals, commands and a successor: reload, drain, leave."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from relay import logs
from relay.access import access_for
from relay.admin.settings import AdminTokenError
from relay.certificate import CertificateError
from relay.config import Chosen, Config
from relay.lifecycle.notify import ServiceManager
from relay.lifecycle.parts import Parts
from relay.lifecycle.reload import Reload, ReloadFailed, listening_as, plan
from relay.own_certificate import load_certificate, log_certificate
from relay.settings.load import SettingsError
from relay.tokens import TokenFileError

logger = logging.getLogger(__name__)

_DRAIN_TICK_S = 0.2


class Operations:
    """`successor.Departing` and `serve_commands.Commanded`."""

    def __init__(
        self,
        parts: Parts,
        chosen: Chosen | None,
        manager: ServiceManager,
        end: "asyncio.Future[None]",
    ) -> None:
        """Within the event loop.

        :param chosen: where the settings are from; None: they cannot be read again.
        :param end: is resolved when the relay is to end.
        """
        self._parts = parts
        self._chosen = chosen
        self._manager = manager
        self._draining: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self.end = end
        self.has_left = False
        """Whether a successor goes on with this relay's work."""

    @property
    def registrations(self) -> int:
        """How many there are."""
        return self._parts.registrations

    def status(self) -> Mapping[str, object]:
        """What the relay does, for people."""
        parts, control = self._parts, self._parts.control
        has_state = parts.state_file is not None
        return {
            "process": os.getpid(),
            "running_s": round(time.monotonic() - self._began),
            "state": "draining" if control.is_draining else "serving",
            "listeners": [str(address) for address in parts.addresses],
            "workers": parts.pool.pids,
            "certificate": parts.certificate.fingerprint,
            "certificate_until": parts.certificate.not_after.isoformat(),
            "registrations": control.registrations,
            "connection_ids": control.connection_ids,
            "http3_connections": control.http3_counters.connections,
            "state_file": str(parts.config.state_path) if has_state else "none",
        }

    def status_line(self) -> str:
        """The same in a few words."""
        where = " ".join(map(str, self._parts.addresses))
        if self._draining is not None:
            return f"draining on {where}; registrations left: {self.registrations}"
        return f"listening on {where}"

    def reload(self) -> Reload:
        """Read settings, certificate and tokens again; all or nothing.

        :raises ReloadFailed: nothing has changed; it was logged, too.
        """
        self._manager.reloading()
        try:
            done = self._reload()
        except (
            SettingsError,
            CertificateError,
            TokenFileError,
            ReloadFailed,
            AdminTokenError,
        ) as error:
            failed = ReloadFailed(f"nothing is reloaded: {error}")
            logger.error("%s", failed)
            self._manager.ready(str(failed))
            raise failed from None
        logger.info("reloaded; %s", done)
        self._manager.ready(self.status_line())
        return done

    def drain(self, deadline_s: float | None) -> None:
        """Take nothing new, and end when nothing is left, or after so many seconds."""
        self._forget_draining()
        self._parts.control.is_draining = True
        logger.info("draining: no new registrations; %d are left", self.registrations)
        loop = asyncio.get_running_loop()
        deadline = None if deadline_s is None else loop.time() + deadline_s
        self._draining = loop.create_task(self._drain(deadline))

    def stop_draining(self) -> None:
        """Take new registrations again."""
        if self._draining is not None:
            self._forget_draining()
            self._parts.control.is_draining = False
            logger.info("draining no longer")
            self._manager.status(self.status_line())

    def freeze(self) -> None:
        """Change no registration any more; forward as before."""
        self._parts.control.freeze()

    def thaw(self) -> None:
        """Nothing has come of it: go on as before."""
        self._parts.control.thaw()

    async def leave(self, successor: int | None) -> None:
        """The successor (a process) forwards: let go of everything. Never raises."""
        self.has_left = True
        self._forget_draining()
        logger.info("process %s goes on with this relay's work; this one ends", successor)
        if successor is not None:
            self._manager.main_process(successor)
        try:
            await self._parts.stop(tell_first=False)
        except Exception:
            logger.exception("ending failed")

    def gone(self) -> None:
        """End: a signal says so, or all is done."""
        if not self.end.done():
            self.end.set_result(None)

    def _reload(self) -> Reload:
        if self._chosen is None:
            raise ReloadFailed("this relay has no settings that could be read again")
        parts = self._parts
        planned = plan(parts.config, self._wanted(self._chosen))
        config = planned.config
        certificate = load_certificate(config)
        access = access_for(config, parts.addresses)
        if parts.admin is not None:
            parts.admin.reload(config.admin)
        # From here on nothing fails.
        if config.revoked_file is not None and access.verifier is not None:
            planned = replace(planned, revoked=len(access.verifier.revoked))
        if certificate.fingerprint != parts.certificate.fingerprint:
            parts.certificate = certificate
            parts.control.change_certificate(certificate)
            log_certificate(certificate, datetime.now(UTC))
            planned = replace(planned, certificate=certificate.fingerprint)
        parts.control.change_access(access)
        parts.control.change_limits(config.limits, config.lease_s)
        logs.set_level(config.log_level)
        parts.config = config
        return planned

    def _wanted(self, chosen: Chosen) -> Config:
        loaded = chosen.load()
        if ("listen",) in loaded.given:
            return loaded.settings
        return listening_as(loaded.settings, self._parts.config)

    def _forget_draining(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None

    async def _drain(self, deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        told = -1
        while (left := self.registrations) and (deadline is None or loop.time() < deadline):
            if left != told:
                told = left
                self._manager.status(self.status_line())
            await asyncio.sleep(_DRAIN_TICK_S)
        logger.info("drained: %d registrations are left", self.registrations)
        self.gone()
