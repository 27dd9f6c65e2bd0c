"""The routes of the kernel and other interfaces, frame by frame: what comes out, and which way."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bpf import netlink
from bpf.layout import KernelOutcome as K
from bpf.layout import Way
from bpf.pins import Pins
from bpf.syscall import FrameRun, run_on_frame
from relay.wire.address import Address
from tests.bpf.frames import OTHER_MAC, Frame
from tests.bpf.lab import KernelUnderTest
from tests.bpf.scene import PORT, RECEIVER, SENDER, Scene

from .lab import Host, Lab, attach_pass

XDP_PASS, XDP_TX, XDP_REDIRECT = 2, 3, 4
GATEWAYS = {4: ("10.0.0.254", "10.0.1.254"), 6: ("fd00::fe", "fd00:1::fe")}
GATEWAY_MACS = ("02:00:00:00:01:fe", "02:00:00:00:02:fe")
FAMILY_OPTION = {4: "-4", 6: "-6"}


@dataclass
class Router:
    """A host with two interfaces, and the program with frames that come in by the first."""

    host: Host
    kernel: KernelUnderTest
    scene: Scene
    links: list[netlink.Interface]

    def route(self, family: int, *where: str) -> None:
        """To the receiver."""
        receiver = self.scene.forwarded(family).destination[0]
        self.host.ip(FAMILY_OPTION[family], "route", "replace", *where[:1], receiver, *where[1:])

    def frame(self, family: int, payload: bytes | None = None) -> Frame:
        return self.scene.frame(family, payload, to_mac=self.links[0].mac)

    def run(self, family: int, payload: bytes | None = None) -> tuple[FrameRun, K]:
        """The verdict, and the one counter that moved."""
        before = self.kernel.counts()
        frame = self.frame(family, payload).build()
        with self.host.entered():
            result = run_on_frame(self.kernel.program, frame, ingress=self.links[0].index)
        after = self.kernel.counts()
        (moved,) = [each for each in K if after[each] != before[each]]
        if moved is not K.FORWARDED:
            assert (result.action, result.frame) == (XDP_PASS, frame)
        return result, moved

    def expected(self, family: int, out: int, gateway: str) -> bytes:
        """The frame that leaves by interface number `out` for a gateway."""
        macs = {"to_mac": bytes.fromhex(gateway.replace(":", "")), "from_mac": self.links[out].mac}
        return self.scene.forwarded(family, **macs).build()

    def way(self, family: int) -> Way:
        return Way(self.scene.entry(RECEIVER[family]).way)


@pytest.fixture(scope="module")
def kernel(pins: Path) -> Iterator[KernelUnderTest]:
    kernel = KernelUnderTest(Pins(pins / "routes"))
    yield kernel
    kernel.close()


@pytest.fixture
def router(lab: Lab, kernel: KernelUnderTest) -> Router:
    host, other = lab.router(), lab.host()
    links = []
    for number, mac in enumerate(GATEWAY_MACS):
        name = f"eth{number}"
        lab.wire(host, name, other, name)
        attach_pass(host, name)  # else its queue is not made for XDP
        host.ip("address", "add", f"10.0.{number}.1/24", "dev", name)
        host.ip("address", "add", f"fd00:{number or ''}:{':' if number else ''}1/64", "dev", name)
        for family in (4, 6):
            gateway = (GATEWAYS[family][number], "lladdr", mac, "dev", name, "nud", "permanent")
            host.ip("neighbour", "add", *gateway)
        with host.entered():
            links.append(netlink.interface(name))
    scene = Scene(kernel)
    kernel.configure(PORT, fib=3)
    for link in links:
        kernel.link(link.index, link.mac, native=True)
    for owner in RECEIVER.values():
        scene.entry(owner).hop.seen_ns = 0
        scene.entry(owner).route.until_ns = 0
    return Router(host, kernel, scene, links)


def test_out_by_the_interface_it_came_in(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][0])
    for _ in range(2):  # asked, and remembered
        result, outcome = router.run(family)
        assert (outcome, result.action) == (K.FORWARDED, XDP_TX)
        assert result.frame == router.expected(family, 0, GATEWAY_MACS[0])
    assert router.way(family) is Way.FIB


def test_out_by_another_interface(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][1])
    key = router.links[1].index.to_bytes(4, "little")
    with router.host.entered():
        router.kernel.maps.egress.put(key, key)
    for _ in range(2):
        result, outcome = router.run(family)
        assert (outcome, result.action) == (K.FORWARDED, XDP_REDIRECT)
        assert result.frame == router.expected(family, 1, GATEWAY_MACS[1])
    router.kernel.maps.egress.delete(key)


def test_an_interface_that_takes_no_part(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][1])
    router.kernel.maps.links.delete(router.links[1].index.to_bytes(4, "little"))
    assert router.run(family)[1] is K.NO_NEXT_HOP


def test_from_a_native_interface_to_a_generic_one(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][1])
    router.kernel.link(router.links[1].index, router.links[1].mac, native=False)
    assert router.run(family)[1] is K.NO_NEXT_HOP


@pytest.mark.parametrize("kind", ["unreachable", "blackhole", "prohibit"])
def test_routes_that_lead_nowhere(router: Router, family: int, kind: str) -> None:
    """What the relay's own send would be told is the relay's to hear."""
    router.route(family, kind)
    router.scene.learn_hop(RECEIVER[family])
    assert router.run(family)[1] is K.NO_NEXT_HOP


def test_a_gateway_not_known_yet(router: Router, family: int) -> None:
    unknown = GATEWAYS[family][0].replace("fe", "77").replace("254", "77")
    router.route(family, "unicast", "via", unknown)
    assert router.run(family)[1] is K.NO_NEXT_HOP
    assert router.way(family) is Way.NONE


def test_the_mtu_of_the_route(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][0], "mtu", "lock", "1280")
    cid = router.frame(family).payload[1:13]
    for _ in range(2):
        assert router.run(family, b"\x40" + cid + bytes(1300))[1] is K.TOO_BIG
        assert router.run(family)[1] is K.FORWARDED


def test_a_change_of_routes_is_followed(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][0])
    assert router.run(family)[0].frame == router.expected(family, 0, GATEWAY_MACS[0])
    other = GATEWAYS[family][0].replace("fe", "fd").replace("254", "253")
    mac = "02:00:00:00:01:fd"
    router.host.ip("neighbour", "add", other, "lladdr", mac, "dev", "eth0", "nud", "permanent")
    router.route(family, "unicast", "via", other)
    time.sleep(0.15)  # a tenth of a second, and a timer tick
    assert router.run(family)[0].frame == router.expected(family, 0, mac)


def test_a_moved_owner_has_no_route_yet(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][0])
    assert router.run(family)[1] is K.FORWARDED
    router.scene.move(
        RECEIVER[family], Address("203.0.113.9" if family == 4 else "2001:db8:9::9", 9)
    )
    assert router.run(family)[1] is K.NO_NEXT_HOP  # there is none to that address


def test_without_forwarding_the_learned_hop_counts(router: Router, family: int) -> None:
    router.host.sysctl("net.ipv4.ip_forward", 0)
    router.host.sysctl("net.ipv6.conf.all.forwarding", 0)
    router.route(family, "unicast", "via", GATEWAYS[family][0])
    assert router.run(family)[1] is K.NO_NEXT_HOP
    router.scene.learn_hop(RECEIVER[family], ifindex=router.links[0].index)
    result, outcome = router.run(family)
    assert (outcome, result.action) == (K.FORWARDED, XDP_TX)
    assert result.frame == router.scene.forwarded(family, to_mac=OTHER_MAC).build()
    assert router.way(family) is Way.LEARNED


def test_partial_checksums_of_a_sender_on_this_machine(router: Router, family: int) -> None:
    router.route(family, "unicast", "via", GATEWAYS[family][0])
    frame = router.scene.frame(family, to_mac=router.links[0].mac, checksum="partial").build()
    with router.host.entered():
        result = run_on_frame(router.kernel.program, frame, ingress=router.links[0].index)
    assert (result.action, result.frame) == (XDP_PASS, frame)
    assert router.scene.entry(SENDER[family]).hop.ifindex == router.links[0].index
