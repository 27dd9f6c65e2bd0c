"""The whole relay on the virtual network: its real control, with the reference for a forwarder.

Registry, application, hypercorn adapter and QUIC are the relay's own. Only its processes and its
sockets are missing: `relay.core.table.ForwardingTable` decides, as every forwarder must.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from relay.certificate import ServerCertificate
from relay.control import Control
from relay.core.limits import RateLimits
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.registry import RegistryLimits
from relay.core.table import Change, ForwardingTable
from relay.wire.address import Address

from .virtual_network import Host, Packet, VirtualSocket

PORT = 4433
REPORT_INTERVAL_S = 1.0
"""Forwarders tell control so often whom they heard of."""

_WILDCARDS = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}

Tamper = Callable[[bytes, Address, Path], Iterable[tuple[bytes, Path]]]
"""Given a datagram that is to be forwarded, its source, and the right way: what is sent instead."""


class VirtualRelay:
    """A relay on a host of a virtual network: for each port a listener of either family."""

    def __init__(
        self,
        host: Host,
        certificate: ServerCertificate,
        *,
        registry_limits: RegistryLimits | None = None,
        rate_limits: RateLimits | None = None,
        ports: Sequence[int] = (PORT,),
    ) -> None:
        """Registration rates are unlimited unless `rate_limits` says otherwise."""
        self.listeners = [
            (family, port) for port in ports for family in _WILDCARDS if host.address(family)
        ]
        self.host = host
        self.certificate = certificate
        self.outcomes: Counter[Outcome] = Counter()
        self.tamper: Tamper | None = None
        self._registry_limits = registry_limits
        self._rate_limits = rate_limits or RateLimits(per_minute=1_000_000, burst=1_000_000)
        self._sockets: dict[int, VirtualSocket] = {}
        self._running: _Running | None = None
        self._burial: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the sockets, and serve: with no registration."""
        running = _Running(self)
        await running.control.start()
        self._running = running
        for listener, (family, port) in enumerate(self.listeners):
            opened = self.host.open_socket(family, port)
            opened.start_packets(partial(self._receive, listener))
            self._sockets[listener] = opened
        self._report_soon()

    async def stop(self) -> None:
        """End politely: clients are told. A second call does nothing."""
        if self._running is not None:
            await self._running.control.stop()
            self.kill()

    def kill(self) -> None:
        """End as a killed process does: at once, all state gone, nobody told."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()
        running, self._running = self._running, None
        if running is not None:
            running.is_dead = True
            # Its tasks and timers must not outlive it in this loop; what they say never leaves.
            self._burial = asyncio.get_running_loop().create_task(running.control.stop())

    @property
    def control(self) -> Control:
        """The present one.

        :raises RuntimeError: the relay does not run.
        """
        if self._running is None:
            raise RuntimeError("the relay does not run")
        return self._running.control

    def send(self, datagram: bytes, path: Path) -> None:
        """Send from the very address at which the peer registered."""
        opened = self._sockets.get(path.listener)
        if opened is not None:
            opened.send_from(path.local, [datagram], path.remote)

    def _receive(self, listener: int, packets: list[Packet]) -> None:
        running = self._running
        if running is None:
            return
        for packet in packets:
            verdict = running.table.decide(packet.datagram, packet.source)
            self.outcomes[verdict.outcome] += 1
            if running.table.is_source(packet.source):
                running.heard.add(packet.source)
            if verdict.outcome is Outcome.HTTP3:
                path = Path(packet.source, listener, packet.destination.host)
                running.control.receive_http3(packet.datagram, path)
            elif verdict.path is not None:
                self._forward(packet, verdict.path)

    def _forward(self, packet: Packet, path: Path) -> None:
        if self.tamper is None:
            self.send(packet.datagram, path)
            return
        for datagram, instead in self.tamper(packet.datagram, packet.source, path):
            self.send(datagram, instead)

    def _report_soon(self) -> None:
        asyncio.get_running_loop().call_later(REPORT_INTERVAL_S, self._report, self._running)

    def _report(self, running: "_Running | None") -> None:
        if running is None or running is not self._running:
            return
        heard, running.heard = running.heard, set()
        running.control.seen(heard)
        self._report_soon()


class _Running:
    """What dies with the process. It is the `Forwarder` of its control."""

    def __init__(self, relay: VirtualRelay) -> None:
        self.is_dead = False
        self.table = ForwardingTable()
        self.heard: set[Address] = set()
        self._relay = relay
        self.control = Control(
            certificate=relay.certificate,
            forwarders=[self],
            send=self._send,
            registry_limits=relay._registry_limits,
            rate_limits=relay._rate_limits,
            listeners=[Address(_WILDCARDS[family], port) for family, port in relay.listeners],
        )

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the registry."""
        for change in changes:
            self.table.apply(change)

    def _send(self, datagram: bytes, path: Path) -> None:
        if not self.is_dead:
            self._relay.send(datagram, path)
