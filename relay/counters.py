"""All counters of a relay, as one record of the log."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from relay.control import Control
from relay.core.outcome import Outcome
from relay.forwarding.sockets import Listener
from relay.forwarding.supervisor import WorkerPool
from relay.logs import ALWAYS

counters_logger = logging.getLogger(ALWAYS)

_COUNT_PATIENCE_S = 0.5


class Counted(Protocol):
    """What else counts."""

    def counters(self) -> Mapping[str, int]:
        """By name."""


class CounterLog:
    """Gathers and logs them."""

    def __init__(
        self,
        pool: WorkerPool,
        control: Control,
        listeners: Sequence[Listener],
        more: Sequence[Counted],
    ) -> None:
        self._pool = pool
        self._control = control
        self._listeners = listeners
        self._more = more
        self._task: asyncio.Task[None] | None = None

    def report_soon(self) -> None:
        """Log them, up to date; one at a time."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._report())

    def log(self, title: str) -> None:
        """Log them, as they were last reported."""
        counters_logger.info("%s", title, extra={"fields": self.fields()})

    def fields(self) -> dict[str, int]:
        """By name, as they were last reported; without refusals that never occurred."""
        counters = self._pool.counters()
        http3 = self._control.http3_counters
        refused = self._control.refused_counters()
        rendezvous = self._control.rendezvous_counters()
        fields: dict[str, int] = {
            **{outcome.value: counters.of(outcome) for outcome in Outcome},
            "bytes_forwarded": counters.bytes_forwarded,
            "receive_queue_full": sum(listener.lost() for listener in self._listeners),
            "registrations": self._control.registrations,
            "connection_ids": self._control.connection_ids,
            "http3_connections": http3.connections,
            "http3_half_open": http3.half_open,
            "http3_handshakes": http3.handshakes,
            "http3_retried": http3.retried,
            "http3_requests": http3.requests,
            **{f"refused_{why}": count for why, count in refused.items() if count},
            **{f"http3_refused_{reason}": count for reason, count in http3.refused.items()},
            **{f"http3_failed_{reason}": count for reason, count in http3.failures.items()},
            **{f"rendezvous_{name}": count for name, count in rendezvous.items() if count},
        }
        for each in self._more:
            fields.update(each.counters())
        return fields

    async def _report(self) -> None:
        title = "counters"
        try:
            async with asyncio.timeout(_COUNT_PATIENCE_S):
                await self._pool.synchronise()
        except TimeoutError:
            title += ", as last reported"
        self.log(title)
