"""Both ends of a pipe whose path agents are scripted, and how they reach each other directly."""

import asyncio
from collections.abc import Awaitable, Callable

from peers import PathPolicy, Pipe
from peers.endpoint import Endpoint
from peers.paths.path import RELAY, Action, Direct
from relay.core.outcome import Outcome
from relay.wire.address import Address
from tests.lab.pairs import Pair, joined
from tests.lab.scene import Scene
from tests.lab.transfer import Meter, receive, send
from tests.peers.dial_scene import run
from tests.peers.scripted_agent import Cast, switch


class Ends:
    """Both ends of a pipe on the virtual network, and how they reach each other directly."""

    def __init__(self, at: Scene, pair: Pair, cast: Cast) -> None:
        self.at = at
        self.pair = pair
        self.cast = cast
        self.agents = {pair.dialer: cast.dialer, pair.accepter: cast.accepter}

    def endpoint(self, pipe: Pipe) -> Endpoint:
        return pipe._driver._endpoint

    def do(self, pipe: Pipe, *actions: Action) -> None:
        """Have one end's driver carry these out, at once."""
        self.agents[pipe].actions += actions
        pipe._driver._pump(asyncio.get_running_loop().time())

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
        async with joined(at, path_policy=PathPolicy.ANY) as pair:
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
