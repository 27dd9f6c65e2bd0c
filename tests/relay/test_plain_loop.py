"""The plain loop between real sockets: where datagrams go, from which address, and what is counted.

The loop runs in this process: on loopback a datagram that was sent has arrived.
"""

import contextlib
import json
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from relay.core.outcome import Outcome
from relay.core.path import Path as RelayPath
from relay.core.table import ConnectionIdsAdded, OwnerMoved, OwnerRemoved
from relay.forwarding import ancillary
from relay.forwarding.channel import MAX_UP_DATAGRAM, UP_HEADER_SIZE, decode_up
from relay.forwarding.door import Door
from relay.forwarding.plain_loop import BATCH, PlainLoop
from relay.forwarding.sockets import Listener, ListenRequest, open_listeners
from relay.wire.address import Address
from tests.relay.families import HAS_IPV6, NO_IPV6, needs_ipv6

V4, V6 = "127.0.0.1", "::1"
CID = bytes(range(12))
PACKET = b"\x40" + CID + b"hello"
INITIAL = b"\xc0\0\0\0\1\x08original\x08dialer's" + bytes(1180)


class Laboratory:
    """A loop with listeners, and peers around it."""

    def __init__(self, hosts: Sequence[str], resources: contextlib.ExitStack) -> None:
        if any(":" in host for host in hosts) and not HAS_IPV6:
            pytest.skip(NO_IPV6)
        self.resources = resources
        requests = [ListenRequest(Address(host, 0)) for host in hosts]
        self.listeners: list[Listener] = open_listeners(requests, 1)
        for listener in self.listeners:
            resources.callback(listener.close)
        self.up, up = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wake, wake = socket.socketpair()
        for each in (self.up, up, self.wake, wake):
            each.setblocking(False)
            resources.enter_context(each)
        sockets = [listener.sockets[0] for listener in self.listeners]
        self.loop = PlainLoop(sockets, up, [wake.fileno()])
        # Each datagram comes in another second: the door to HTTP/3 is wide open.
        self.loop.door = Door(count().__next__, lambda: False)
        self.owners = 0

    def peer(self, host: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = self.resources.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        opened.bind((host, 0))
        opened.settimeout(5.0)
        return opened

    def register(
        self, peer: socket.socket, *cids: bytes, listener: int = 0, local: str | None = None
    ) -> int:
        owner, self.owners = self.owners, self.owners + 1
        path = RelayPath(address_of(peer), listener, local or self.listeners[listener].address.host)
        self.loop.apply(OwnerMoved(owner, path))
        self.loop.apply(ConnectionIdsAdded(owner, cids))
        return owner

    def forget(self, owner: int, *cids: bytes) -> None:
        self.loop.apply(OwnerRemoved(owner, cids))

    def send(
        self, peer: socket.socket, datagram: bytes, listener: int = 0, host: str | None = None
    ) -> None:
        address = self.listeners[listener].address
        peer.sendto(datagram, (host or address.host, address.port))

    def run(self) -> None:
        """Handle all that has arrived."""
        before = None
        while before != (before := self.loop.counters()):
            self.loop.forward(time.monotonic() + 0.02)

    def counted(self) -> dict[Outcome, int]:
        """Every outcome that occurred."""
        counters = self.loop.counters()
        return {each: counters.of(each) for each in Outcome if counters.of(each)}


def address_of(peer: socket.socket) -> Address:
    return Address.from_sockaddr(peer.getsockname())


@pytest.fixture
def resources() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("sender_host", "receiver_host"),
    [(V4, V4), (V6, V6), (V4, V6), (V6, V4)],
    ids=["ipv4", "ipv6", "ipv4-to-ipv6", "ipv6-to-ipv4"],
)
def test_forwards_unchanged_from_the_address_where_the_receiver_registered(
    resources: contextlib.ExitStack, sender_host: str, receiver_host: str
) -> None:
    laboratory = Laboratory([V4, V6], resources)
    sender, receiver = laboratory.peer(sender_host), laboratory.peer(receiver_host)
    there = int(receiver_host == V6)
    laboratory.register(sender, listener=int(sender_host == V6))
    laboratory.register(receiver, CID, listener=there)
    for size in (0, 1, 1187, 1472):
        laboratory.send(sender, PACKET + bytes(size), listener=int(sender_host == V6))
        laboratory.run()
        datagram, source = receiver.recvfrom(65536)
        assert datagram == PACKET + bytes(size)
        assert Address.from_sockaddr(source) == laboratory.listeners[there].address
    assert laboratory.counted() == {Outcome.FORWARDED: 4}
    assert laboratory.loop.counters().bytes_forwarded == 4 * len(PACKET) + 1 + 1187 + 1472


