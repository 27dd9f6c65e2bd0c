"""Strangers on the way, who see and repeat all: what they get, and that they move nothing."""

import asyncio
import random
from socket import AF_INET

import pytest

from peers.paths.path import RELAY, Direct
from relay.wire.address import Address
from tests.conftest import Note
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Packet

from .lab import World, independent


class Stranger:
    """Sees and repeats everything on the way, under any address."""

    def __init__(self, world: World) -> None:
        self.seen: list[Packet] = []
        self.world = world
        world.network.watchers.append(self._watch)

    def _watch(self, packet: Packet) -> None:
        if packet.source.host not in ("192.0.2.1", "192.0.2.66"):
            self.seen.append(packet)


@pytest.mark.parametrize("how", ["replay", "reflect", "forge", "spoof"])
def test_a_stranger_gets_no_byte_and_moves_nothing(how: str, note: Note) -> None:
    async def main() -> None:
        world = World(seed=1)
        host = world.network.host("stranger", "192.0.2.66")
        opened = host.open_socket(AF_INET, 6_666)
        got: list[bytes] = []
        opened.start(lambda batch: got.extend(datagram for datagram, _ in batch))
        stranger = Stranger(world)
        homes = [world.home(name, number) for number, name in ((1, "dialer"), (2, "accepter"))]
        dialer, accepter = await world.join(*homes)
        await asyncio.sleep(2)
        assert isinstance(dialer.agent.current, Direct)
        paths = dialer.agent.current, accepter.agent.current
        probes = world.probes
        sent = 0
        chance = random.Random(2)
        for packet in list(stranger.seen):
            if len(packet.datagram) < 29:
                continue
            datagram, target = packet.datagram, packet.destination
            if how == "reflect":
                target = packet.source
            elif how == "forge":
                datagram = datagram[:13] + chance.randbytes(len(datagram) - 13)
            if how == "spoof":
                world.network.route(Packet(datagram, packet.source, target))
            else:
                opened.send([datagram], target)
            sent += len(datagram)
            await asyncio.sleep(0.005)
        await asyncio.sleep(1)
        assert sent > 1_000
        assert not got
        assert (dialer.agent.current, accepter.agent.current) == paths
        assert len(dialer.switches) == len(accepter.switches) == 1
        for end in (dialer, accepter):
            for socket_id in end.sockets:
                assert not end.agent.accepts(socket_id, Address("192.0.2.66", 6_666))
        note(f"{sent} bytes sent, {sum(map(len, got))} got; {world.probes - probes} keepalives")
        assert world.probes - probes <= 4 * (world.now - 2) / 4 + 8

    run_virtual(main())


def test_a_probe_that_a_stranger_takes_elsewhere_proves_only_its_own_way() -> None:
    # He holds a fresh request back and sends it from his own address: it is authentic, and the
    # first. He gets one answer, as long as the request.
    async def main() -> None:
        world = World(seed=1)
        host = world.network.host("stranger", "192.0.2.66")
        opened = host.open_socket(AF_INET, 6_666)
        got: list[bytes] = []
        opened.start(lambda batch: got.extend(datagram for datagram, _ in batch))
        homes = [
            world.home(name, number, independent()) for number, name in ((1, "dialer"), (2, "a"))
        ]
        _, accepter = await world.join(*homes)
        await asyncio.sleep(2)
        path = accepter.agent.current
        assert isinstance(path, Direct)
        taken: list[bytes] = []

        def hold(datagram: bytes, source: Address, destination: Address) -> bool:
            taken.append(datagram)
            return False

        accepter.host.down.passes = hold
        await asyncio.sleep(3)  # a keepalive or an answer is under way
        held = [each for each in taken if each[1:13] in accepter.ids]
        accepter.host.down.passes = None
        assert held
        for datagram in held:
            accepter.agent.receive_probe(
                datagram, path.socket, Address("192.0.2.66", 6_666), world.now
            )
            accepter.pump()
        await asyncio.sleep(10)
        assert accepter.agent.current in (path, RELAY)
        assert not any("192.0.2.66" in str(each[1]) for each in accepter.switches)
        assert 0 < sum(map(len, got)) <= sum(map(len, held))

    run_virtual(main())
