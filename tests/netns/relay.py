"""A relay host whose kernel forwards, without the relay's processes: the test is the registry."""

import asyncio
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from bpf.layout import KernelOutcome, Way
from relay.core.path import Path as PeerPath
from relay.core.table import ConnectionIdsAdded, OwnerMoved
from relay.kernel.config import KernelConfig
from relay.kernel.path import KernelPath
from relay.wire.address import Address
from tests.bpf.scene import Leases

from .lab import Host

PORT = 4433
LEASE_S = 180.0


class KernelRelay:
    """One host with the program on its interfaces; `userspace` gets what is passed up."""

    def __init__(
        self, host: Host, address: str, interfaces: Sequence[str], mode: str, pins: Path
    ) -> None:
        self.host = host
        self.address = Address(address, PORT)
        self.userspace = host.udp(address, PORT)
        self.userspace.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self._leases = Leases(lease_end=time.monotonic() + 1000.0)
        config = KernelConfig(tuple(interfaces), mode=mode, connection_ids=256, pins=pins)
        with host.entered():
            self.path = KernelPath.open(config, [self.address], LEASE_S)
            self.path.begin(self._leases)
            asyncio.run(self.path.attach())

    def register(self, owner: int, peer: socket.socket) -> bytes:
        """Register the peer's socket; returns its connection ID."""
        self._leases.owners.append(owner)
        remote = Address(*peer.getsockname()[:2])
        cid = bytes([owner]) * 12
        path = PeerPath(remote, 0, self.address.host)
        self.path.apply([OwnerMoved(owner, path), ConnectionIdsAdded(owner, (cid,))])
        return cid

    def send(self, peer: socket.socket, payload: bytes) -> None:
        """From a peer to the relay."""
        peer.sendto(payload, tuple(self.address))

    def greet(self, peer: socket.socket) -> None:
        """A long header, as every pipe begins: userspace gets it, the kernel learns the way."""
        self.send(peer, b"\xc0greeting")
        assert self.userspace.recv(2048) == b"\xc0greeting"

    def passed_up(self) -> list[bytes]:
        """What userspace got meanwhile."""
        self.userspace.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.userspace.recv(65536))
        except BlockingIOError:
            return found
        finally:
            self.userspace.settimeout(2.0)

    def counts(self) -> dict[str, int]:
        """The kernel's counters that are not zero."""
        return {name: count for name, count in self.path.outcomes().items() if count}

    def way(self, owner: int) -> Way:
        """How packets to an owner left last."""
        return Way(self.path.maps.owners[owner].way)

    def close(self) -> None:
        self.userspace.close()
        with self.host.entered():
            self.path.abandon()


def ours(counts: dict[str, int]) -> dict[str, int]:
    """Without what the hosts' kernels say among themselves, at moments of their own.

    That is ARP and neighbour discovery, and reports of multicast groups: IGMP has an IP option, MLD
    an extension header.
    """
    chatter = {KernelOutcome.NOT_OURS.label, KernelOutcome.IP_OPTIONS.label}
    return {name: n for name, n in counts.items() if name not in chatter}


def sent_from(peer: socket.socket) -> tuple[bytes, Address]:
    """What a peer received, and from whom."""
    data, source = peer.recvfrom(65536)
    return data, Address.from_sockaddr(source)
