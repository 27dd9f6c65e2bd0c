"""A running relay as the admin listener sees it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from relay.admin.source import Totals
from relay.certificate import ServerCertificate
from relay.config import Config
from relay.control import Control
from relay.core.outcome import Outcome
from relay.core.registry import Registry
from relay.core.traffic import Column
from relay.forwarding.sockets import Listener
from relay.forwarding.supervisor import WorkerPool
from relay.kernel.service import KernelService

_KERNEL_PREFIX = "kernel_"


class RunningRelay:
    """A `relay.admin.source.Source`."""

    def __init__(
        self,
        control: Control,
        pool: WorkerPool,
        listeners: Sequence[Listener],
        *,
        kernel: Callable[[], KernelService | None],
        config: Callable[[], Config],
        certificate: Callable[[], ServerCertificate],
        answers_lost: Callable[[], int],
    ) -> None:
        """What may be another later is asked for each time.

        :param config: the settings in force.
        """
        self._control = control
        self._pool = pool
        self._listeners = listeners
        self._kernel = kernel
        self._config = config
        self._certificate = certificate
        self._answers_lost = answers_lost

    def totals(self) -> Totals:
        """See `Source`."""
        counters, control, kernel = self._pool.counters(), self._control, self._kernel()
        seen = kernel.counters() if kernel is not None else {}
        return Totals(
            outcomes={outcome.value: counters.of(outcome) for outcome in Outcome},
            bytes_forwarded=counters.bytes_forwarded,
            http3=control.http3_counters,
            registrations=control.registrations,
            connection_ids=control.connection_ids,
            kernel={name.removeprefix(_KERNEL_PREFIX): count for name, count in seen.items()},
            receive_queue_full=sum(listener.lost() for listener in self._listeners),
            answers_lost=self._answers_lost(),
            refused=control.refused_counters(),
            rendezvous=control.rendezvous_counters(),
            is_draining=control.is_draining,
            workers=len(self._pool.pids),
            certificate_until=self._certificate().not_after.timestamp(),
        )

    def limits(self) -> Mapping[str, int]:
        """See `Source`."""
        limits = self._config().limits
        return {
            "registrations": limits.registrations,
            "connection_ids": limits.connection_ids,
            "http3_connections": limits.connections,
            "http3_half_open": limits.half_open,
            "bytes_per_s": limits.bytes_per_s,
            "packets_per_s": limits.packets_per_s,
        }

    @property
    def lease_s(self) -> float:
        """See `Source`."""
        return self._config().lease_s

    @property
    def registry(self) -> Registry:
        """See `Source`."""
        return self._control.registry

    def listener(self, index: int) -> str:
        """See `Source`."""
        return str(self._listeners[index].address)

    def in_kernel(self, owner: int) -> bool:
        """See `Source`."""
        kernel = self._kernel()
        return kernel is not None and kernel.forwards_for(owner)

    def end(self, name: str) -> bool:
        """See `Source`."""
        return self._control.end(name)

    def revoke(self, token_id: str) -> int | None:
        """See `Source`."""
        return self._control.add_revoked(token_id) if self._config().has_secret else None

    def kernel_use(self) -> tuple[Column, Column] | None:
        """For `Sight`."""
        kernel = self._kernel()
        used = kernel.used() if kernel is not None else None
        if used is None:
            return None
        packets, sizes = used
        return np.array(packets, np.uint64), np.array(sizes, np.uint64)
