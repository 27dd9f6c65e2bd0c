"""What is seen of a running relay: counters once a second, events as they happen."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from relay.admin.listing import Listing
from relay.admin.source import Source, Totals
from relay.core.events import EventHub
from relay.core.history import History, Step
from relay.core.traffic import Column, Traffic
from relay.core.watch import Watch
from relay.forwarding.messages import Sent

_STALL_TICKS = 60

KernelUse = Callable[[], tuple[Column, Column] | None]
"""Gives packets and bytes that the kernel has counted of each owner, by number."""


class Sight:
    """Everything that the admin listener shows, without its HTTP."""

    def __init__(
        self,
        source: Source,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        kernel_use: KernelUse = lambda: None,
    ) -> None:
        """:param clock: the registry's, in seconds.
        :param wall_clock: seconds since 1970.
        """
        self.source = source
        self.hub = EventHub()
        self.traffic = Traffic()
        self.history = History()
        self.listing = Listing(source, self.traffic, clock, wall_clock)
        self.started = wall_clock()
        self._stalls: deque[float] = deque(maxlen=_STALL_TICKS)
        self._clock = clock
        self._wall_clock = wall_clock
        self._kernel_use = kernel_use
        self.watch = Watch(source.registry.by_owner, self.hub, self.traffic, clock, wall_clock)

    @property
    def longest_stall_s(self) -> float:
        """For which the event loop was busy with something, at the most, in the last minute."""
        return max(self._stalls, default=0.0)

    def tick(self, late_s: float = 0.0) -> Step | None:
        """To be called once a second; see `History.add`.

        :param late_s: by how much this call is late.
        """
        now = self._clock()
        self._stalls.append(late_s)
        used = self._kernel_use()
        if used is not None:
            self.traffic.set_kernel(*used)
        self.watch.idle(self.traffic.sample(now))
        totals = self.totals()
        return self.history.add(
            now,
            self._wall_clock(),
            packets=totals.packets,
            bytes=totals.bytes,
            drops=totals.drops,
            registrations=totals.registrations,
        )

    def forwarded(self, sent: Iterable[Sent]) -> None:
        """The workers have forwarded so much more."""
        for each in sent:
            self.watch.forwarded(*each)

    def totals(self) -> Totals:
        """All counters."""
        return replace(self.source.totals(), kernel_bytes=self.traffic.kernel_bytes)

    def overview(self) -> dict[str, object]:
        """The state at this moment, for a page or a terminal."""
        totals = self.totals()
        last = self.history.steps[-1] if self.history.steps else None
        http3 = totals.http3
        return {
            "at": round(self._wall_clock(), 3),
            "started": round(self.started, 3),
            "status": "draining" if totals.is_draining else "ok",
            "registrations": totals.registrations,
            "connection_ids": totals.connection_ids,
            "limits": dict(self.source.limits()),
            "packets": totals.packets,
            "bytes": totals.bytes,
            "packets_per_s": round(last.packets_per_s, 1) if last else 0.0,
            "bytes_per_s": round(last.bytes_per_s, 1) if last else 0.0,
            "kernel_packets": totals.kernel.get("forwarded", 0) if totals.kernel else None,
            "drops": _some(totals.drops),
            "drops_per_s": {
                reason: round(rate, 1) for reason, rate in self.history.drop_rates.items() if rate
            },
            "refused": _some(totals.refused),
            "http3": {
                "connections": http3.connections,
                "half_open": http3.half_open,
                "handshakes": http3.handshakes,
                "requests": http3.requests,
                "retried": http3.retried,
            },
            "events": {kind.value: count for kind, count in self.hub.counts.items()},
        }


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    """Those that are not nought, the greatest first."""
    return dict(sorted(((k, v) for k, v in counts.items() if v), key=lambda each: -each[1]))
