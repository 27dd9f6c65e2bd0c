"""The kernel forwards right on real networks, and passes up where it cannot."""

import contextlib
import socket
from dataclasses import dataclass

import pytest

from bpf.layout import Way

from .conftest import MakeRelay
from .lab import Host, Lab
from .relay import KernelRelay, ours, sent_from

PACKETS = 20


def address(family: int, net: int, host: int) -> str:
    """Host number `host` in network number `net`."""
    return f"10.7.{net}.{host}" if family == 4 else f"fd07:{net + 1}::{host}"


def join(host: Host, interface: str, family: int, net: int, number: int) -> str:
    """Give an interface an address; returns it."""
    own = address(family, net, number)
    given = (f"{own}/24",) if family == 4 else (f"{own}/64", "nodad")  # usable at once
    host.ip("address", "add", *given, "dev", interface)
    return own


@dataclass
class Pair:
    """Two peers and their relay."""

    relay: KernelRelay
    a: socket.socket
    b: socket.socket

    def __post_init__(self) -> None:
        self.cid_a = self.relay.register(1, self.a)
        self.cid_b = self.relay.register(2, self.b)

    def exchange(self, expected: str = "forwarded", size: int = 100) -> None:
        """Packets both ways: all arrive from the relay, or all come up for the same reason."""
        before = ours(self.relay.counts())
        packets = 0
        for number in range(PACKETS):
            for sender, receiver, cid in (
                (self.a, self.b, self.cid_b),
                (self.b, self.a, self.cid_a),
            ):
                payload = b"\x40" + cid + bytes([number]) * (size - 13)
                if expected == "forwarded":
                    packets += self._send_until_it_arrives(sender, receiver, payload)
                else:
                    self.relay.send(sender, payload)
                    packets += 1
                    assert self.relay.userspace.recv(2048) == payload
        after = ours(self.relay.counts())
        moved = {name: after[name] - before.get(name, 0) for name in after}
        assert {name: count for name, count in moved.items() if count} == {expected: packets}
        assert self.relay.passed_up() == []
        assert self.silent(self.a)
        assert self.silent(self.b)

    def _send_until_it_arrives(
        self, sender: socket.socket, receiver: socket.socket, payload: bytes
    ) -> int:
        """Returns how many were needed: behind the program the hosts' kernels may lose one. What
        the program itself does with each is counted, and compared with this."""
        for packets in range(1, 4):
            self.relay.send(sender, payload)
            with contextlib.suppress(TimeoutError):
                assert sent_from(receiver) == (payload, self.relay.address)
                return packets
        raise AssertionError(
            f"nothing arrives; {self.relay.counts()}; came up: {self.relay.passed_up()}"
        )

    @staticmethod
    def silent(peer: socket.socket) -> bool:
        """Nothing else came: a frame sent back to its sender would have."""
        peer.setblocking(False)
        try:
            peer.recv(65536)
        except BlockingIOError:
            return True
        finally:
            peer.settimeout(2.0)
        return False

    def greet(self) -> None:
        self.relay.greet(self.a)
        self.relay.greet(self.b)


def on_one_switch(lab: Lab, family: int, make_relay: MakeRelay) -> Pair:
    """Three hosts on a LAN."""
    relay, a, b = lab.host(), lab.host(), lab.host()
    lab.switch({"r": relay, "a": a, "b": b})
    own = join(relay, "eth0", family, 0, 1)
    peers = [host.udp(join(host, "eth0", family, 0, n)) for n, host in ((2, a), (3, b))]
    return Pair(make_relay(relay, own, ["eth0"]), *peers)


def forward(host: Host) -> None:
    host.sysctl("net.ipv4.ip_forward", 1)
    host.sysctl("net.ipv6.conf.all.forwarding", 1)


