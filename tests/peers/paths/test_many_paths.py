"""Between two ends with several addresses there are several good paths: one is taken, and kept."""

import asyncio

import pytest

from peers.paths.candidate import Kind, LocalCandidate
from peers.paths.path import Direct, SendProbe
from peers.paths.probe import SMALL
from relay.wire.address import Address
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Conditions

from .lab import End, World

NETWORKS = ("198.51.100", "198.51.101", "198.51.102", "198.51.103")
SEEDS = 30


async def _join(world: World, conditions: Conditions) -> tuple[End, End]:
    """Two hosts that are both on four networks."""
    hosts = []
    for number, name in ((1, "dialer"), (2, "accepter")):
        hosts.append(world.network.host(name))
        hosts[-1].move(*(f"{each}.{number}" for each in NETWORKS))
    ends = await world.join(*hosts)
    for end in ends:
        end.host.set_conditions(conditions)
        (socket,) = end.sockets
        port = end.sockets[socket].port
        others = [Address(each, port) for each in end.host.addresses[1:]]
        end.extra = tuple(LocalCandidate(Kind.HOST, each, socket) for each in others)
        end.start()
    return ends


@pytest.mark.parametrize("jitter_s", [0.0002, 0.002, 0.01])
def test_equal_paths_are_not_taken_in_turn(jitter_s: float) -> None:
    async def main(seed: int) -> None:
        world = World(seed)
        ends = await _join(world, Conditions(latency_s=0.0002, jitter_s=jitter_s))
        for _ in range(200):
            for end in ends:
                end.send_data()
            await asyncio.sleep(0.1)
        for end in ends:
            report = end.agent.report(world.now)
            assert sum(pair.state == "valid" for pair in report.pairs) == len(NETWORKS)
            assert len(end.switches) == 1, [f"{at:.4f} {path}" for at, path, _ in end.switches]
        used = [end.agent.current for end in ends]
        assert isinstance(used[0], Direct)
        assert isinstance(used[1], Direct)
        network = used[0].address.host.rpartition(".")[0]
        assert used[1].address.host == f"{network}.1"

    for seed in range(SEEDS):
        run_virtual(main(seed))


def test_the_accepter_does_not_go_back_to_a_path_that_was_named_earlier() -> None:
    """Probes that say "I use this path" change places where the earlier one takes longer."""

    async def main() -> None:
        world = World(seed=1)
        dialer, accepter = await _join(world, Conditions(latency_s=0.001))
        await asyncio.sleep(5)
        before = accepter.agent.current
        assert isinstance(before, Direct)
        engine = dialer.agent._engine
        used = engine.usage.pair
        assert used is not None
        other = next(each for each in engine.checklist.valid() if each is not used)
        engine.prober.request(other, SMALL, world.now, use=True)
        engine.prober.request(used, SMALL, world.now, use=True)
        late, now = (each.datagram for each in engine.actions if isinstance(each, SendProbe))
        engine.actions.clear()
        (socket,) = accepter.main.values()
        accepter.agent.receive_probe(now, socket, before.address, world.now)
        elsewhere = Address(f"{other.address.host.rpartition('.')[0]}.1", before.address.port)
        assert elsewhere != before.address
        assert accepter.agent.receive_probe(late, socket, elsewhere, world.now)
        accepter.pump()
        assert accepter.agent.current == before

    run_virtual(main())
