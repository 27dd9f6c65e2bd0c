"""NATs of the virtual network, by the behaviours of RFC 4787 §4.1 (mapping) and §5 (filtering)."""

import asyncio
import random
import socket
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from relay.wire.address import Address

IP_AND_UDP_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Bytes that an MTU counts besides the UDP payload."""

FIRST_PORT, LAST_PORT = 1024, 65_535
"""What a NAT chooses among that chooses at random."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A datagram with its addresses, as the link that it is on sees them."""

    datagram: bytes
    source: Address
    destination: Address

    @property
    def size(self) -> int:
        """Bytes of the IP packet."""
        return len(self.datagram) + IP_AND_UDP_HEADERS[self.destination.family]


class MappingBehaviour(Enum):
    """RFC 4787 §4.1: what has an outside port of its own."""

    INDEPENDENT = "endpoint-independent"
    """Each inside address."""
    ADDRESS = "address-dependent"
    """Each inside address, for each host that it writes to."""
    ADDRESS_AND_PORT = "address-and-port-dependent"
    """For each port there, too."""


class Filtering(Enum):
    """RFC 4787 §5: who may write to an outside port."""

    NONE = "endpoint-independent"
    """Everybody."""
    ADDRESS = "address-dependent"
    """The hosts that were written to from it."""
    ADDRESS_AND_PORT = "address-and-port-dependent"
    """The ports that were."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of one NAT."""

    mapping: MappingBehaviour = MappingBehaviour.INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT
    hairpin: bool = False
    """Whether those inside reach each other at their outside addresses (RFC 4787 §6)."""
    random_ports: bool = False
    """Else they are given out in their order, from 20,000 on."""


USUAL = Behaviour()
"""What most homes have."""


class Node(Protocol):
    """What has an address."""

    def arrive(self, packet: Packet) -> None:
        """Take a packet for that address."""


class Core(Protocol):
    """What is outside."""

    random: random.Random
    dropped: Counter[str]

    def route(self, packet: Packet) -> None:
        """Take a packet from a NAT."""

    def drop(self, reason: str) -> None:
        """Count a packet that ends here."""


class Nat:
    """One NAT, or one layer of two."""

    def __init__(
        self,
        network: Core,
        public: str,
        idle_timeout_s: float,
        behaviour: Behaviour = USUAL,
        behind: "Nat | None" = None,
    ) -> None:
        self.behaviour = behaviour
        self.family = Address(public, 0).family
        self._network = network
        self._public = public
        self._idle_timeout_s = idle_timeout_s
        self._behind = behind
        self._next_port = 20_000
        self._inside: dict[str, Node] = {}
        self._by_private: dict[object, _Mapping] = {}  # per packet that goes out
        self._by_port: dict[int, _Mapping] = {}  # per packet that comes in

    def connect(self, node: Node, private: str) -> None:
        """Put a host, or another NAT, behind this one, where it has a private address."""
        self._inside[private] = node

    def disconnect(self, private: str) -> None:
        """It has gone."""
        self._inside.pop(private, None)

    def rebind(self) -> None:
        """Forget all mappings: whoever sends next gets another public port."""
        self._by_private.clear()
        self._by_port.clear()

    def send_out(self, packet: Packet) -> None:
        """Translate a packet from inside, and pass it on; one for a neighbour is not translated."""
        neighbour = self._inside.get(packet.destination.host)
        if neighbour is not None:
            neighbour.arrive(packet)
            return
        mapping = self._mapping_for(packet)
        mapping.last_sent = asyncio.get_running_loop().time()
        mapping.contacted.add(packet.destination)
        mapping.contacted_hosts.add(packet.destination.host)
        outside = Packet(packet.datagram, Address(self._public, mapping.port), packet.destination)
        if packet.destination.host == self._public:
            if self.behaviour.hairpin:
                self.arrive(outside)
            else:
                self._network.drop("nat: no hairpinning")
        elif self._behind is not None:
            self._behind.send_out(outside)
        else:
            self._network.route(outside)

    def arrive(self, packet: Packet) -> None:
        """Translate a packet from outside, if somebody inside has asked for it."""
        mapping = self._by_port.get(packet.destination.port)
        if mapping is None or self._is_dead(mapping):
            self._network.drop("nat: no mapping")
        elif not self._passes(mapping, packet.source):
            self._network.drop("nat: never contacted")
        elif (node := self._inside.get(mapping.private.host)) is None:
            self._network.drop("nat: the host has gone")
        else:
            node.arrive(Packet(packet.datagram, packet.source, mapping.private))

    def _mapping_for(self, packet: Packet) -> "_Mapping":
        key: object = packet.source
        if self.behaviour.mapping is MappingBehaviour.ADDRESS:
            key = (packet.source, packet.destination.host)
        elif self.behaviour.mapping is MappingBehaviour.ADDRESS_AND_PORT:
            key = (packet.source, packet.destination)
        mapping = self._by_private.get(key)
        if mapping is None or self._is_dead(mapping):
            mapping = _Mapping(packet.source, self._free_port())
            self._by_private[key] = self._by_port[mapping.port] = mapping
        return mapping

    def _passes(self, mapping: "_Mapping", source: Address) -> bool:
        if self.behaviour.filtering is Filtering.ADDRESS_AND_PORT:
            return source in mapping.contacted
        if self.behaviour.filtering is Filtering.ADDRESS:
            return source.host in mapping.contacted_hosts
        return True

    def _free_port(self) -> int:
        if not self.behaviour.random_ports:
            self._next_port += 1
            return self._next_port - 1
        while True:
            port = self._network.random.randint(FIRST_PORT, LAST_PORT)
            if port not in self._by_port:
                return port

    def _is_dead(self, mapping: "_Mapping") -> bool:
        return asyncio.get_running_loop().time() - mapping.last_sent > self._idle_timeout_s


@dataclass(slots=True)
class _Mapping:
    private: Address
    port: int
    last_sent: float = 0.0
    contacted: set[Address] = field(default_factory=set)
    contacted_hosts: set[str] = field(default_factory=set)
