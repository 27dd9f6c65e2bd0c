"""Has the forwarders fill their buckets as `relay.core.charging` says, some ten times a second."""

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from relay.core.admission import Grant
from relay.core.bucket import Charge, Used
from relay.core.charging import Charging, ForwardLimits, Payer
from relay.core.registry import Registry
from relay.core.table import Change

logger = logging.getLogger(__name__)

INTERVAL_S = 0.1
_OWNERS_PER_TURN = 500


class Metered(Protocol):
    """Forwarders that have buckets: the workers, or the kernel."""

    @property
    def meters(self) -> Sequence[Hashable]:
        """Names of those that fill buckets of their own."""

    def take_used(self) -> Iterable[tuple[Hashable, Sequence[Used]]]:
        """What they have reported since they were asked last."""

    def set_rates(self, meter: Hashable, charges: Sequence[Charge]) -> None:
        """Tell one of them how fast to fill its buckets."""


class Metering:
    """For one event loop. It is the state that forwarders are filled with (`StateSource`), too."""

    def __init__(
        self,
        registry: Registry,
        limits: ForwardLimits | None,
        tell: Callable[[Sequence[Change]], None],
    ) -> None:
        """:param tell: passes changes on to all forwarders."""
        self._registry = registry
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._charging = Charging(limits or ForwardLimits(), self._payer_of)
        self._metered: list[Metered] = []
        self._meters: list[Hashable] = []
        self._timer: asyncio.TimerHandle | None = None
        self._revisiting: asyncio.Task[None] | None = None

    def add(self, metered: Metered) -> None:
        """These forward, too."""
        self._metered.append(metered)
        self._look_at_meters()

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._revisiting is not None:
            self._revisiting.cancel()

    def follow(self, changes: Sequence[Change]) -> list[Change]:
        """The registry's changes, with what they mean for who pays."""
        followed = self._charging.follow(changes)
        if self._charging.is_active and self._timer is None:
            self._timer = self._loop.call_later(INTERVAL_S, self._tick)
        return followed

    def change_limits(self, limits: ForwardLimits) -> None:
        """From now on these: the forwarders hear of it owner by owner."""
        self._charging.change_limits(limits)
        if self._revisiting is not None:
            self._revisiting.cancel()
        self._revisiting = self._loop.create_task(self._revisit())

    def is_used_up(self, grant: Grant) -> bool:
        """Whether all that this token permits was forwarded already."""
        return self._charging.is_used_up(grant)

    # `StateSource`

    def owners(self) -> list[int]:
        """All there are."""
        return self._registry.owners()

    def describe(self, owner: int) -> list[Change]:
        """All that a forwarder must know of one; empty if he is gone."""
        described = self._registry.describe(owner)
        return [*described, *self._charging.describe(owner)] if described else []

    def _payer_of(self, owner: int) -> Payer | None:
        registration = self._registry.by_owner.get(owner)
        if registration is None:
            return None
        return Payer(registration.source, registration.grant)

    async def _revisit(self) -> None:
        owners = iter(self._registry.owners())
        while some := list(islice(owners, _OWNERS_PER_TURN)):
            changes = self._charging.revisit(some)
            if changes:
                self._tell(changes)
            await asyncio.sleep(0)
        self.follow(())  # the timer may be needed now

    def _look_at_meters(self) -> None:
        meters = [meter for metered in self._metered for meter in metered.meters]
        if meters != self._meters:
            self._meters = meters
            self._charging.set_meters(meters)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._share()
        except Exception:
            logger.exception("sharing the rates failed")  # ten times a second, if it goes on
        if self._charging.is_active:
            self._timer = self._loop.call_later(INTERVAL_S, self._tick)

    def _share(self) -> None:
        now = self._loop.time()
        self._look_at_meters()
        for metered in self._metered:
            for meter, used in metered.take_used():
                self._charging.used(meter, used, now)
        told = self._charging.share(now)
        for metered in self._metered:
            for meter in metered.meters:
                if meter in told:
                    metered.set_rates(meter, told[meter])
