"""The kernel path from start to stop: maps, program and interfaces, and what is done meanwhile."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bpf import layout, loader, netlink
from bpf.loader import Attachment, KernelPathUnavailable, WantedMode
from bpf.pins import KernelMaps, Pins, PinsInUse, PinSizes, ensure_bpffs
from bpf.syscall import sum_over_cpus
from relay.core.bucket import Charge, Used
from relay.core.leases import LeaseSource
from relay.core.registry import Record
from relay.core.table import Change
from relay.kernel.config import KernelConfig
from relay.kernel.forwarder import KernelForwarder, Rate, nanoseconds
from relay.kernel.restore import read_records
from relay.wire.address import Address

logger = logging.getLogger(__name__)

HOP_MAX_AGE_S = 30.0
"""How long a peer's last frame shows the way to it: two keepalives of its HTTP/3 connection."""

_RENEWALS_PER_LEASE = 10
_LOOK_AT_INTERFACES_S = 5.0
_FIB_BITS = {"ipv4": 1, "ipv6": 2}


class KernelPath:
    """Forwarding in the kernel. A `relay.control.Forwarder`, once `begin` was called."""

    def __init__(
        self,
        config: KernelConfig,
        listeners: Sequence[Address],
        lease_s: float,
        maps: KernelMaps,
        pins: Pins,
    ) -> None:
        """Use `open`."""
        self._config = config
        self._listeners = listeners
        self._lease_s = lease_s
        self.maps = maps
        self._pins = pins
        self._forwarder: KernelForwarder | None = None
        self._attachments: list[Attachment] = []
        self._program: int | None = None
        self._next_renewal = 0.0
        self._next_look = 0.0
        self.records: list[Record] = []
        """Registrations of an earlier run; the new registry is to begin with them."""

    @classmethod
    def open(
        cls, config: KernelConfig, listeners: Sequence[Address], lease_s: float
    ) -> "KernelPath":
        """Find the maps of an earlier run, or make new ones. Nothing is attached yet.

        :param listeners: the relay's addresses, with their real ports, by index.
        :raises KernelPathUnavailable: and says why.
        """
        if sys.platform != "linux":
            raise KernelPathUnavailable("XDP exists on Linux only")
        ports = {listener.port for listener in listeners}
        if len(ports) > layout.LISTENING_PORTS:
            raise KernelPathUnavailable(
                f"the relay listens on {len(ports)} ports; the kernel path serves at most "
                f"{layout.LISTENING_PORTS}"
            )
        sizes = PinSizes(config.connection_ids, config.owners, 2 * config.owners + 1)
        pins = Pins(config.folder)
        try:
            ensure_bpffs(pins.folder)
            pins.lock()
            maps, records = _open_maps(pins, sizes, listeners, lease_s)
        except PinsInUse as error:
            raise KernelPathUnavailable(str(error)) from None
        except OSError as error:
            pins.unlock()
            raise KernelPathUnavailable(_explain(error, pins.folder)) from None
        path = cls(config, listeners, lease_s, maps, pins)
        path.records = records
        return path

    def begin(self, leases: LeaseSource) -> None:
        """From now on follow changes; those of the restored registrations come first."""
        rate = Rate(self._config.packets_per_s, self._config.bytes_per_s)
        self._forwarder = KernelForwarder(self.maps, self._listeners, leases, rate)

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the registry."""
        if self._forwarder is not None:
            self._forwarder.apply(changes)

    async def attach(self) -> None:
        """Build the program and attach it, in place of an earlier one. Then the kernel forwards.

        :raises KernelPathUnavailable: and then neither this nor an earlier program is attached.
        """
        if self._forwarder is None:
            raise RuntimeError("begin() comes before attach()")
        try:
            self._forwarder.forget_unknown()
            self._configure()
            self._program = await asyncio.to_thread(loader.build, self._pins, self.maps.sizes)
            self._attachments = loader.attach_all(
                self._program,
                self._config.interfaces,
                WantedMode(self._config.mode),
                self._pins,
                self.maps,
            )
            self._pins.remove_left_overs()
        except OSError as error:
            self.abandon()
            raise KernelPathUnavailable(_explain(error, self._pins.folder)) from None
        except KernelPathUnavailable:
            self.abandon()
            raise
        for each in self._attachments:
            logger.info("%s: the kernel forwards, in %s mode", each.name, each.mode.name.lower())

    def tick(self, now: float) -> list[Address]:
        """To be called once a second; returns the registered sources that the kernel heard from."""
        if self._forwarder is None:
            return []
        try:
            self._forwarder.put_back_evicted()
            if now >= self._next_renewal:
                self._next_renewal = now + self._lease_s / _RENEWALS_PER_LEASE
                self._forwarder.renew_leases(now)
            if now >= self._next_look:
                self._next_look = now + _LOOK_AT_INTERFACES_S
                self._look_at_interfaces()
        except OSError as error:
            logger.warning("the kernel path: %s", error)
        return self._forwarder.seen_sources()

    def take_used(self) -> list[Used]:
        """What was taken from the senders' buckets since this was asked last."""
        return [] if self._forwarder is None else self._forwarder.buckets.take_used()

    def set_rates(self, charges: Sequence[Charge]) -> None:
        """Fill these buckets so from now on."""
        if self._forwarder is not None:
            self._forwarder.buckets.set_rates(charges)

    def outcomes(self) -> dict[str, int]:
        """What the kernel counted, by its own reasons."""
        return read_outcomes(self.maps)

    def used(self) -> tuple[list[int], list[int]]:
        """Packets and bytes of UDP payload forwarded for each owner, as sender, by its number."""
        return self.maps.words("packets"), self.maps.words("bytes")

    def forwards_for(self, owner: int) -> bool:
        """Whether the kernel forwards what comes from and goes to this owner."""
        forwarder = self._forwarder
        return bool(self._attachments) and forwarder is not None and forwarder.knows(owner)

    def close(self, now: float) -> None:
        """The relay ends. The kernel goes on until the leases end, or the next relay takes over."""
        if self._forwarder is not None:
            self._forwarder.renew_leases(now)
        self._release()

    def abandon(self) -> None:
        """Let the kernel forward nothing any more, and leave nothing behind."""
        own = loader.pinned_program_id(self._pins)
        for name in self._config.interfaces:
            loader.detach_own(name, own)
        self._release()
        self._pins.remove()

    def _release(self) -> None:
        if self._program is not None:
            os.close(self._program)
            self._program = None
        self._forwarder = None
        self.maps.close()
        self._pins.unlock()

    def _configure(self) -> None:
        ports = sorted({listener.port for listener in self._listeners})
        config = layout.Config(max_payload=self._config.max_payload, fib=self._fib_bits())
        config.hop_max_age_ns = nanoseconds(HOP_MAX_AGE_S)
        for place, port in enumerate(config.ports):
            port[:] = layout.pack_port(ports[place % len(ports)])
        if self.maps.relay_config.get(bytes(4)) != bytes(config):
            self.maps.relay_config.put(bytes(4), bytes(config))

    def _fib_bits(self) -> int:
        """In which families some interface forwards. The kernel's own lookup has the last word."""
        return sum(
            bit
            for family, bit in _FIB_BITS.items()
            if any(_forwards(family, name) for name in (*self._config.interfaces, "all"))
        )

    def _look_at_interfaces(self) -> None:
        """Follow changes of MTU, MAC address and forwarding; notice an interface that is gone."""
        self._configure()
        for each in list(self._attachments):
            try:
                link = netlink.interface_by_index(each.index)
            except OSError:
                link = None
            if link is None or not loader.is_relay_program(link.program_id):
                logger.warning(
                    "%s: %s; its packets go through the workers",
                    each.name,
                    "the interface is gone" if link is None else "the XDP program was detached",
                )
                self._attachments.remove(each)
                loader.delist(self.maps, each.index)
            else:
                loader.enlist(self.maps, link, each.mode)


