"""A cell, made real: the world, the relay, two homes with a peer each; and one run there."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .cells import Cell, Place, Together
from .home import Home, PeerFailed, ask_both
from .nats import Nat
from .port_mapping import MiniUpnpd
from .relay import NAME, Relay
from .world import Gateway, World

PROOF_BYTES = 60_000
"""Sent at the end of a run: the relay's wire shows which way they went."""

_FRAMES_BESIDE_IT = 20
"""Keepalives that the relay's wire may carry meanwhile."""

SILENCE_S = 8.0


@dataclass(slots=True)
class Run:
    """What one run has shown. Times in seconds."""

    error: str = ""
    """A line of one of the peers, or what the laboratory saw that should not be."""
    direct: bool = False
    first_byte_s: float | None = None
    """From the invite's arrival at the accepter until the dialer's first byte is there."""
    direct_s: float | None = None
    """From the opening of the pipe, at each end, until both ends are on the direct path."""
    probes: int = 0
    """Sent by both ends together."""
    probes_in_silence: int = 0
    """Sent in `SILENCE_S` after the search was over."""
    lines: list[str] = field(default_factory=list)
    """What the dialer's pipe says of its paths."""


class Scene:
    """A context manager."""

    def __init__(self, cell: Cell) -> None:
        """Build it."""
        self._cell = cell
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as building:
            self.folder = Path(building.enter_context(tempfile.TemporaryDirectory()))
            self.world = building.enter_context(World())
            self.relay = Relay(self.world, self.folder)
            building.callback(self.relay.close)
            self.gateways = self._make_gateways(building)
            devices = [self.world.device(each) for each in self.gateways]
            self.dialer, self.accepter = (
                Home(device, self._hosts(place), self.folder)
                for device, place in zip(devices, (cell.dialer, cell.accepter), strict=True)
            )
            building.callback(self.dialer.close)
            building.callback(self.accepter.close)
            self._closing = building.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def run(self) -> Run:
        """Make a pipe, wait for the direct path, send something, and close."""
        run = Run()
        try:
            self.open(run)
            self._watch(run)
            self.prove(run)
        except (PeerFailed, TimeoutError) as error:
            run.error = str(error)
        with contextlib.suppress(PeerFailed, TimeoutError):
            self.close_pipe()
        return run

    def open(self, run: Run) -> None:
        """Dial and accept."""
        invite = self.dialer.dial(NAME, self.relay.fingerprint)
        opening = self.dialer.start("open")
        answer = self.accepter.answer(self.accepter.start_accept(invite))
        run.first_byte_s = answer["first_byte"] - answer["asked"]
        self.dialer.answer(opening)

    def close_pipe(self) -> None:
        """At both ends."""
        ask_both((self.dialer, "close"), (self.accepter, "close"))

    def _watch(self, run: Run) -> None:
        promise = self._cell.promise
        both = (self.dialer, "until_path"), (self.accepter, "until_path")
        reports = ask_both(*both, direct=True, patience_s=promise.patience_s)
        run.direct = all(each["direct"] for each in reports)
        run.probes = _probes(reports)
        run.lines = reports[0]["lines"]
        if run.direct:
            run.direct_s = max(direct_after(each) for each in reports)
        elif promise.silent:
            reports = ask_both(*both, direct=True, patience_s=SILENCE_S)
            run.probes_in_silence = _probes(reports) - run.probes

    def prove(self, run: Run) -> None:
        before = self.world.relay.wire.counts()[0].frames
        self.dialer.ask("send", size=PROOF_BYTES)
        frames = self.world.relay.wire.counts()[0].frames - before
        by_relay = frames > _FRAMES_BESIDE_IT
        report = self.dialer.ask("report")
        if by_relay is run.direct and report["direct"] is run.direct:
            run.error = f"direct: {run.direct}, but {frames} frames by the relay: {report}"

    def _hosts(self, place: Place) -> list[str]:
        relay = self.world.relay
        return [relay.ipv6, relay.ipv4] if place.ipv6 else [relay.ipv4]

    def _make_gateways(self, building: contextlib.ExitStack) -> list[Gateway]:
        cell = self._cell
        if cell.together is Together.HOME:
            return [self._gateway(cell.dialer, None, building)] * 2
        shared = None
        if cell.together is not Together.NOTHING:
            hairpin = cell.together is Together.HAIRPIN
            shared = self.world.gateway(cell.dialer.carrier or Nat.NONE, hairpin=hairpin)
        return [self._gateway(each, shared, building) for each in (cell.dialer, cell.accepter)]

    def _gateway(
        self, place: Place, carrier: Gateway | None, building: contextlib.ExitStack
    ) -> Gateway:
        if carrier is None and place.carrier is not None:
            carrier = self.world.gateway(place.carrier)
        gateway = self.world.gateway(place.nat, behind=carrier, ipv6=place.ipv6, udp=place.udp)
        if place.mapping is not None:
            folder = self.folder / gateway.host.name
            folder.mkdir()
            building.callback(MiniUpnpd(gateway, folder, place.mapping).close)
        return gateway


def direct_after(report: dict[str, Any]) -> float:
    """Seconds from the pipe's opening to the first switch to a direct path, at one end."""
    first = next(at for at, path, _ in report["changes"] if path.startswith("direct"))
    return max(0.0, float(first - report["opened"]))


def _probes(reports: Sequence[dict[str, Any]]) -> int:
    return sum(int(each["probes_sent"]) for each in reports)
