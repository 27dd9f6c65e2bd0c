"""What `quicpipe doctor` finds on a virtual network, and how it says it."""

import asyncio
import dataclasses
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.doctor.examine import examine
from peers.doctor.knock import Knock, system_knock
from peers.doctor.path_mtu import BASE, HEADERS, LARGEST_IP, MtuSearch, encode_probe, is_answer
from peers.doctor.report import GatewayReport, Reach, Report
from peers.doctor.words import in_short, in_words
from peers.nat.outlook import Mapping
from peers.relay_name import RelayName
from peers.trust import RelayTrust
from relay.certificate import ServerCertificate
from relay.wire.address import Address
from relay.wire.invariants import LongHeader, parse_invariants
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_nat import Behaviour, MappingBehaviour
from tests.lab.virtual_network import Conditions
from tests.lab.virtual_relay import PORT
from tests.peers.relay_world import PINNED, World

from .nat_world import PUBLIC, RELAY_NAME, NatWorld, nat_world

NAME = RelayName(RELAY_NAME, PORT)


def report_of(
    certificate: ServerCertificate,
    prepare: Callable[[NatWorld], None] = lambda _: None,
    *,
    knock: Knock = Knock.SILENT,
    fingerprint: str | None = None,
    name: RelayName | None = NAME,
    **options: Any,
) -> Report:
    """Examine a network that was prepared."""

    async def knocked(_: Address) -> Knock:
        return knock

    async def main() -> Report:
        async with nat_world(certificate, **options) as world:
            prepare(world)
            trust = RelayTrust(fingerprint or certificate.fingerprint)
            begin = asyncio.get_running_loop().time()
            report = await examine(world.peer, name, trust, knock=knocked)
            assert asyncio.get_running_loop().time() - begin < 25.0
            return report

    return run_virtual(main())


V4: dict[str, Any] = {"relay": ("192.0.2.1",), "peer": ("198.51.100.2",)}


def test_both_families_without_a_nat(certificate: ServerCertificate) -> None:
    report = report_of(certificate)
    assert report.problem == ""
    assert report.udp_passes
    assert report.fingerprint == certificate.fingerprint
    for family, host in ((report.ipv4, "198.51.100.2"), (report.ipv6, "2001:db8:d::2")):
        assert family.reach is Reach.REACHED
        assert family.outside is not None
        assert family.outside.host == host
        assert family.behind_nat is False
        assert family.mapping is Mapping.INDEPENDENT
        assert family.hairpins is None
        assert family.path_mtu == LARGEST_IP
        assert family.round_trip_s == pytest.approx(0.06, abs=0.03)
    assert "no NAT" in in_short(report)


@pytest.mark.parametrize("mapping", list(MappingBehaviour))
@pytest.mark.parametrize("hairpin", [False, True])
def test_a_nat_and_what_it_does(
    certificate: ServerCertificate, mapping: MappingBehaviour, hairpin: bool
) -> None:
    def prepare(world: NatWorld) -> None:
        behaviour = Behaviour(mapping=mapping, hairpin=hairpin)
        world.behind(world.network.nat(PUBLIC, behaviour=behaviour))

    report = report_of(certificate, prepare, **V4)
    family = report.ipv4
    assert family.behind_nat
    assert family.outside is not None
    assert family.outside.host == PUBLIC
    if mapping is MappingBehaviour.INDEPENDENT:
        assert family.mapping is Mapping.INDEPENDENT
        assert family.hairpins is hairpin
    elif mapping is MappingBehaviour.ADDRESS_AND_PORT:
        assert family.mapping is Mapping.DEPENDENT
        assert "relay carries" in in_short(report)
    assert report.ipv6.reach is Reach.NO_ADDRESS


def test_a_nat_that_maps_by_address_shows_at_a_second_address(
    certificate: ServerCertificate,
) -> None:
    def prepare(world: NatWorld) -> None:
        behaviour = Behaviour(mapping=MappingBehaviour.ADDRESS)
        world.behind(world.network.nat(PUBLIC, behaviour=behaviour))

    assert report_of(certificate, prepare, **V4).ipv4.mapping is Mapping.INDEPENDENT  # by its ports


def test_a_relay_on_one_port_cannot_say_how_the_nat_maps(certificate: ServerCertificate) -> None:
    report = report_of(
        certificate, lambda world: world.behind(world.network.nat(PUBLIC)), ports=(PORT,), **V4
    )
    assert report.ipv4.mapping is Mapping.UNKNOWN
    assert any("no second address" in line for line in in_words(report))


@pytest.mark.parametrize("mtu", [1280, 1420, 1492, 1499, 1500])
def test_the_path_mtu_to_the_byte(certificate: ServerCertificate, mtu: int) -> None:
    def prepare(world: NatWorld) -> None:
        world.peer.up.conditions = Conditions(latency_s=0.02, mtu=mtu)

    report = report_of(certificate, prepare)
    assert (report.ipv4.path_mtu, report.ipv6.path_mtu) == (mtu, mtu)


def test_what_is_lost_now_and_then_does_not_mislead_it(certificate: ServerCertificate) -> None:
    def prepare(world: NatWorld) -> None:
        world.behind(world.network.nat(PUBLIC))
        world.peer.set_conditions(Conditions(latency_s=0.02, loss=0.05))

    report = report_of(certificate, prepare, **V4)
    assert report.ipv4.mapping is Mapping.INDEPENDENT
    assert report.ipv4.path_mtu is not None
    assert report.ipv4.path_mtu > LARGEST_IP - 50