def test_three_hosts_on_a_switch(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    pair = on_one_switch(lab, family, make_relay)
    pair.greet()
    pair.exchange()
    assert pair.relay.way(2) is Way.LEARNED


def test_before_the_way_is_known_packets_come_up(
    lab: Lab, family: int, make_relay: MakeRelay
) -> None:
    pair = on_one_switch(lab, family, make_relay)
    pair.relay.send(pair.a, payload := b"\x40" + pair.cid_b)
    assert pair.relay.userspace.recv(2048) == payload
    assert ours(pair.relay.counts()) == {"no_next_hop": 1}
    assert pair.relay.way(2) is Way.NONE


def test_routes_of_the_kernel_where_it_forwards(
    lab: Lab, family: int, make_relay: MakeRelay
) -> None:
    pair = on_one_switch(lab, family, make_relay)
    forward(pair.relay.host)
    with pair.relay.host.entered():
        pair.relay.path.tick(0.0)  # looks at the interfaces
    # No neighbour yet: passed up, and what userspace sends makes the kernel ask for it.
    pair.relay.send(pair.a, payload := b"\x40" + pair.cid_b)
    assert pair.relay.userspace.recv(2048) == payload
    assert ours(pair.relay.counts()) == {"no_next_hop": 1}
    pair.relay.userspace.sendto(b"", pair.b.getsockname()[:2])
    pair.b.recv(2048)
    pair.exchange()
    assert pair.relay.way(2) is Way.FIB


def test_peers_behind_routers(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    relay, routers, hosts = lab.host(), [lab.router(), lab.router()], [lab.host(), lab.host()]
    lab.switch({"r": relay, "ra": routers[0], "rb": routers[1]})
    own = join(relay, "eth0", family, 0, 1)
    peers = []
    for net, (router, host) in enumerate(zip(routers, hosts, strict=True), start=1):
        outside = join(router, "eth0", family, 0, 10 + net)
        lab.wire(router, "eth1", host, "eth0")
        inside = join(router, "eth1", family, net, 1)
        peers.append(host.udp(join(host, "eth0", family, net, 2)))
        host.ip("route", "add", "default", "via", inside)
        relay.ip("route", "add", f"{address(family, net, 2)}", "via", outside)
    pair = Pair(make_relay(relay, own, ["eth0"]), *peers)
    pair.greet()
    pair.exchange()


def with_two_nics(lab: Lab, family: int, make_relay: MakeRelay) -> Pair:
    """Each peer on a network of its own; the relay is on both."""
    relay, a, b = lab.host(), lab.host(), lab.host()
    own = ""
    peers = []
    for net, host in ((0, a), (1, b)):
        lab.switch({f"r{net}": relay, f"h{net}": host}, interfaces := f"eth{net}")
        address_ = join(relay, interfaces, family, net, 1)
        own = own or address_
        peers.append(host.udp(join(host, interfaces, family, net, 2)))
        host.ip("route", "add", "default", "via", address_)
    return Pair(make_relay(relay, own, ["eth0", "eth1"]), *peers)


def test_two_nics(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    pair = with_two_nics(lab, family, make_relay)
    pair.greet()
    pair.exchange()
    assert pair.relay.way(2) is Way.LEARNED


def test_two_nics_by_the_routes_of_the_kernel(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    pair = with_two_nics(lab, family, make_relay)
    forward(pair.relay.host)
    with pair.relay.host.entered():
        pair.relay.path.tick(0.0)
    pair.greet()
    for peer in (pair.a, pair.b):
        pair.relay.userspace.sendto(b"", peer.getsockname()[:2])
        peer.recv(2048)
    pair.exchange()
    assert pair.relay.way(2) is Way.FIB


def test_too_big_for_the_next_interface(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    pair = with_two_nics(lab, family, make_relay)
    pair.relay.host.ip("link", "set", "eth1", "mtu", "1280")
    with pair.relay.host.entered():
        pair.relay.path.tick(0.0)
    pair.greet()
    payload = b"\x40" + pair.cid_b + bytes(1300)
    pair.relay.send(pair.a, payload)
    assert pair.relay.userspace.recv(2048) == payload
    assert ours(pair.relay.counts())["too_big"] == 1
    pair.exchange(size=1200)


def test_a_peer_that_moves(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    pair = on_one_switch(lab, family, make_relay)
    pair.greet()
    moved = Host.udp(lab.hosts[3], pair.b.getsockname()[0])
    pair.relay.register(2, moved)
    pair.relay.greet(moved)
    old, pair.b = pair.b, moved
    pair.exchange()
    assert pair.silent(old)
    # The old source is a stranger now.
    pair.relay.send(old, b"\x40" + pair.cid_a)
    assert pair.relay.userspace.recv(2048) == b"\x40" + pair.cid_a
    assert pair.relay.counts()["unregistered_source"] == 1
    old.close()


def test_checksums_left_to_the_hardware_come_up(
    lab: Lab, family: int, make_relay: MakeRelay
) -> None:
    pair = on_one_switch(lab, family, make_relay)
    pair.greet()
    for host, interface in ((lab.hosts[2], "eth0"), (lab.hosts[4], "r")):  # the sender, the switch
        host.run("ethtool", "-K", interface, "tx", "on")
    pair.relay.send(pair.a, payload := b"\x40" + pair.cid_b + b"x")
    assert pair.relay.userspace.recv(2048) == payload
    assert pair.relay.counts()["partial_checksum"] == 1


@pytest.mark.parametrize("mode", ["generic"])
def test_loopback(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    host = lab.host()
    own = "127.0.0.1" if family == 4 else "::1"
    pair = Pair(make_relay(host, own, ["lo"]), host.udp(own), host.udp(own))
    pair.greet()
    pair.exchange()
    assert pair.relay.way(2) is Way.LOOPBACK


@pytest.mark.parametrize("mode", ["generic"])
def test_segmented_sends_on_loopback_come_up(lab: Lab, family: int, make_relay: MakeRelay) -> None:
    host = lab.host()
    own = "127.0.0.1" if family == 4 else "::1"
    pair = Pair(make_relay(host, own, ["lo"]), host.udp(own), host.udp(own))
    pair.greet()
    segment = b"\x40" + pair.cid_b + bytes(1187)
    udp_segment = 103
    pair.a.setsockopt(socket.IPPROTO_UDP, udp_segment, len(segment))
    pair.relay.send(pair.a, segment * 8)
    assert [pair.relay.userspace.recv(2048) for _ in range(8)] == [segment] * 8
    assert pair.relay.counts()["oversized"] == 1
