"""The parts of a running relay: workers, control, kernel, state file; how they begin and end."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from relay.access import Access
from relay.admin.running import RunningRelay
from relay.admin.server import AdminListenError
from relay.admin.service import AdminService
from relay.certificate import ServerCertificate
from relay.config import Config
from relay.control import Control
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.registry import Record
from relay.counters import CounterLog
from relay.crowding import short_while_forwarding
from relay.forwarding.sockets import Listener
from relay.forwarding.supervisor import PoolTimes, WorkerPool, WorkersFailed
from relay.kernel.service import KernelService
from relay.lifecycle.predecessor import Predecessor
from relay.lifecycle.start import merged
from relay.lifecycle.state_file import StateFile, StateFileInUse
from relay.wire.address import Address

logger = logging.getLogger(__name__)

_ADMIN_PATIENCE_S = 5.0
"""Seconds for the relay before this one to let go of the admin listener's port."""

_REPORTS_PER_LEASE = 10
_MAX_REPORT_INTERVAL_S = 1.0
"""Workers tell whom they heard of so often that no lease ends for want of it."""


class Parts:
    """Made within the event loop. What is None has not begun, or is not wanted."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        certificate: ServerCertificate,
        access: Access | None,
        predecessor: Predecessor | None,
    ) -> None:
        """`listeners` stay the caller's. See `relay.service.Relay` for the others."""
        self.config = config
        """As it is in force: a reload replaces it."""
        self.listeners = listeners
        self.addresses = [listener.address for listener in listeners]
        self.certificate = certificate
        self.pool = WorkerPool(listeners, pool_times(config))
        self.state_file: StateFile | None = None
        self.admin: AdminService | None = None
        self._access = access
        self._predecessor = predecessor
        self._control: Control | None = None
        self._kernel: KernelService | None = None
        self._counters: CounterLog | None = None
        self._answers_lost = 0

    @property
    def control(self) -> Control:
        """Once it has begun.

        :raises RuntimeError: it has not.
        """
        if self._control is None:
            raise RuntimeError("the relay does not serve yet")
        return self._control

    @property
    def has_begun(self) -> bool:
        """Whether there is a `control`."""
        return self._control is not None

    @property
    def registrations(self) -> int:
        """How many there are."""
        return self._control.registrations if self._control is not None else 0

    def spawn(self, failed: Callable[[WorkersFailed], None]) -> None:
        """Start the workers; `failed` is called when there is no use in going on."""
        self.pool.spawn(receive=self._receive_http3, heard=self._heard, failed=failed)

    async def begin(self) -> None:
        """Go on with what was there before, and forward.

        :raises WorkersFailed: there is nobody to forward.
        :raises KernelRequired: the kernel was to forward, and cannot.
        :raises HandOverFailed: the relay before this one goes on.
        :raises StateFileInUse: the operator named one that is another relay's.
        :raises AdminListenError: the admin listener cannot be where it is to be.
        :raises AdminTokenError: its token cannot be read.
        """
        control = self._control = Control(
            certificate=self.certificate,
            forwarders=[self.pool],
            send=self._send,
            registry_limits=self.config.limits.registry(self.config.lease_s),
            http3_limits=self.config.limits.http3(),
            forward_limits=self.config.limits.forwarding(),
            access=self._access,
            restored=await self._registrations(),
            listeners=self.addresses,
            is_core_short=short_while_forwarding(
                lambda: self.pool.counters().of(Outcome.FORWARDED),
                over_s=2.0 * pool_times(self.config).report_interval_s,
            ),
        )
        self._counters = CounterLog(self.pool, control, self.listeners, [self])
        self.admin = self._make_admin(control)
        control.meter(self.pool)
        await control.start()
        if self._kernel is not None:
            await self._feed_kernel(self._kernel)
        await self.pool.begin(control.state)
        is_successor = self._predecessor is not None
        if self._predecessor is not None:
            await self._predecessor.release()
            self._predecessor = None
            # Only now has it let go of the kernel's maps and of the state file.
            self._kernel = self._open_kernel()
            await self._feed_kernel(self._kernel)
            self.state_file = self._open_state()
        if self._kernel is not None:
            await self._kernel.attach(heard=self._heard)
        if self.state_file is not None:
            self.state_file.begin(control.leases, control.leases.owners())
            await control.join(self.state_file)
        if self.admin is not None:
            await self._start_admin(self.admin, is_successor=is_successor)

    async def stop(self, *, tell_first: bool) -> None:
        """End everything, within two seconds.

        :param tell_first: tell the clients before the workers end; else after, so that whoever
            comes back at once meets a successor.
        """
        admin = asyncio.ensure_future(self.admin.stop()) if self.admin is not None else None
        if tell_first:
            await self._tell_clients()
        await self.pool.stop()
        if not tell_first:
            await self._tell_clients()
        if self._counters is not None:
            self._counters.log("counters at the end")
        if self._kernel is not None:
            self._kernel.stop()
            self._kernel = None
        if self.state_file is not None:
            await self.state_file.close()
        if admin is not None:
            await admin

    def report(self) -> None:
        """Log all counters."""
        if self._counters is not None:
            self._counters.report_soon()

    def counters(self) -> Mapping[str, int]:
        """What neither the workers nor the control count."""
        kernel = self._kernel.counters() if self._kernel is not None else {}
        failures = self.state_file.failures if self.state_file is not None else 0
        return {**kernel, "answers_lost": self._answers_lost, "state_file_failures": failures}

    async def _tell_clients(self) -> None:
        if self._control is not None:
            await self._control.stop()

    def _make_admin(self, control: Control) -> AdminService | None:
        if not self.config.admin.is_on:
            return None
        source = RunningRelay(
            control,
            self.pool,
            self.listeners,
            kernel=lambda: self._kernel,
            config=lambda: self.config,
            certificate=lambda: self.certificate,
            answers_lost=lambda: self._answers_lost,
        )
        admin = AdminService(
            self.config.admin,
            source,
            clock=asyncio.get_running_loop().time,
            kernel_use=source.kernel_use,
        )
        control.observe(admin.sight.watch)
        self.pool.count_senders(admin.sight.forwarded)
        return admin

    async def _start_admin(self, admin: AdminService, *, is_successor: bool) -> None:
        try:
            await admin.start(_ADMIN_PATIENCE_S if is_successor else 0.0)
        except AdminListenError as error:
            if not is_successor:
                raise
            logger.error("%s; the relay goes on without", error)  # nobody else forwards any more

    async def _registrations(self) -> list[Record]:
        """Those of the relay before, or those that an earlier run left."""
        records: list[Record] = []
        if self._predecessor is not None:
            self._predecessor.follow()
            await self.pool.loaded()
            records = await self._predecessor.take_registrations(self.addresses)
            if self._predecessor.is_complete:
                return records
        else:
            self._kernel = self._open_kernel()
            records = self._kernel.records
        self.state_file = self._open_state()
        return merged(records, self.state_file.restore() if self.state_file is not None else [])

    def _open_kernel(self) -> KernelService:
        return KernelService(self.config.kernel, self.addresses, self.config.lease_s)

    async def _feed_kernel(self, kernel: KernelService) -> None:
        kernel.begin(self.control.leases)
        self.control.meter(kernel)
        for forwarder in kernel.forwarders:
            await self.control.join(forwarder)

    def _open_state(self) -> StateFile | None:
        if self.state_file is not None:
            return self.state_file
        path, is_named = self.config.state_path, self.config.state_file is not None
        if path is None or (self.config.is_anywhere and not is_named):
            return None
        state_file = StateFile(path, self.addresses, self.config.lease_s)
        try:
            state_file.lock()
        except StateFileInUse as error:
            if is_named:
                raise
            logger.info("%s; this one keeps none", error)
            return None
        except OSError as error:
            logger.warning("no state can be kept in %s: %s", path, error.strerror or error)
            return None
        return state_file

    def _receive_http3(self, datagram: bytes, path: Path) -> None:
        if self._control is not None:
            self._control.receive_http3(datagram, path)

    def _heard(self, sources: Iterable[Address]) -> None:
        if self._control is not None:
            self._control.seen(sources)

    def _send(self, datagram: bytes, path: Path) -> None:
        try:
            self.listeners[path.listener].send(datagram, path)
        except OSError:  # QUIC sends again what matters
            self._answers_lost += 1


def pool_times(config: Config) -> PoolTimes:
    """How often the workers report."""
    interval_s = min(_MAX_REPORT_INTERVAL_S, config.lease_s / _REPORTS_PER_LEASE)
    return PoolTimes(report_interval_s=interval_s)