def read_outcomes(maps: KernelMaps) -> dict[str, int]:
    """All counters by name, summed over the CPUs."""
    counts = {}
    for outcome in layout.KernelOutcome:
        values = maps.outcomes.get(outcome.to_bytes(4, sys.byteorder))
        counts[outcome.label] = sum_over_cpus(values) if values else 0
    return counts


def _open_maps(
    pins: Pins, sizes: PinSizes, listeners: Sequence[Address], lease_s: float
) -> tuple[KernelMaps, list[Record]]:
    maps = KernelMaps.open(pins)
    records = read_records(maps, listeners, lease_s) if maps is not None else []
    if maps is not None and maps.sizes == sizes:
        return maps, records
    if maps is not None:
        maps.close()
    # Other sizes, or a start that was broken off: the registrations go over to new maps.
    pins.remove_maps()
    return KernelMaps.create(pins, sizes), records


def _forwards(family: str, name: str) -> bool:
    try:
        text = Path(f"/proc/sys/net/{family}/conf/{name}/forwarding").read_text()
    except OSError:  # no such family on this machine
        return False
    return text.strip() != "0"


def _explain(error: OSError, folder: Path) -> str:
    if isinstance(error, PermissionError):
        return (
            "no right to load BPF programs; run the relay as root, or give it CAP_BPF, "
            "CAP_NET_ADMIN, CAP_PERFMON and write access to " + str(folder.parent)
        )
    return f"{error.strerror or error} ({error.filename or folder})"
