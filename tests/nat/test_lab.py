"""The laboratory is what it says: each NAT's behaviour, seen with plain UDP sockets."""

import socket
import struct
import time
from pathlib import Path

import pytest

from relay.wire.address import Address
from tests.netns.lab import Host

from .nats import Nat, Udp
from .port_mapping import MINIUPNPD, MiniUpnpd, PortMapping
from .stranger import Stranger, datagrams
from .world import HOP_S, Gateway, Site, World

INDEPENDENT = (Nat.INDEPENDENT, Nat.ADDRESS_FILTER, Nat.PORT_FILTER)


class Outside:
    """Two servers; the first has two ports."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts = (world.server(), world.server())
        self.main = self.hosts[0].host.udp(self.hosts[0].ipv4)
        self.port = self.hosts[0].host.udp(self.hosts[0].ipv4)
        self.other = self.hosts[1].host.udp(self.hosts[1].ipv4)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return self.main, self.port, self.other


@pytest.fixture(scope="module")
def outside(world: World) -> Outside:
    return Outside(world)


def seen(inside: socket.socket, server: socket.socket) -> Address:
    """Where a packet from inside seems to come from, there."""
    token = time.monotonic_ns().to_bytes(8, "big")
    inside.sendto(token, server.getsockname())
    while True:
        data, source = server.recvfrom(100)
        if data == token:
            return Address.from_sockaddr(source)


def passes(sender: socket.socket, to: Address, inside: socket.socket, way: socket.socket) -> bool:
    """Whether a packet gets in. `way` is a socket whose packets to `to` do; they come later."""
    sender.sendto(b"unsolicited", tuple(to))
    for _ in range(2):
        time.sleep(0.01)  # so that the second comes after the first: they take different wires
        way.sendto(b"end", tuple(to))
    found = set()
    for _ in range(2):
        while (data := inside.recv(100)) != b"end":
            found.add(data)
    return b"unsolicited" in found


def home(world: World, nat: Nat, behind: Gateway | None = None) -> tuple[Gateway, socket.socket]:
    gateway = world.gateway(nat, behind=behind)
    return gateway, world.device(gateway).udp("0.0.0.0")


@pytest.mark.parametrize("nat", [*INDEPENDENT, Nat.NONE])
def test_independent_mapping(world: World, outside: Outside, nat: Nat) -> None:
    gateway, inside = home(world, nat)
    (found,) = {seen(inside, each) for each in outside.sockets}
    port = inside.getsockname()[1]
    if nat is Nat.NONE:
        assert found == Address(f"{gateway.inside}.10", port)
    else:
        assert found.host == gateway.ipv4
        assert found.port != port


def test_dependent_mapping(world: World, outside: Outside) -> None:
    gateway, inside = home(world, Nat.RANDOM)
    found = {seen(inside, each) for each in outside.sockets}
    assert len(found) == 3
    assert {each.host for each in found} == {gateway.ipv4}
    assert found == {seen(inside, each) for each in outside.sockets}  # each lives on


def test_plain_masquerade_keeps_the_port_unless_it_is_taken(world: World, outside: Outside) -> None:
    gateway, inside = home(world, Nat.MASQUERADE)
    (found,) = {seen(inside, each) for each in outside.sockets}
    assert found == Address(gateway.ipv4, inside.getsockname()[1])
    second = world.device(gateway).udp("0.0.0.0", found.port)
    assert seen(second, outside.main) != found


@pytest.mark.parametrize(
    ("nat", "another_port", "another_address"),
    [
        (Nat.NONE, True, True),
        (Nat.INDEPENDENT, True, True),
        (Nat.ADDRESS_FILTER, True, False),
        (Nat.PORT_FILTER, False, False),
        (Nat.MASQUERADE, False, False),
        (Nat.RANDOM, False, False),
    ],
)
def test_filtering(
    world: World, outside: Outside, nat: Nat, another_port: bool, another_address: bool
) -> None:
    _, inside = home(world, nat)
    mapped = seen(inside, outside.main)
    assert passes(outside.main, mapped, inside, outside.main)
    assert passes(outside.port, mapped, inside, outside.main) is another_port
    assert passes(outside.other, mapped, inside, outside.main) is another_address
    # Once the inside has sent there, it is heard from there: with independent mapping, that is.
    if nat is not Nat.RANDOM:
        assert seen(inside, outside.other) == mapped
        assert passes(outside.other, mapped, inside, outside.main)


@pytest.mark.parametrize("nat", [*INDEPENDENT, Nat.MASQUERADE, Nat.RANDOM])
def test_nothing_enters_where_nobody_has_sent(world: World, outside: Outside, nat: Nat) -> None:
    gateway, inside = home(world, nat)
    for _ in range(2):  # the early packet does not take the mapping that comes later, either
        outside.main.sendto(b"early", (gateway.ipv4, inside.getsockname()[1] ^ 0x4000))
        outside.main.sendto(b"early", (gateway.ipv4, inside.getsockname()[1]))
        outside.other.sendto(b"early", (gateway.ipv4, inside.getsockname()[1]))
    time.sleep(4 * HOP_S)
    mapped = seen(inside, outside.main)
    assert passes(outside.main, mapped, inside, outside.main)
    if nat is not Nat.RANDOM:
        assert seen(inside, outside.other) == mapped
    inside.setblocking(False)
    with pytest.raises(BlockingIOError):
        inside.recv(100)


def test_devices_in_one_home_reach_each_other(world: World) -> None:
    gateway = world.gateway(Nat.RANDOM)
    a, b = (world.device(gateway).udp("0.0.0.0") for _ in range(2))
    a.sendto(b"near", (f"{gateway.inside}.11", b.getsockname()[1]))
    assert b.recvfrom(100) == (b"near", (f"{gateway.inside}.10", a.getsockname()[1]))


@pytest.mark.parametrize("nat", INDEPENDENT)
@pytest.mark.parametrize("hairpin", [True, False], ids=["hairpin", "none"])
def test_hairpin(world: World, outside: Outside, nat: Nat, hairpin: bool) -> None:
    gateway = world.gateway(nat, hairpin=hairpin)
    a, b = (world.device(gateway).udp("0.0.0.0") for _ in range(2))
    places = seen(a, outside.main), seen(b, outside.main)
    # Both send, as two that punch do: the first packet may be filtered, the next one is not.
    a.sendto(b"one", tuple(places[1]))
    b.sendto(b"two", tuple(places[0]))
    a.sendto(b"three", tuple(places[1]))
    for each in (a, b):
        each.settimeout(0.5)
    if not hairpin:
        for each in (a, b):
            with pytest.raises(TimeoutError):
                each.recv(100)
        return
    assert a.recvfrom(100) == (b"two", tuple(places[1]))
    expected = [b"one", b"three"] if nat is Nat.INDEPENDENT else [b"three"]
    assert [b.recvfrom(100) for _ in expected] == [(each, tuple(places[0])) for each in expected]


@pytest.mark.parametrize("carrier", [Nat.INDEPENDENT, Nat.PORT_FILTER, Nat.RANDOM])
def test_two_layers(world: World, outside: Outside, carrier: Nat) -> None:
    gateway = world.gateway(carrier)
    _, inside = home(world, Nat.INDEPENDENT, behind=gateway)
    mapped = seen(inside, outside.main)
    assert mapped.host == gateway.ipv4
    assert (mapped == seen(inside, outside.other)) is (carrier is not Nat.RANDOM)
    stranger = world.server()
    with stranger.host.udp(stranger.ipv4) as sender:
        got_in = passes(sender, mapped, inside, outside.main)
    assert got_in is (carrier is Nat.INDEPENDENT)


def test_customers_of_a_carrier_do_not_see_each_other(world: World, outside: Outside) -> None:
    carrier = world.gateway(Nat.PORT_FILTER)
    (first, a), (_, b) = (home(world, Nat.INDEPENDENT, behind=carrier) for _ in range(2))
    mapped = seen(a, outside.main)
    b.sendto(b"neighbour", (first.ipv4, a.getsockname()[1] ^ 0x4000))
    assert not passes(b, mapped, a, outside.main)


@pytest.mark.parametrize("udp", [Udp.BLOCKED, Udp.TO_RELAY])
def test_udp_blocked(world: World, outside: Outside, udp: Udp) -> None:
    gateway = world.gateway(Nat.PORT_FILTER, udp=udp)
    inside = world.device(gateway).udp("0.0.0.0")
    with world.relay.host.udp(world.relay.ipv4, 4433) as relay:
        relay.settimeout(0.3)
        outside.main.settimeout(0.3)
        with pytest.raises(TimeoutError):
            seen(inside, outside.main)
        outside.main.settimeout(2.0)
        if udp is Udp.TO_RELAY:
            assert seen(inside, relay).host == gateway.ipv4
        else:
            with pytest.raises(TimeoutError):
                seen(inside, relay)


def test_ipv6_is_not_translated_but_filtered(world: World) -> None:
    gateway = world.gateway(Nat.RANDOM, ipv6=True)
    device = world.device(gateway)
    first, second = world.server(), world.server()
    inside = device.udp("::")
    a, b = (each.host.udp(each.ipv6) for each in (first, second))
    mapped = seen(inside, a)
    assert mapped == Address(f"{gateway.inside6}::10", inside.getsockname()[1])
    assert not passes(b, mapped, inside, a)
    assert seen(inside, b) == mapped
    assert passes(b, mapped, inside, a)


def test_every_hop_takes_its_time(world: World, outside: Outside) -> None:
    _, inside = home(world, Nat.PORT_FILTER)
    mapped = seen(inside, outside.main)
    begin = time.monotonic()
    seen(inside, outside.main)
    outside.main.sendto(b"back", tuple(mapped))
    assert inside.recv(100) == b"back"
    assert time.monotonic() - begin >= 4 * HOP_S


def test_a_wire_loses_all_that_it_is_told_to(world: World) -> None:
    site: Site = world.server()
    ours = site.host.udp(site.ipv4)
    theirs = _other_side(world, site)
    seen(ours, theirs)
    before = site.wire.counts()[0]
    site.wire.set(loss=1.0)
    for _ in range(10):
        ours.sendto(b"lost", theirs.getsockname())
    theirs.settimeout(4 * HOP_S)
    with pytest.raises(TimeoutError):
        theirs.recv(100)
    after = site.wire.counts()[0]
    assert after.frames == before.frames
    assert after.dropped - before.dropped >= 10


def test_a_cut_between_two_addresses(world: World, outside: Outside) -> None:
    gateway, inside = home(world, Nat.PORT_FILTER)
    mapped = seen(inside, outside.main)
    world.cut(gateway.ipv4, outside.hosts[0].ipv4)
    inside.settimeout(8 * HOP_S)
    inside.sendto(b"cut", outside.main.getsockname())
    outside.main.sendto(b"cut", tuple(mapped))
    with pytest.raises(TimeoutError):
        inside.recv(100)
    assert seen(inside, outside.other) == mapped
    world.restore(gateway.ipv4, outside.hosts[0].ipv4)
    assert seen(inside, outside.main) == mapped


@pytest.mark.parametrize("speaks", PortMapping)
def test_a_port_mapping_lets_anybody_in(
    world: World, outside: Outside, tmp_path: Path, speaks: PortMapping
) -> None:
    if MINIUPNPD is None:
        pytest.skip("not installed here: miniupnpd")
    gateway, inside = home(world, Nat.RANDOM)
    router = f"{gateway.inside}.1"
    daemon = MiniUpnpd(gateway, tmp_path, speaks)
    try:
        inside.sendto(_SEARCH, ("239.255.255.250", 1900))
        inside.sendto(b"\0\0", (router, 5351))  # RFC 6886 §3.2: which outside address?
        answers = {inside.recvfrom(1000)[1][1]}
        if speaks is PortMapping.ALL:
            answers.add(inside.recvfrom(1000)[1][1])
        inside.settimeout(0.2)
        with pytest.raises(TimeoutError):
            inside.recv(1000)
        ports = {PortMapping.UPNP: {1900}, PortMapping.NAT_PMP: {5351}}
        assert answers == ports.get(speaks, {1900, 5351})
        if speaks is PortMapping.UPNP:
            return
        port = inside.getsockname()[1]
        # RFC 6886 §3.3: map this UDP port to the same one outside, for an hour.
        inside.sendto(struct.pack("!BBHHHI", 0, 1, 0, port, port, 3600), (router, 5351))
        _, _, result, _, _, mapped, _ = struct.unpack("!BBHIHHI", inside.recv(100))
        assert (result, mapped) == (0, port)
        inside.settimeout(2.0)
        outside.other.sendto(b"hello", (gateway.ipv4, port))
        assert inside.recv(100) == b"hello"
    finally:
        daemon.close()


_SEARCH = (
    b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
    b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
)


def _other_side(world: World, site: Site) -> socket.socket:
    relay: Host = world.relay.host
    assert site.ipv4 != world.relay.ipv4
    return relay.udp(world.relay.ipv4)


def test_a_stranger_can_send_from_any_address(
    world: World, outside: Outside, tmp_path: Path
) -> None:
    """Into homes, too: with these filters, only the peers themselves can refuse it."""
    gateway, inside = home(world, Nat.INDEPENDENT)
    gateway.wire.record(recording := tmp_path / "seen")
    mapped = seen(inside, outside.main)
    gateway.wire.record(None)
    (datagram,) = datagrams(recording)
    assert datagram.source == mapped
    stranger = Stranger(world)
    claimed = Address(world.relay.ipv4, 12_345)
    stranger.send_as(datagram.reflected, claimed)
    assert inside.recvfrom(100) == (datagram.payload, tuple(claimed))
    stranger.send(datagram.reflected.forged(8))
    assert inside.recv(100) != datagram.payload
    stranger.close()
