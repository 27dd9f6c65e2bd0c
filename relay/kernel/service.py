"""The kernel path of a running relay; nothing at all where it is not wanted or cannot be."""

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence

from relay.core.bucket import Charge, Used
from relay.core.leases import LeaseSource
from relay.core.registry import Record
from relay.forwarding.joining import Forwarder
from relay.kernel.config import KernelConfig
from relay.wire.address import Address

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_METER = "kernel"


class KernelRequired(Exception):
    """QUICPIPE_XDP_REQUIRE is set, and the kernel cannot forward; the text says why."""


class KernelService:
    """Keeps a `KernelPath` beside the relay."""

    def __init__(
        self, config: KernelConfig | None, listeners: Sequence[Address], lease_s: float
    ) -> None:
        """Look for what an earlier run left; nothing is attached before `attach`.

        :param listeners: the relay's addresses, with their real ports, by index.
        :raises KernelRequired: see there.
        """
        self._path = None
        self._timer: asyncio.TimerHandle | None = None
        if config is None:
            return
        # Late: whoever does not forward in the kernel need not load any of it.
        from bpf.loader import KernelPathUnavailable
        from relay.kernel.path import KernelPath

        self._require = config.require
        self._unavailable = KernelPathUnavailable
        try:
            self._path = KernelPath.open(config, listeners, lease_s)
        except KernelPathUnavailable as error:
            self._do_without(error)

    @property
    def forwarders(self) -> list[Forwarder]:
        """To be told of changes."""
        return [] if self._path is None else [self._path]

    @property
    def records(self) -> list[Record]:
        """What the registry is to begin with."""
        return [] if self._path is None else self._path.records

    @property
    def meters(self) -> list[Hashable]:
        """The kernel, if it forwards, fills buckets of its own."""
        return [] if self._path is None else [_METER]

    def take_used(self) -> list[tuple[Hashable, list[Used]]]:
        """What was taken from them since this was asked last."""
        return [] if self._path is None else [(_METER, self._path.take_used())]

    def set_rates(self, meter: Hashable, charges: Sequence[Charge]) -> None:
        """Fill them so from now on."""
        if self._path is not None and meter == _METER:
            self._path.set_rates(charges)

    def begin(self, leases: LeaseSource) -> None:
        """Follow changes from now on, those of the restored registrations first."""
        if self._path is not None:
            self._path.begin(leases)

    async def attach(self, heard: Callable[[Iterable[Address]], None]) -> None:
        """Let the kernel forward.

        :param heard: takes registered sources that the kernel heard from, once a second.
        :raises KernelRequired: see there.
        """
        if self._path is None:
            return
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        try:
            await self._path.attach()
        except self._unavailable as error:
            self._path = None
            self._do_without(error)
        else:
            self._tick()

    def counters(self) -> dict[str, int]:
        """What the kernel counted, since its maps were made: names begin with `kernel_`."""
        if self._path is None:
            return {}
        return {f"kernel_{name}": count for name, count in self._path.outcomes().items()}

    def used(self) -> tuple[list[int], list[int]] | None:
        """Packets and bytes forwarded for each owner, by number; None: not by the kernel."""
        return None if self._path is None else self._path.used()

    def forwards_for(self, owner: int) -> bool:
        """Whether it does, for the most part."""
        return self._path is not None and self._path.forwards_for(owner)

    def stop(self) -> None:
        """The relay ends; the kernel goes on until the leases end, or the next relay takes over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._path is not None:
            self._path.close(asyncio.get_running_loop().time())
            self._path = None

    def _tick(self) -> None:
        if self._path is not None:
            self._heard(self._path.tick(self._loop.time()))
            self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _do_without(self, error: Exception) -> None:
        if self._require:
            raise KernelRequired(f"{error} (and QUICPIPE_XDP_REQUIRE is set)")
        logger.warning("the kernel does not forward, the workers do: %s", error)
