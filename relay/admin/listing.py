"""Registrations as the operator sees them: filtered, ordered, and as JSON."""

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from relay.admin.source import Source
from relay.core.registration import Registration
from relay.core.traffic import Count, Traffic, Use

MAX_LIMIT = 1_000
"""Registrations in one answer, 700 bytes each."""
DEFAULT_LIMIT = 100

_PER_TURN = 500
"""Registrations looked at in one turn of the event loop: a few milliseconds."""

_NOTHING = Use(Count(0, 0), Count(0, 0), 0.0, 0.0, 0.0, None)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which registrations, in which order; None: any."""

    network: Network | None = None
    port: int | None = None
    subject: str | None = None
    token_id: str | None = None
    in_kernel: bool | None = None
    held: bool | None = None
    order: str | None = None
    """By what, most first: see `Traffic.busiest`. None: by number."""
    start: int = 0
    """Where to begin: a number, or with an order a place in it."""
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class Page:
    """Some registrations."""

    registrations: list[Json]
    next: int | None
    """What `Wanted.start` must be for those that follow; None: there are no more."""


class Listing:
    """Looks at all registrations without keeping the relay from its work."""

    def __init__(
        self,
        source: Source,
        traffic: Traffic,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """:param clock: the registry's, in seconds.
        :param wall_clock: seconds since 1970.
        """
        self._source = source
        self._traffic = traffic
        self._clock = clock
        self._wall_clock = wall_clock

    async def page(self, wanted: Wanted) -> Page:
        """Some registrations; what changes meanwhile may be missed or be there twice."""
        shown: list[Json] = []
        by_owner = self._source.registry.by_owner
        for looked, (place, owner) in enumerate(self._candidates(wanted), 1):
            registration = by_owner.get(owner)
            if registration is not None and self._fits(wanted, registration):
                if len(shown) == wanted.limit:
                    return Page(shown, place)
                shown.append(self.describe(registration))
            if looked % _PER_TURN == 0:
                await asyncio.sleep(0)
        return Page(shown, None)

    def one(self, name: str) -> Json | None:
        """Everything about one registration; None: there is none."""
        registration = self._source.registry.find(name)
        if registration is None:
            return None
        ids = [each.hex() for each in registration.connection_ids]
        return {**self.describe(registration), "connection_id_list": ids}

    def describe(self, registration: Registration) -> Json:
        """One registration. docs: relay/admin/openapi.py."""
        owner, path = registration.owner, registration.path
        use = self._traffic.use(owner) or _NOTHING
        now, wall = self._clock(), self._wall_clock()
        seen = self._seen(registration, use)
        due = registration.due
        total = use.total
        return {
            "id": registration.id_hash,
            "address": str(path.remote),
            "listener": self._source.listener(path.listener),
            "connection_ids": registration.count,
            "held": registration.holder is not None,
            "since": _moment(use.began, now, wall),
            "last_seen": _moment(seen, now, wall),
            "expires": None if due == float("inf") else _moment(due, now, wall),
            "subject": registration.subject,
            "token_id": registration.token_id,
            "forwarded_by": "kernel" if self._source.in_kernel(owner) else "userspace",
            "packets": total.packets,
            "bytes": total.bytes,
            "packets_per_s": round(use.packets_per_s, 1),
            "bytes_per_s": round(use.bytes_per_s, 1),
            "last_forwarded": (
                None if use.forwarded_at is None else _moment(use.forwarded_at, now, wall)
            ),
            "kernel": use.kernel._asdict(),
            "userspace": use.userspace._asdict(),
        }

    def _seen(self, registration: Registration, use: Use) -> float:
        """Whatever comes from it begins the lease anew."""
        heard = registration.lease_end - self._source.lease_s
        return min(self._clock(), max(use.began, heard, use.forwarded_at or use.began))

    def _candidates(self, wanted: Wanted) -> Iterator[tuple[int, int]]:
        """Places from `start` on, and the owners there."""
        by_owner = self._source.registry.by_owner
        if wanted.order is None:
            return ((owner, owner) for owner in sorted(by_owner) if owner >= wanted.start)
        ordered = self._traffic.busiest(len(by_owner), by=wanted.order)
        return islice(enumerate(ordered), wanted.start, None)

    def _fits(self, wanted: Wanted, one: Registration) -> bool:
        remote = one.path.remote
        return (
            (wanted.network is None or ipaddress.ip_address(remote.host) in wanted.network)
            and wanted.port in (None, remote.port)
            and wanted.subject in (None, one.subject)
            and wanted.token_id in (None, one.token_id)
            and wanted.held in (None, one.holder is not None)
            and (wanted.in_kernel is None or self._source.in_kernel(one.owner) == wanted.in_kernel)
        )


def _moment(at: float, now: float, wall: float) -> float:
    """Seconds since 1970."""
    return round(wall + at - now, 3)