def test_a_wildcard_listener_sends_from_the_address_that_was_registered_at(
    resources: contextlib.ExitStack,
) -> None:
    laboratory = Laboratory(["0.0.0.0", "::"], resources)
    sender, receiver, third = (laboratory.peer(host) for host in ("127.0.0.3", "127.0.0.4", V6))
    laboratory.register(sender, bytes(12), local="127.0.0.1")
    laboratory.register(receiver, CID, local="127.0.0.2")
    laboratory.register(third, b"\x01" * 12, listener=1, local="::1")
    port = laboratory.listeners[0].address.port
    assert laboratory.listeners[1].address.port == port
    laboratory.send(sender, PACKET, host="127.0.0.1")
    laboratory.send(sender, b"\x40" + b"\x01" * 12, host="127.0.0.1")
    laboratory.run()
    assert receiver.recvfrom(100) == (PACKET, ("127.0.0.2", port))
    assert third.recvfrom(100)[1][:2] == ("::1", port)


@pytest.mark.parametrize("hosts", [(V4, V6), ("0.0.0.0", "::")], ids=["specific", "wildcard"])
@pytest.mark.parametrize("ecn", [0b00, 0b01, 0b10, 0b11])
@pytest.mark.parametrize("receiver_host", [V4, V6])
@pytest.mark.parametrize("sender_host", [V4, V6])
def test_ecn_bits_are_kept_and_no_others(
    resources: contextlib.ExitStack,
    hosts: tuple[str, str],
    ecn: int,
    receiver_host: str,
    sender_host: str,
) -> None:
    laboratory = Laboratory(hosts, resources)
    sender, receiver = laboratory.peer(sender_host), laboratory.peer(receiver_host)
    laboratory.register(sender, listener=int(sender_host == V6), local=sender_host)
    laboratory.register(receiver, CID, listener=int(receiver_host == V6), local=receiver_host)
    dscp = 0b101000
    if sender_host == V6:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2 | ecn)
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2 | ecn)
    if receiver_host == V6:
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    laboratory.send(sender, PACKET, listener=int(sender_host == V6), host=sender_host)
    laboratory.run()
    datagram, beside, _, _ = receiver.recvmsg(100, 100)
    assert datagram == PACKET
    (traffic_class,) = (data for _, kind, data in beside if kind in (1, socket.IPV6_TCLASS))
    assert int.from_bytes(traffic_class, "little") == ecn


@pytest.mark.parametrize("host", [V4, V6])
def test_what_is_forwarded_must_not_be_fragmented(
    resources: contextlib.ExitStack, host: str
) -> None:
    """By the options of the sockets: see also `test_too_big`."""
    laboratory = Laboratory([host], resources)
    (sending,) = laboratory.listeners[0].sockets
    if host == V4:
        assert sending.getsockopt(socket.IPPROTO_IP, 10) == 3  # IP_MTU_DISCOVER, PROBE
    else:
        assert sending.getsockopt(socket.IPPROTO_IPV6, 23) == 3
        assert sending.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG) == 1


