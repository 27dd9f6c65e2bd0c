"""A network in memory: hosts, links that lose and delay, NATs, and hosts that move.

A datagram's way: the sender's access link (up), its NAT if it has one, the core, which knows every
public address, the receiver's NAT, its access link (down), its socket. Every link has conditions of
its own each way. What happens is decided when the datagram gets there, not when it leaves: a NAT
that forgets, or a host that moves in between, loses it as in life. All chance comes from one seed,
all time from the running loop, so that a test under a virtual clock repeats itself.
"""

import asyncio
import ipaddress
import math
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from peers.errors import RelayUnreachable
from peers.interfaces import IpInterface
from peers.network import Receive, interleave, literal_address
from relay.wire.address import Address

from .virtual_nat import USUAL, Behaviour, Filtering, MappingBehaviour, Nat, Node, Packet

__all__ = [
    "PERFECT",
    "Behaviour",
    "Conditions",
    "Filtering",
    "Host",
    "Link",
    "MappingBehaviour",
    "Nat",
    "Packet",
    "VirtualNetwork",
    "VirtualSocket",
]

FIRST_EPHEMERAL_PORT = 49_152


@dataclass(frozen=True, slots=True)
class Conditions:
    """What one direction of one link does to datagrams. Probabilities are from 0 to 1."""

    latency_s: float = 0.01
    jitter_s: float = 0.0
    """Up to so much later, evenly spread; a queue does that, so the order stays."""
    loss: float = 0.0
    duplicate: float = 0.0
    """Arrives twice, each time with a delay of its own."""
    late: float = 0.0
    """Arrives `late_s` later: reordering, also among datagrams that are far apart."""
    late_s: float = 0.05
    mtu: int = 1500
    """Bytes of the IP packet. A larger one is dropped: nothing is ever fragmented here."""
    rate: float = math.inf
    """Bytes per second, headers included."""
    queue_s: float = 0.2
    """How long a datagram may stand before a link that is busy; else it is dropped."""


PERFECT = Conditions(latency_s=0.0)
"""No loss and no delay."""


Filter = Callable[[bytes, Address, Address], bool]
"""Given a datagram, its source and its destination: whether it passes."""


class Link:
    """One direction of one access link."""

    def __init__(self, network: "VirtualNetwork", name: str) -> None:
        self.conditions = Conditions()
        self.passes: Filter | None = None
        """Drops what it answers False for: a test's own idea of bad luck."""
        self.forge: Callable[[bytes], Iterable[bytes]] | None = None
        """Given a datagram, what an attacker sends just ahead of it, under the same addresses."""
        self._network = network
        self._name = name
        self._busy_until = 0.0
        self._last_arrival = 0.0  # of those that were not late

    def carry(self, packet: Packet, arrive: Callable[[Packet], None]) -> None:
        """Lose the packet, or call `arrive` with it later: once, or twice."""
        network, conditions = self._network, self.conditions
        for forged in self.forge(packet.datagram) if self.forge else ():
            self._carry_one(Packet(forged, packet.source, packet.destination), arrive)
        if self.passes and not self.passes(packet.datagram, packet.source, packet.destination):
            network.drop(f"{self._name}: filtered")
        elif packet.size > conditions.mtu:
            network.drop(f"{self._name}: larger than the MTU")
        elif network.random.random() < conditions.loss:
            network.drop(f"{self._name}: lost")
        else:
            copies = 2 if network.random.random() < conditions.duplicate else 1
            for _ in range(copies):
                self._carry_one(packet, arrive)

    def _carry_one(self, packet: "Packet", arrive: "Callable[[Packet], None]") -> None:
        loop = asyncio.get_running_loop()
        conditions, chance = self.conditions, self._network.random
        start = max(loop.time(), self._busy_until)
        if start - loop.time() > conditions.queue_s:
            self._network.drop(f"{self._name}: queue full")
            return
        self._busy_until = start + packet.size / conditions.rate
        arrival = self._busy_until + conditions.latency_s + conditions.jitter_s * chance.random()
        if chance.random() < conditions.late:
            arrival += conditions.late_s
        else:
            # Not the same moment: asyncio does not keep the order of timers that are due together.
            arrival = max(arrival, math.nextafter(self._last_arrival, math.inf))
            self._last_arrival = arrival
        loop.call_at(arrival, arrive, packet)


