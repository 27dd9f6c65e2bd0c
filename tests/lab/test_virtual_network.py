"""The virtual network does to datagrams what it says it does."""

import asyncio
import socket

import pytest

from peers.network import DatagramSocket, Network
from relay.wire.address import Address

from .virtual_loop import run_virtual
from .virtual_network import PERFECT, Conditions, Host, VirtualNetwork, VirtualSocket

SERVER = Address("192.0.2.1", 4433)
Seen = list[tuple[bytes, Address]]


def _server(network: VirtualNetwork) -> tuple[Host, VirtualSocket, Seen]:
    host = network.host("server", SERVER.host)
    host.set_conditions(PERFECT)
    opened = host.open_socket(socket.AF_INET, SERVER.port)
    seen: Seen = []
    opened.start(seen.extend)
    return host, opened, seen


def _open(host: Host) -> tuple[VirtualSocket, Seen]:
    opened = host.open_socket(socket.AF_INET)
    seen: Seen = []
    opened.start(seen.extend)
    return opened, seen


def test_is_a_network_for_peers() -> None:
    network: Network = VirtualNetwork().host("any", "192.0.2.2")
    opened: DatagramSocket = network.open_socket(socket.AF_INET)
    assert opened.local.host == "0.0.0.0"
    with pytest.raises(OSError, match="AF_INET6"):
        network.open_socket(socket.AF_INET6)


def test_latency_adds_up_and_a_batch_stays_one() -> None:
    async def main() -> None:
        network = VirtualNetwork()
        host, _, seen = _server(network)
        host.down.conditions = Conditions(latency_s=0.02)
        client = network.host("client", "192.0.2.2")
        client.up.conditions = Conditions(latency_s=0.03)
        opened, _ = _open(client)
        batches: list[int] = []
        host.open_socket(socket.AF_INET, 5).start(lambda batch: batches.append(len(batch)))
        opened.send([b"a", b"b"], SERVER)
        opened.send([b"a", b"b"], Address(SERVER.host, 5))
        await asyncio.sleep(0.0499)
        assert not seen
        await asyncio.sleep(0.0002)
        source = Address("192.0.2.2", opened.local.port)
        assert seen == [(b"a", source), (b"b", source)]
        assert batches == [2]

    run_virtual(main())


def _arrivals(conditions: Conditions, count: int, gap_s: float = 0.01) -> list[int]:
    async def main() -> list[int]:
        network = VirtualNetwork(seed=7)
        _, _, seen = _server(network)
        client = network.host("client", "192.0.2.2")
        client.up.conditions = conditions
        opened, _ = _open(client)
        for number in range(count):
            opened.send([number.to_bytes(4, "big") + bytes(996)], SERVER)
            await asyncio.sleep(gap_s)
        await asyncio.sleep(10)
        return [int.from_bytes(datagram[:4], "big") for datagram, _ in seen]

    return run_virtual(main())


def test_loss_is_near_its_probability_and_repeatable() -> None:
    arrived = _arrivals(Conditions(loss=0.1), 5000)
    assert 4350 < len(arrived) < 4650
    assert arrived == sorted(arrived)
    assert arrived == _arrivals(Conditions(loss=0.1), 5000)


def test_duplication() -> None:
    arrived = _arrivals(Conditions(duplicate=0.2), 1000)
    assert set(arrived) == set(range(1000))
    assert 1120 < len(arrived) < 1280


def test_lateness_reorders() -> None:
    arrived = _arrivals(Conditions(late=0.1), 1000)
    assert arrived != sorted(arrived)
    assert sorted(arrived) == list(range(1000))


def test_jitter_keeps_the_order() -> None:
    assert _arrivals(Conditions(jitter_s=0.1), 1000) == list(range(1000))


def test_mtu_drops_and_never_fragments() -> None:
    assert _arrivals(Conditions(mtu=1028), 3) == [0, 1, 2]
    assert _arrivals(Conditions(mtu=1027), 3) == []


def test_rate_makes_a_queue_that_is_bounded() -> None:
    # 100 kB/s carry 97 datagrams of 1,028 bytes in a second; the queue takes 0.2 s of them more.
    arrived = _arrivals(Conditions(rate=100_000), 300, gap_s=0.001)
    assert 40 < len(arrived) < 60


def test_a_move_leaves_the_old_address_behind() -> None:
    async def main() -> None:
        network = VirtualNetwork()
        _, server, seen = _server(network)
        client = network.host("client", "192.0.2.2")
        opened, answers = _open(client)
        opened.send([b"before"], SERVER)
        await asyncio.sleep(1)
        client.move("198.51.100.9")
        opened.send([b"after"], SERVER)
        await asyncio.sleep(1)
        for datagram, source in seen:
            server.send([datagram], source)
        await asyncio.sleep(1)
        port = opened.local.port
        addresses = [Address("192.0.2.2", port), Address("198.51.100.9", port)]
        assert [source for _, source in seen] == addresses
        assert answers == [(b"after", SERVER)]
        assert network.dropped == {"core: no such address": 1}

    run_virtual(main())


def test_nat_hides_filters_rebinds_and_forgets() -> None:
    async def main() -> None:
        network = VirtualNetwork()
        host, server, seen = _server(network)
        stranger = host.open_socket(socket.AF_INET, 9)
        nat = network.nat("203.0.113.1", idle_timeout_s=30)
        client = network.host("client")
        client.move("10.0.0.2", behind=nat)
        opened, answers = _open(client)

        async def ask() -> Address:
            opened.send([b"ask"], SERVER)
            await asyncio.sleep(0.1)
            return seen[-1][1]

        first = await ask()
        assert first.host == "203.0.113.1"
        assert await ask() == first
        server.send([b"answer"], first)
        stranger.send([b"unasked"], first)
        await asyncio.sleep(0.1)
        assert answers == [(b"answer", SERVER)]
        nat.rebind()
        server.send([b"too late"], first)
        await asyncio.sleep(0.1)
        second = await ask()
        assert second != first
        await asyncio.sleep(31)
        server.send([b"forgotten"], second)
        await asyncio.sleep(0.1)
        assert answers == [(b"answer", SERVER)]
        assert network.dropped == {"nat: never contacted": 1, "nat: no mapping": 2}

    run_virtual(main())
