"""What stands around the path agent: endpoint, QUIC, control stream, driver, API."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from peers import Pipe
from peers.paths.path import RELAY, Direct
from relay.core.outcome import Outcome
from relay.wire.address import Address
from tests.lab.pairs import Pair, joined
from tests.lab.scene import Scene
from tests.lab.transfer import Meter, receive, send
from tests.peers.dial_scene import run
from tests.peers.scripted_agent import Cast, install, switch


@pytest.fixture
def cast(monkeypatch: pytest.MonkeyPatch) -> Cast:
    return install(monkeypatch)


class Ends:
    """Both ends of a pipe on the virtual network, and how they reach each other directly."""

    def __init__(self, at: Scene, pair: Pair, cast: Cast) -> None:
        self.at = at
        self.pair = pair
        self.cast = cast
        self.agents = {pair.dialer: cast.dialer, pair.accepter: cast.accepter}

    def endpoint(self, pipe: Pipe) -> object:
        return pipe._driver._endpoint

    def place(self, pipe: Pipe) -> tuple[int, Address]:
        """The socket's ID, and the public address, of an end."""
        way = pipe._driver._endpoint.current
        assert way is not None
        host = self.at.dialer if pipe is self.pair.dialer else self.at.accepter
        family = way.relay.family
        own = host.address(family)
        assert own is not None
        return way.socket_id, Address(own, way.socket.local.port)

    def path(self, pipe: Pipe) -> Direct:
        """From this end to the other."""
        other = self.pair.accepter if pipe is self.pair.dialer else self.pair.dialer
        return Direct(self.place(pipe)[0], self.place(other)[1])

    def accept(self) -> None:
        """Both agents take packets from each other's address."""
        for pipe, agent in self.agents.items():
            path = self.path(pipe)
            agent.accepted.add((path.socket, path.address))

    def switch(self, pipe: Pipe, *, direct: bool) -> None:
        """Have one end switch, at once."""
        switch(self.agents[pipe], self.path(pipe) if direct else RELAY)
        pipe._driver._pump(asyncio.get_running_loop().time())

    def switch_both(self, *, direct: bool) -> None:
        self.accept()
        for pipe in self.agents:
            self.switch(pipe, direct=direct)


def on_pipe(cast: Cast, main: Callable[[Ends], Awaitable[None]]) -> None:
    """Run a test on an open pipe."""

    async def whole(at: Scene) -> None:
        async with joined(at) as pair:
            await main(Ends(at, pair, cast))

    run(whole)


def forwarded(at: Scene) -> int:
    return at.relay.outcomes[Outcome.FORWARDED]


async def transfer(ends: Ends, size: int, meter: Meter | None = None) -> None:
    """From the dialer to the accepter; whole."""
    stream = ends.pair.dialer.open_stream(unidirectional=True)
    sending = asyncio.create_task(send(stream, size))
    received = await receive(await ends.pair.accepter.accept_stream(), meter)
    assert await sending == received


def test_a_pipe_that_has_left_the_relay_sends_nothing_through_it(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        ends.switch_both(direct=True)
        await asyncio.sleep(0.2)  # what is under way
        before = forwarded(ends.at)
        await transfer(ends, 1_000_000)
        assert forwarded(ends.at) == before
        assert ends.pair.dialer.statistics().path.startswith("direct to 203.0.113.3:")
        ends.switch_both(direct=False)
        await transfer(ends, 1_000_000)
        assert forwarded(ends.at) > before + 800
        assert ends.pair.accepter.statistics().path == "by the relay"

    on_pipe(cast, main)