@pytest.mark.parametrize(
    ("knock", "words"),
    [
        (Knock.SILENT, "blocks UDP"),
        (Knock.REFUSED, "no relay runs at"),
        (Knock.NO_ROUTE, "no way to the relay"),
    ],
)
def test_a_relay_that_is_not_reached_is_said_in_one_line(
    certificate: ServerCertificate, knock: Knock, words: str
) -> None:
    def prepare(world: NatWorld) -> None:
        world.peer.up.passes = lambda *_: False

    report = report_of(certificate, prepare, knock=knock)
    assert not report.is_reached
    assert report.udp_passes is None
    assert words in report.problem
    assert "\n" not in report.problem
    assert RELAY_NAME in report.problem
    assert report.ipv4.reach.value == knock.value


def test_a_relay_that_answers_although_the_system_says_no_is_reached(
    certificate: ServerCertificate,
) -> None:
    assert report_of(certificate, knock=Knock.REFUSED).is_reached


def test_a_relay_that_is_another_one_is_not_trusted(certificate: ServerCertificate) -> None:
    report = report_of(certificate, fingerprint="sha256:" + 64 * "0")
    assert report.ipv4.reach is report.ipv6.reach is Reach.UNTRUSTED
    assert "not the one expected" in report.problem


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {}, b'{"detail": "show me a token"}'), "token"),
        ((404, {}, b'{"detail": "there is nothing here"}'), "nothing here"),
        ((200, {}, b"nonsense"), "not JSON"),
    ],
)
def test_a_relay_that_does_not_say_where_it_sees_us(
    answer: tuple[int, dict[str, str], bytes], words: str
) -> None:
    async def main() -> Report:
        world = World()
        world.relay.script = [answer]

        async def knocked(_: Address) -> Knock:
            return Knock.SILENT

        report = await examine(world.peer_host, NAME, PINNED, knock=knocked)
        await world.close()
        return report

    report = run_virtual(main())
    assert report.is_reached
    assert report.problem == ""
    assert words in report.ipv4.problem
    (line,) = [line for line in in_words(report) if "does not say" in line]
    assert words in line


def test_a_name_that_does_not_resolve(certificate: ServerCertificate) -> None:
    report = report_of(certificate, name=RelayName("nowhere.example", 4433))
    assert "does not resolve" in report.problem
    assert not any(line.startswith("IPv4") for line in in_words(report))


def test_without_a_relay_there_is_still_something_to_say(certificate: ServerCertificate) -> None:
    report = report_of(certificate, name=None, **V4)
    assert report.problem == ""
    assert report.interfaces == ("198.51.100.2/24",)
    assert in_words(report) == ["addresses 198.51.100.2/24"]
    assert report.to_json()["relay"] is None


def test_json_has_everything_and_words_have_no_long_or_empty_lines(
    certificate: ServerCertificate,
) -> None:
    report = report_of(certificate, lambda world: world.behind(world.network.nat(PUBLIC)))
    document = json.loads(json.dumps(report.to_json()))
    assert document["ipv4"]["outside"].startswith(PUBLIC)
    assert set(document["ipv4"]) >= {"reach", "mapping", "hairpinning", "path_mtu", "outside"}
    report.gateway = GatewayReport("192.168.1.1", pcp=True, name="A 'B'", outside="100.64.0.9")
    lines = in_words(report)
    assert any("another NAT stands behind it" in line for line in lines)
    for line in lines:
        assert line.strip()
        assert len(line) < 160
    report.gateway = GatewayReport("192.168.1.1")
    assert any("maps no ports" in line for line in in_words(report))


def test_a_router_that_maps_ports_makes_up_for_a_dependent_mapping() -> None:
    report = Report("relay.example:4433")
    report.ipv4 = dataclasses.replace(
        report.ipv4,
        reach=Reach.REACHED,
        outside=Address("203.0.113.5", 1),
        behind_nat=True,
        mapping=Mapping.DEPENDENT,
    )
    report.gateway = GatewayReport("192.168.1.1", nat_pmp=True, outside="203.0.113.5")
    assert "maps a port" in in_short(report)
    report.gateway.outside = "100.64.0.9"
    assert "relay carries" in in_short(report)


@given(st.sampled_from([socket.AF_INET, socket.AF_INET6]), st.integers(1000, 1600))
def test_the_search_finds_every_limit(family: socket.AddressFamily, limit: int) -> None:
    search = MtuSearch(family)
    tries = 0
    while (size := search.next_size) is not None:
        search.tried(passed=size + HEADERS[family] <= limit)
        tries += 1
    if limit < BASE + HEADERS[family]:
        assert search.mtu is None
    else:
        assert search.mtu == min(limit, LARGEST_IP)
    assert tries <= 12


def test_a_probe_is_a_packet_that_a_quic_server_must_not_understand() -> None:
    destination, source = bytes(range(16)), bytes(range(16, 32))
    probe = encode_probe(destination, source, 1472)
    assert len(probe) == 1472
    header = parse_invariants(probe)
    assert isinstance(header, LongHeader)
    assert (header.destination_cid, header.source_cid) == (destination, source)
    answer = b"\x80" + bytes(4) + b"\x10" + source + b"\x10" + destination + b"\0\0\0\1"
    assert is_answer(answer, destination, source)
    for broken in (probe, answer[:30], b"", b"\0" + answer[1:], answer.replace(source, source[1:])):
        assert not is_answer(broken, destination, source)


def test_the_system_tells_a_closed_port_from_silence() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            where = Address.from_sockaddr(one.getsockname())
            assert await system_knock(where) is Knock.SILENT
        assert await system_knock(where) is Knock.REFUSED

    asyncio.run(main())