@pytest.mark.parametrize("sender_host", [V4, V6])
def test_too_big(resources: contextlib.ExitStack, sender_host: str) -> None:
    """The sender may fragment over a loopback of 65,536 bytes, the relay must not."""
    laboratory = Laboratory([V4, V6], resources)
    sender, receiver = laboratory.peer(sender_host), laboratory.peer(V6)
    laboratory.register(sender, listener=int(sender_host == V6))
    laboratory.register(receiver, CID, listener=1)
    for buffers in (sender, receiver):
        buffers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        buffers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    largest = 65_536 - 40 - 8
    laboratory.send(sender, PACKET.ljust(largest + 1), listener=int(sender_host == V6))
    laboratory.run()
    assert laboratory.counted() == {Outcome.TOO_BIG: 1}
    laboratory.send(sender, PACKET.ljust(largest), listener=int(sender_host == V6))
    laboratory.run()
    assert laboratory.counted() == {Outcome.TOO_BIG: 1, Outcome.FORWARDED: 1}
    assert receiver.recv(65536) == PACKET.ljust(largest)


@needs_ipv6
def test_nothing_is_fragmented_where_the_interface_takes_less() -> None:
    """In a namespace of its own, for no loopback of a whole machine is to be changed."""
    alone = ["unshare", "--map-root-user", "--net"]
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a network namespace (unshare --map-root-user --net)")
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.relay.small_mtu"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == {
        "arrived": {
            f"{V4} 1272": True,
            f"{V4} 1273": False,
            f"{V6} 1252": True,
            f"{V6} 1253": False,
        },
        "counted": {Outcome.FORWARDED: 2, Outcome.TOO_BIG: 2},
    }


def test_a_send_that_fails_is_counted_and_harms_nobody(resources: contextlib.ExitStack) -> None:
    laboratory = Laboratory(["0.0.0.0"], resources)
    sender, receiver = laboratory.peer(V4), laboratory.peer(V4)
    laboratory.register(sender, local=V4)
    laboratory.register(receiver, CID, local="192.0.2.77")  # the machine has it no more
    laboratory.register(receiver, bytes(12), local=V4)
    laboratory.send(sender, PACKET, host=V4)
    laboratory.send(sender, b"\x40" + bytes(12), host=V4)
    laboratory.run()
    assert laboratory.counted() == {Outcome.SEND_FAILED: 1, Outcome.FORWARDED: 1}
    assert receiver.recv(100) == b"\x40" + bytes(12)


def test_every_drop_is_counted_by_its_reason(resources: contextlib.ExitStack) -> None:
    laboratory = Laboratory([V4], resources)
    known, stranger = laboratory.peer(V4), laboratory.peer(V4)
    laboratory.register(known, CID)
    stray = b"\xc0\0\0\0\1\x08original\x0c" + CID + b"."
    for datagram in (b"", b"\x40short", b"\xc0\0\0\0\1\xff", b"\x40" + b"?" * 12, PACKET, stray):
        laboratory.send(stranger, datagram)
    laboratory.run()
    assert laboratory.counted() == {
        Outcome.MALFORMED: 3,
        Outcome.UNKNOWN_CID: 1,
        Outcome.UNREGISTERED_SOURCE: 1,
        Outcome.STRAY_PEER_PACKET: 1,
    }
    assert laboratory.loop.take_heard(9) == []
    laboratory.send(known, b"")
    laboratory.run()
    assert laboratory.loop.take_heard(9) == [address_of(known)]


