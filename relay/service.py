"""The whole relay in one process and its workers: from its start to its end, and its signals."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path as FilePath

from relay.access import Access, access_for, warn_of_risks
from relay.admin.server import AdminListenError
from relay.admin.settings import AdminTokenError
from relay.certificate import CertificateError, ServerCertificate
from relay.config import Chosen, Config
from relay.forwarding.sockets import Listener
from relay.forwarding.supervisor import WorkersFailed
from relay.kernel.service import KernelRequired
from relay.lifecycle.local_socket import ControlSocketError, LocalServer
from relay.lifecycle.notify import ServiceManager
from relay.lifecycle.operations import Operations
from relay.lifecycle.parts import Parts
from relay.lifecycle.predecessor import HandOverFailed, Predecessor
from relay.lifecycle.reload import ReloadFailed
from relay.lifecycle.serve_commands import LocalCommands
from relay.lifecycle.start import CannotStart, open_sockets
from relay.lifecycle.state_file import StateFileInUse
from relay.lifecycle.successor import HandOver
from relay.logs import discard
from relay.own_certificate import load_certificate, log_certificate, warn_of_end
from relay.settings.load import Loaded
from relay.tokens import TokenFileError

logger = logging.getLogger(__name__)

_DAY_S = 86_400.0


class StartFailed(Exception):
    """The relay cannot run; the text is one line for the operator."""


def run(chosen: Chosen, loaded: Loaded[Config]) -> int:
    """Run until a signal ends it; returns the exit code.

    :param chosen: where the settings are from, for a reload.
    :raises StartFailed: it cannot run, or not any longer.
    """
    try:
        certificate = load_certificate(loaded.settings)
        opened = open_sockets(
            loaded.settings, os.environ, listen_is_chosen=("listen",) in loaded.given
        )
    except (CertificateError, CannotStart) as error:
        raise StartFailed(str(error)) from None
    try:
        access = access_for(opened.config, [listener.address for listener in opened.listeners])
        warn_of_risks(opened.config)
        relay = Relay(
            opened.config,
            opened.listeners,
            certificate,
            access,
            chosen=chosen,
            predecessor=opened.predecessor,
            control_path=opened.control_path,
        )
        return asyncio.run(relay.serve())
    except (
        TokenFileError,
        KernelRequired,
        WorkersFailed,
        HandOverFailed,
        ControlSocketError,
        StateFileInUse,
        AdminListenError,
        AdminTokenError,
    ) as error:
        raise StartFailed(str(error)) from None
    finally:
        if opened.predecessor is not None:
            opened.predecessor.close()
        for listener in opened.listeners:
            listener.close()


class Relay:
    """One running relay."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        certificate: ServerCertificate,
        access: Access | None = None,
        *,
        chosen: Chosen | None = None,
        predecessor: Predecessor | None = None,
        control_path: FilePath | None = None,
    ) -> None:
        """`listeners` stay the caller's, who closes them.

        :param chosen: where the settings are from; None: they cannot be reloaded.
        :param predecessor: whose work this relay goes on with.
        :param control_path: where the control socket is to be; None: nowhere.
        """
        self._config = config
        self._listeners = listeners
        self._certificate = certificate
        self._access = access
        self._chosen = chosen
        self._predecessor = predecessor
        self._control_path = control_path
        self._manager = ServiceManager(os.environ)
        self._terminals = [number for number in range(3) if os.isatty(number)]

    async def serve(self) -> int:
        """Run until SIGTERM or SIGINT, or until the terminal is closed; returns the exit code.

        :raises WorkersFailed: there is nobody to forward.
        :raises KernelRequired: the kernel was to forward, and cannot.
        :raises HandOverFailed: the relay before this one goes on.
        :raises ControlSocketError: the operator named one that cannot be.
        :raises StateFileInUse: the operator named one that is another relay's.
        """
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()
        parts = Parts(
            self._config, self._listeners, self._certificate, self._access, self._predecessor
        )
        operations = Operations(parts, self._chosen, self._manager, end)
        self._handle_signals(loop, parts, operations)
        local: LocalServer | None = None
        try:
            parts.spawn(failed=lambda error: _resolve(end, error))
            if await _done_before(end, parts.begin()):
                local = await self._open_local(parts, operations)
                log_certificate(parts.certificate, datetime.now(UTC))
                self._manager.ready(operations.status_line())
                _announce(self._listeners)
                self._keep_house(loop, parts)
            await end
        finally:
            if not operations.has_left:
                self._manager.stopping("ending")
                logger.info("ending")
                await parts.stop(tell_first=True)
            if local is not None:
                await local.close()
        return 0

    async def _open_local(self, parts: Parts, operations: Operations) -> LocalServer | None:
        if self._control_path is None:
            return None
        hand_over = HandOver(self._listeners, parts.control.leases, operations)
        local = LocalServer(self._control_path, LocalCommands(operations, hand_over).handle)
        try:
            local.open()
        except ControlSocketError as error:
            if self._config.control_socket is not None:
                raise
            logger.warning("%s; so there are no commands and no hand-over", error)
            return None
        await parts.control.join(hand_over)
        return local

    def _handle_signals(
        self, loop: asyncio.AbstractEventLoop, parts: Parts, operations: Operations
    ) -> None:
        def hang_up() -> None:
            """Somebody wants a reload, or the terminal was closed."""
            if any(not os.isatty(number) for number in self._terminals):
                operations.gone()
            elif parts.has_begun:
                with contextlib.suppress(ReloadFailed):  # it was logged
                    operations.reload()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, operations.gone)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup wants it
            loop.add_signal_handler(signal.SIGHUP, hang_up)
        loop.add_signal_handler(signal.SIGUSR1, parts.report)

    def _keep_house(self, loop: asyncio.AbstractEventLoop, parts: Parts) -> None:
        def look_at_certificate() -> None:
            warn_of_end(parts.certificate, datetime.now(UTC))
            loop.call_later(_DAY_S, look_at_certificate)

        def tell_manager(interval_s: float) -> None:
            self._manager.alive()
            loop.call_later(interval_s, tell_manager, interval_s)

        loop.call_later(_DAY_S, look_at_certificate)
        if (interval_s := self._manager.watchdog_interval_s) is not None:
            tell_manager(interval_s)


def _resolve(end: "asyncio.Future[None]", error: Exception | None = None) -> None:
    if end.done():
        return
    if error is None:
        end.set_result(None)
    else:
        end.set_exception(error)


async def _done_before(end: "asyncio.Future[None]", work: Coroutine[object, None, None]) -> bool:
    """Do `work`, unless `end` is resolved first; whether it was done. Raises what `work` does."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        if end.done():
            return False
        task.result()
        return True
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _announce(listeners: Sequence[Listener]) -> None:
    """Say on stdout that the relay is ready; should nobody read it, go on."""
    where = " ".join(str(listener.address) for listener in listeners)
    try:
        sys.stdout.write(f"quicpipe-relay listening on {where}\n")
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