class VirtualNetwork:
    """The core: all public addresses, all names, and what became of what did not arrive."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.names: dict[str, list[str]] = {}
        """Name to addresses, in the order in which a resolver would answer."""
        self.dropped: Counter[str] = Counter()
        self.watchers: list[Callable[[Packet], None]] = []
        """Called with each packet that gets to the core: after the sender's NAT."""
        self._nodes: dict[str, Node] = {}

    def host(self, name: str, *addresses: str) -> "Host":
        """Make a host with these public addresses of either family; the first is preferred."""
        host = Host(self, name)
        host.move(*addresses)
        return host

    def nat(
        self,
        public: str,
        *,
        idle_timeout_s: float = math.inf,
        behaviour: Behaviour = USUAL,
        behind: Nat | None = None,
    ) -> Nat:
        """Make a NAT with this outside address, whose mappings die after so much silence.

        :param behind: another one, in whose inside that address is: carrier-grade NAT.
        """
        nat = Nat(self, public, idle_timeout_s, behaviour, behind)
        if behind is None:
            self.attach(public, nat)
        else:
            behind.connect(nat, public)
        return nat

    def attach(self, address: str, node: Node) -> None:
        """Route an address to a host or NAT."""
        if self._nodes.get(address, node) is not node:
            raise ValueError(f"{address} is in use")
        self._nodes[address] = node

    def detach(self, address: str, node: Node) -> None:
        """Stop routing it there."""
        if self._nodes.get(address) is node:
            del self._nodes[address]

    def route(self, packet: Packet) -> None:
        """Take a packet into the core, and hand it to whoever has its destination address."""
        for watch in self.watchers:
            watch(packet)
        node = self._nodes.get(packet.destination.host)
        if node is None:
            self.drop("core: no such address")
        else:
            node.arrive(packet)

    def drop(self, reason: str) -> None:
        """Count a datagram that ends here."""
        self.dropped[reason] += 1


