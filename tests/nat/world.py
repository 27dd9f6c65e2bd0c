"""The laboratory: an internet, a relay's host, strangers, and gateways with devices behind them.

Everything is attached to the internet's one router by long wires (`wires.py`), so each side's delay
is a hop of its own. What is inside a home is near. The addresses look public, because programs
treat those reserved for documentation as no real ones; no packet leaves the namespaces.
"""

import contextlib
import itertools
from dataclasses import dataclass, field
from typing import Self

from relay.wire.address import Address
from tests.netns.lab import Host, Lab

from .nats import Nat, Rules, Udp
from .wires import Wire, Wires

HOP_S = 0.02
"""One way through one long wire."""

RELAY_PORTS = (4433, 4434)
"""The relay has two, so that peers can tell how their NAT maps."""


@dataclass(slots=True)
class Site:
    """A host that is attached to the internet, or to a carrier, by a long wire."""

    host: Host
    wire: Wire
    """Direction 0 is out."""
    ipv4: str
    """Its own outside address."""
    ipv6: str
    """Empty: it has none."""


@dataclass(slots=True)
class Gateway(Site):
    """A home's router, or a carrier's."""

    rules: Rules
    inside: str
    """The first three parts of the IPv4 addresses inside."""
    inside6: str
    """The IPv6 prefix inside, such as `2600:1:2:3`; empty: there is none."""
    behind: "Gateway | None" = None
    devices: int = 0

    @property
    def outermost(self) -> "Gateway":
        """Whose outside address the world sees."""
        return self if self.behind is None else self.behind.outermost


@dataclass(slots=True)
class World:
    """Makes all of it; `close` removes it. A context manager."""

    hop_s: float = HOP_S
    lab: Lab = field(default_factory=Lab)
    wires: Wires = field(init=False)
    internet: Host = field(init=False)
    relay: Site = field(init=False)
    _sites: int = 0

    def __post_init__(self) -> None:
        try:
            self.wires = Wires(self.lab)
            self.internet = self.lab.router()
            self.internet.nft(_CUTS)
            self.relay = self.server()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything."""
        if hasattr(self, "wires"):
            self.wires.close()
        self.lab.close()

    def server(self) -> Site:
        """A host directly at the internet, with both families."""
        host = self.lab.host()
        wire, ipv4, ipv6 = self._attach(host, None, ipv6=True)
        return Site(host, wire, ipv4, ipv6)

    def gateway(
        self,
        nat: Nat,
        *,
        behind: Gateway | None = None,
        hairpin: bool = False,
        ipv6: bool = False,
        udp: Udp = Udp.ALL,
        inside: str | None = None,
    ) -> Gateway:
        """A router with this NAT between its inside and the internet, or a carrier's inside.

        :param inside: the first three parts of the addresses inside; None: what homes often have,
            or public ones without a NAT.
        """
        host = self.lab.router()
        wire, ipv4, outside6 = self._attach(host, behind, ipv6)
        number = self._sites
        if inside is None:
            inside = f"60.1.{number}" if nat is Nat.NONE else "192.168.1"
        inside6 = f"2600:1:{number}:1" if ipv6 else ""
        rules = Rules(nat, ipv4, hairpin, udp, RELAY_PORTS)
        host.nft(rules.text())
        for family in ("iptables", "ip6tables"):  # what is bridged inside is no business of those
            with contextlib.suppress(FileNotFoundError):  # a kernel that never does it
                host.sysctl(f"net.bridge.bridge-nf-call-{family}", 0)
        host.ip("link", "add", "lan", "type", "bridge", "forward_delay", "0")
        host.ip("address", "add", f"{inside}.1/24", "dev", "lan")
        if inside6:
            host.ip("address", "add", f"{inside6}::1/64", "dev", "lan")
            self._route(f"{inside6}::/64", outside6)
        host.ip("link", "set", "lan", "up")
        if nat is Nat.NONE:
            self._route(f"{inside}.0/24", ipv4)
        return Gateway(host, wire, ipv4, outside6, rules, inside, inside6, behind)

    def device(self, gateway: Gateway) -> Host:
        """A host inside."""
        device = self.lab.host()
        self.plug(device, "eth0", gateway)
        return device

    def plug(self, device: Host, interface: str, gateway: Gateway) -> str:
        """Give a device an interface at a gateway, and its default route; returns its address."""
        gateway.devices += 1
        port, number = f"port{gateway.devices}", 9 + gateway.devices
        self.lab.wire(device, interface, gateway.host, port)
        gateway.host.ip("link", "set", port, "master", "lan")
        return bring_up(device, interface, gateway, number)

    def cut(self, a: str, b: str) -> None:
        """From now on the internet drops what goes between two addresses (IPv4), either way."""
        self.internet.nft(f"add element ip cuts pairs {{ {a} . {b}, {b} . {a} }}")

    def restore(self, a: str, b: str) -> None:
        """The opposite of `cut`."""
        self.internet.nft(f"delete element ip cuts pairs {{ {a} . {b}, {b} . {a} }}")

    def _attach(self, host: Host, behind: Gateway | None, ipv6: bool) -> tuple[Wire, str, str]:
        """Wire a host to the internet or a carrier; returns its outside addresses."""
        self._sites += 1
        number = self._sites
        upstream = self.internet if behind is None else behind.host
        net = f"60.0.{number}" if behind is None else f"100.64.{number}"
        port = f"site{number}"
        wire = self.wires.wire(host, "wan", upstream, port, self.hop_s)
        nets = [(f"{net}.", 24)]
        if ipv6:
            nets.append((f"2600:0:{number}:1::", 64))
        for (end, interface, ours), (_, _, theirs) in itertools.permutations(
            [(host, "wan", 2), (upstream, port, 1)]
        ):
            end.ip("link", "set", interface, "address", _mac(number, ours))
            for prefix, bits in nets:
                end.ip("address", "add", f"{prefix}{ours}/{bits}", "dev", interface)
                # No first packet waits for an answer about the next hop's link address.
                other = ("lladdr", _mac(number, theirs), "dev", interface, "nud", "permanent")
                end.ip("neighbour", "replace", f"{prefix}{theirs}", *other)
        for prefix, _ in nets:
            host.ip("route", "add", "default", "via", f"{prefix}1")
        return wire, f"{net}.2", f"{nets[1][0]}2" if ipv6 else ""

    def _route(self, net: str, via: str) -> None:
        self.internet.ip("route", "add", net, "via", via)


def bring_up(device: Host, interface: str, gateway: Gateway, number: int) -> str:
    """Addresses and the default route of a device at a gateway; returns its IPv4 address."""
    device.ip("link", "set", interface, "up")
    device.ip("address", "replace", f"{gateway.inside}.{number}/24", "dev", interface)
    device.ip("route", "replace", "default", "via", f"{gateway.inside}.1")
    if gateway.inside6:
        device.ip("address", "replace", f"{gateway.inside6}::{number}/64", "dev", interface)
        device.ip("route", "replace", "default", "via", f"{gateway.inside6}::1")
    return f"{gateway.inside}.{number}"


def _mac(site: int, side: int) -> str:
    return f"02:00:00:00:{site:02x}:{side:02x}"


def relay_addresses(world: World) -> list[Address]:
    """All on which the relay of the laboratory listens."""
    return [
        Address(host, port) for host in (world.relay.ipv4, world.relay.ipv6) for port in RELAY_PORTS
    ]


_CUTS = """
table ip cuts {
  set pairs { type ipv4_addr . ipv4_addr; }
  chain forward {
    type filter hook forward priority filter;
    ip saddr . ip daddr @pairs drop
  }
}
"""