@pytest.mark.parametrize(
    ("listen", "host"),
    [(V4, V4), (V6, V6), ("0.0.0.0", "127.0.0.2"), ("::", V6)],
    ids=["ipv4", "ipv6", "wildcard-ipv4", "wildcard-ipv6"],
)
def test_what_may_be_http3_goes_up_with_the_way_it_came(
    resources: contextlib.ExitStack, listen: str, host: str
) -> None:
    laboratory = Laboratory([listen], resources)
    client = laboratory.peer(host)
    if ":" in host:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0b10100010)
    else:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0b10100010)
    for datagram in (INITIAL, b"\x40\x80" + bytes(11)):
        laboratory.send(client, datagram, host=host)
        laboratory.run()
        message = decode_up(laboratory.up.recv(65536))
        assert message.path == RelayPath(address_of(client), 0, host)
        assert (message.ecn, message.datagram) == (2, datagram)
    assert laboratory.counted() == {Outcome.HTTP3: 2}


def test_what_is_too_long_to_go_up_is_counted(resources: contextlib.ExitStack) -> None:
    laboratory = Laboratory([V4], resources)
    client = laboratory.peer(V4)
    laboratory.send(client, INITIAL.ljust(MAX_UP_DATAGRAM))
    laboratory.send(client, INITIAL.ljust(MAX_UP_DATAGRAM + 1))
    laboratory.run()
    assert laboratory.counted() == {Outcome.HTTP3: 1, Outcome.TOO_BIG: 1}
    assert len(laboratory.up.recv(65536)) == UP_HEADER_SIZE + MAX_UP_DATAGRAM


def test_a_control_process_that_is_behind_costs_datagrams_not_time(
    resources: contextlib.ExitStack,
) -> None:
    laboratory = Laboratory([V4], resources)
    client, peer = laboratory.peer(V4), laboratory.peer(V4)
    laboratory.register(peer, CID)
    for _ in range(600):
        laboratory.send(client, INITIAL)
    laboratory.send(peer, PACKET)
    laboratory.run()
    counted = laboratory.counted()
    assert counted[Outcome.FORWARDED] == 1
    assert counted[Outcome.HTTP3] > 0
    assert counted[Outcome.CONTROL_QUEUE_FULL] > 0
    assert sum(counted.values()) == 601


def test_a_wake_up_comes_before_the_next_datagram(resources: contextlib.ExitStack) -> None:
    """What waits when a command does is handled after it; yet not never, should it stay awake."""
    laboratory = Laboratory([V4], resources)
    sender, receiver = laboratory.peer(V4), laboratory.peer(V4)
    laboratory.register(sender)
    owner = laboratory.register(receiver, CID)
    laboratory.wake.send(b".")
    for _ in range(BATCH + 1):
        laboratory.send(sender, PACKET)
    later = time.monotonic() + 5.0
    laboratory.loop.forward(later)
    assert laboratory.counted() == {}
    laboratory.loop.forward(later)
    assert laboratory.counted() == {Outcome.FORWARDED: BATCH}
    laboratory.forget(owner, CID)
    laboratory.loop.forward(later)
    assert laboratory.counted() == {Outcome.FORWARDED: BATCH, Outcome.UNKNOWN_CID: 1}
    assert time.monotonic() < later


def test_it_returns_when_it_is_time(resources: contextlib.ExitStack) -> None:
    laboratory = Laboratory([V4], resources)
    until = time.monotonic() + 0.05
    laboratory.loop.forward(until)
    assert time.monotonic() >= until


def test_system_drops_are_seen(resources: contextlib.ExitStack) -> None:
    """When a socket's buffer is full, nobody but the system can count what is lost."""
    laboratory = Laboratory([V4], resources)
    (listener,) = laboratory.listeners
    assert listener.lost() == 0
    listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client = laboratory.peer(V4)
    for _ in range(50):
        laboratory.send(client, INITIAL)
    laboratory.run()
    assert listener.lost() > 0
    assert listener.lost() + sum(laboratory.counted().values()) == 50


def test_link_local_pktinfo_names_the_interface() -> None:
    (message,) = ancillary.to_send("fe80::1%7", ecn=0, choose_source=True)
    assert message[2][-4:] == struct.pack("@I", 7)
    assert ancillary.read_local([message]) == "fe80::1%7"