class Host:
    """A machine with sockets, behind one access link. It is the `peers.network.Network` there."""

    def __init__(self, network: VirtualNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.up = Link(network, f"{name} up")
        self.down = Link(network, f"{name} down")
        self.addresses: tuple[str, ...] = ()
        self.router: str | None = None
        """Who is asked to map ports."""
        self._nat: Nat | None = None
        self._next_port = FIRST_EPHEMERAL_PORT
        self._sockets: dict[tuple[socket.AddressFamily, int], VirtualSocket] = {}

    def set_conditions(self, conditions: Conditions) -> None:
        """Both ways."""
        self.up.conditions = self.down.conditions = conditions

    def move(self, *addresses: str, behind: Nat | None = None) -> None:
        """Leave the present network; have these addresses from now on, public or behind a NAT.

        Sockets stay open, as wildcard sockets do: they send from the new address. Addresses of
        another family than the NAT's are public.
        """
        for address in self.addresses:
            self.network.detach(address, self)
            if self._nat:
                self._nat.disconnect(address)
        self.addresses = tuple(str(ipaddress.ip_address(each)) for each in addresses)
        self._nat = behind
        for address in self.addresses:
            if behind and behind.family is Address(address, 0).family:
                behind.connect(self, address)
            else:
                self.network.attach(address, self)

    def address(self, family: socket.AddressFamily) -> str | None:
        """The address of that family from which this host sends."""
        for each in self.addresses:
            if Address(each, 0).family == family:
                return each
        return None

    def address_towards(self, destination: Address) -> str | None:
        """The address from which it sends there: one in that network of 256, else as `address`."""
        near = destination.host.rpartition(".")[0]
        on_link = (each for each in self.addresses if near and each.rpartition(".")[0] == near)
        return next(on_link, self.address(destination.family))

    def open_socket(self, family: socket.AddressFamily, port: int = 0) -> "VirtualSocket":
        """Open a socket on that port, or on a free one.

        :raises OSError: this host has no address of that family, or the port is taken.
        """
        if self.address(family) is None:
            raise OSError(f"{self.name} has no address of family {family.name}")
        if port == 0:
            port, self._next_port = self._next_port, self._next_port + 1
        if (family, port) in self._sockets:
            raise OSError(f"port {port} is taken on {self.name}")
        opened = VirtualSocket(self, family, port)
        self._sockets[family, port] = opened
        return opened

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Resolve by the network's `names`.

        :raises RelayUnreachable: no such name.
        """
        literal = literal_address(host, port)
        if literal is not None:
            return [literal]
        found = [Address(each, port) for each in self.network.names.get(host, [])]
        if not found:
            raise RelayUnreachable(f"the name '{host}' does not resolve")
        return interleave(found)

    def interfaces(self) -> tuple[IpInterface, ...]:
        """Its addresses, in networks of 256 and of 2⁶⁴."""
        found = ((each, 64 if ":" in each else 24) for each in self.addresses)
        return tuple(ipaddress.ip_interface(f"{host}/{prefix}") for host, prefix in found)

    def gateway(self) -> str | None:
        """None, unless a test says otherwise: nobody here maps ports."""
        return self.router

    def send(self, datagram: bytes, source: Address, destination: Address) -> None:
        """Put a datagram on the link."""
        self.up.carry(Packet(datagram, source, destination), self._leave)

    def arrive(self, packet: Packet) -> None:
        """Take a packet from the core, or from the NAT, onto the link to this host."""
        self.down.carry(packet, self._receive)

    def forget_socket(self, closed: "VirtualSocket") -> None:
        """Its port is free again."""
        self._sockets.pop((closed.family, closed.port), None)

    def _leave(self, packet: Packet) -> None:
        if self._nat and self._nat.family is packet.source.family:
            self._nat.send_out(packet)
        else:
            self.network.route(packet)

    def _receive(self, packet: Packet) -> None:
        if packet.destination.host not in self.addresses:
            self.network.drop(f"{self.name}: has moved")
            return
        receiver = self._sockets.get((packet.destination.family, packet.destination.port))
        if receiver is None:
            self.network.drop(f"{self.name}: port closed")
        else:
            receiver.arrive(packet)


class VirtualSocket:
    """Implements `peers.network.DatagramSocket`; one of a wildcard address and one port."""

    def __init__(self, host: Host, family: socket.AddressFamily, port: int) -> None:
        self.family = family
        self.port = port
        self._host = host
        self._deliver: Callable[[list[Packet]], None] | None = None
        self._inbox: list[Packet] = []
        self._closed = False

    @property
    def local(self) -> Address:
        """The wildcard address, and the port."""
        return Address("::" if self.family == socket.AF_INET6 else "0.0.0.0", self.port)

    def start(self, receive: Receive) -> None:
        """Call `receive` with what arrives at one moment, as one batch."""

        def deliver(packets: Iterable[Packet]) -> None:
            receive([(each.datagram, each.source) for each in packets])

        self.start_packets(deliver)

    def start_packets(self, deliver: Callable[[list[Packet]], None]) -> None:
        """As `start`, for who must know at which of the host's addresses a datagram arrived."""
        self._deliver = deliver

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        """Send from the host's present address towards there; none of the family: dropped."""
        source = self._host.address_towards(destination)
        if self._closed or source is None or destination.family != self.family:
            for _ in datagrams:
                self._host.network.drop(f"{self._host.name}: cannot send")
            return
        self.send_from(source, datagrams, destination)

    def send_from(self, source: str, datagrams: Iterable[bytes], destination: Address) -> None:
        """Send from one of the host's addresses."""
        for each in datagrams:
            self._host.send(bytes(each), Address(source, self.port), destination)

    def arrive(self, packet: Packet) -> None:
        """Queue a packet; the receiver gets it in the loop's next iteration."""
        if self._deliver is None:
            self._host.network.drop(f"{self._host.name}: nobody listens")
            return
        if not self._inbox:
            asyncio.get_running_loop().call_soon(self._drain)
        self._inbox.append(packet)

    def close(self) -> None:
        """Stop at once. A second call does nothing."""
        self._closed = True
        self._inbox.clear()
        self._host.forget_socket(self)

    def _drain(self) -> None:
        batch, self._inbox = self._inbox, []
        if batch and self._deliver and not self._closed:
            self._deliver(batch)
