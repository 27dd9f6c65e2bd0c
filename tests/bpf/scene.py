"""Two registered peers at a relay, told alike to the kernel and to the reference."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bpf import layout
from relay.core.path import Path
from relay.core.registry import Record
from relay.core.table import (
    Change,
    ConnectionIdsAdded,
    ForwardingTable,
    OwnerMoved,
    OwnerRemoved,
)
from relay.kernel.forwarder import KernelForwarder, Rate
from relay.wire.address import Address

from .frames import OTHER_MAC, OWN_MAC, Frame
from .lab import LOOPBACK, KernelUnderTest

PORT = 4433
RELAYS = {4: Address("192.0.2.10", PORT), 6: Address("2001:db8::10", PORT)}
SENDERS = {4: Address("192.0.2.1", 50001), 6: Address("2001:db8::1", 50001)}
RECEIVERS = {4: Address("198.51.100.2", 50002), 6: Address("2001:db8:1::2", 50002)}
SENDER, RECEIVER = {4: 3, 6: 5}, {4: 4, 6: 6}
"""Owner numbers."""
CIDS = {4: bytes.fromhex("2b5c2c4c9385fb1b29934723"), 6: bytes.fromhex("448d3e851ea76b693aaa05aa")}
"""Of the receivers."""
SENDER_CIDS = {4: b"\x01sender-ipv4", 6: b"\x01sender-ipv6"}
REST = b"protected payload"
NOWHERE = Path(Address("0.0.0.0", 0), 0, "0.0.0.0")


@dataclass(slots=True)
class Leases:
    """Stands in for the registry: what it says of each owner."""

    lease_end: float = 0.0
    owners: list[int] = field(default_factory=list)

    def record(self, owner: int, now: float) -> Record:
        digest = owner.to_bytes(16, "big")
        return Record(
            owner,
            digest.hex(),
            digest,
            NOWHERE,
            self.lease_end,
            frozenset(),
        )

    def lease_ends(self, now: float) -> Iterator[tuple[int, float]]:
        return iter([(owner, self.lease_end) for owner in self.owners])


class Scene:
    """Both forwarders, and frames from the senders to the receivers."""

    def __init__(self, kernel: KernelUnderTest, rate: Rate | None = None) -> None:
        self.kernel = kernel
        self.leases = Leases(lease_end=time.monotonic() + 1000.0)
        self.table = ForwardingTable()
        kernel.configure(PORT)
        kernel.link(LOOPBACK, OWN_MAC, mtu=65536)
        listeners = [RELAYS[4], RELAYS[6]]
        self.forwarder = KernelForwarder(kernel.maps, listeners, self.leases, rate or Rate())
        self.forwarder.forget_unknown()  # of the test before
        self._cids: dict[int, tuple[bytes, ...]] = {}
        for family in (4, 6):
            self.move(SENDER[family], SENDERS[family])
            self.move(RECEIVER[family], RECEIVERS[family])
            self.add(SENDER[family], SENDER_CIDS[family])
            self.add(RECEIVER[family], CIDS[family])
            self.learn_hop(RECEIVER[family])

    def apply(self, changes: Sequence[Change]) -> None:
        self.forwarder.apply(changes)
        for change in changes:
            self.table.apply(change)

    def move(self, owner: int, remote: Address) -> None:
        listener = 1 if ":" in remote.host else 0
        path = Path(remote, listener, RELAYS[6 if listener else 4].host)
        if owner not in self.leases.owners:
            self.leases.owners.append(owner)
        self.apply([OwnerMoved(owner, path)])

    def add(self, owner: int, *connection_ids: bytes) -> None:
        self._cids[owner] = self._cids.get(owner, ()) + connection_ids
        self.apply([ConnectionIdsAdded(owner, connection_ids)])

    def remove(self, owner: int) -> None:
        self.apply([OwnerRemoved(owner, self._cids.pop(owner))])
        self.leases.owners.remove(owner)

    def entry(self, owner: int) -> layout.Owner:
        return self.kernel.maps.owners[owner]

    def learn_hop(self, owner: int, mac: bytes = OTHER_MAC, ifindex: int = LOOPBACK) -> None:
        """As if a frame had come from that owner just now."""
        hop = self.entry(owner).hop
        hop.peer_mac[:], hop.own_mac[:] = mac, OWN_MAC
        hop.ifindex, hop.mtu = ifindex, 1500
        hop.seen_ns = time.monotonic_ns()

    def frame(self, family: int, payload: bytes | None = None, **changes: object) -> Frame:
        """From the sender to the relay, for the receiver."""
        fields: dict[str, object] = {
            "payload": b"\x40" + CIDS[family] + REST if payload is None else payload,
            "source": tuple(SENDERS[family]),
            "destination": tuple(RELAYS[family]),
        }
        return Frame(**(fields | changes))  # type: ignore[arg-type] # fields by name

    def forwarded(self, family: int, payload: bytes | None = None, **changes: object) -> Frame:
        """What the relay makes of such a frame: from itself to the receiver."""
        fields: dict[str, object] = {
            "source": tuple(RELAYS[family]),
            "destination": tuple(RECEIVERS[family]),
            "from_mac": OWN_MAC,
            "to_mac": OTHER_MAC,
            "ttl": 63,
        }
        return self.frame(family, payload, **(fields | changes))
