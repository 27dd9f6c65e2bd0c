"""What stands around the path agent: endpoint, QUIC, control stream, driver, API."""

import asyncio
from socket import AF_INET

import pytest

from peers import (
    CloseCode,
    NoDirectPath,
    PathChange,
    PipeClosed,
)
from peers.control import MAX_MESSAGE, MAX_QUEUED
from peers.endpoint import Drop
from peers.paths.path import (
    RELAY,
    Action,
    AddIds,
    CloseSockets,
    Direct,
    OpenSockets,
    RemoveIds,
    SendMessage,
    SendProbe,
    SwitchTo,
)
from peers.sockets import MAX_SOCKETS
from relay.wire.address import Address
from tests.lab.virtual_network import Conditions
from tests.peers.direct_ends import Ends, forwarded, on_pipe, transfer
from tests.peers.scripted_agent import Cast, ScriptedAgent, install


@pytest.fixture
def cast(monkeypatch: pytest.MonkeyPatch) -> Cast:
    return install(monkeypatch)


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


def test_switching_under_load_loses_nothing(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        moving = asyncio.create_task(transfer(ends, 3_000_000))
        for number in range(12):
            await asyncio.sleep(0.11)
            ends.switch_both(direct=number % 2 == 0)
        await moving

    on_pipe(cast, main)


def test_the_pipe_takes_packets_from_nowhere_else(cast: Cast) -> None:
    """Forged ones, and true ones that are replayed from elsewhere, change nothing."""

    async def main(ends: Ends) -> None:
        ends.switch_both(direct=True)
        await asyncio.sleep(0.2)
        stranger = ends.at.network.host("stranger", "192.0.2.77", "2001:db8:77::7")
        target = ends.path(ends.pair.dialer).address
        socket = stranger.open_socket(target.family)
        heard: list[bytes] = []
        socket.start(lambda batch: heard.extend(datagram for datagram, _ in batch))
        seen: list[bytes] = []
        ends.at.network.watchers.append(
            lambda packet: seen.append(packet.datagram) if packet.destination == target else None
        )
        await transfer(ends, 100_000)
        assert len(seen) > 80
        endpoint = ends.endpoint(ends.pair.accepter)
        before = endpoint.dropped[Drop.FOREIGN_SOURCE]
        replayed = list(seen)
        socket.send(replayed, target)
        await asyncio.sleep(0.2)
        assert endpoint.dropped[Drop.FOREIGN_SOURCE] - before == len(replayed)
        assert heard == []
        assert ends.cast.accepter.heard_by.keys() <= {RELAY, ends.path(ends.pair.accepter)}
        await transfer(ends, 100_000)

    on_pipe(cast, main)


def test_before_the_agent_accepts_a_source_nothing_from_there_is_taken(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        # The dialer is at once direct, the accepter's agent knows nothing of its address.
        ends.switch(ends.pair.dialer, direct=True)
        stream = ends.pair.dialer.open_stream(unidirectional=True)
        await stream.write(b"unheard")
        await asyncio.sleep(1.0)
        assert ends.endpoint(ends.pair.accepter).dropped[Drop.FOREIGN_SOURCE] > 0
        ends.switch(ends.pair.dialer, direct=False)
        received = await ends.pair.accepter.accept_stream()
        assert await received.read() == b"unheard"

    on_pipe(cast, main)


def test_probes_go_where_their_ids_say(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        ours, theirs = ends.path(ends.pair.dialer), ends.path(ends.pair.accepter)
        probe_id = bytes(range(12))
        probe = b"\x40" + probe_id + b"probe"
        ends.do(ends.pair.accepter, AddIds((probe_id,)))
        ends.do(ends.pair.dialer, SendProbe(probe, ours.socket, ours.address))
        await asyncio.sleep(0.1)
        assert cast.accepter.probes == [(probe, theirs.socket, theirs.address)]
        ends.do(ends.pair.accepter, RemoveIds((probe_id,)))
        dropped = ends.endpoint(ends.pair.accepter).dropped
        before = dropped[Drop.FOREIGN_SOURCE]
        ends.do(ends.pair.dialer, SendProbe(probe, ours.socket, ours.address))
        await asyncio.sleep(0.1)
        assert len(cast.accepter.probes) == 1
        assert dropped[Drop.FOREIGN_SOURCE] == before + 1
        ends.do(ends.pair.dialer, SendProbe(probe, 999, ours.address))
        assert ends.pair.dialer._driver.probes_unsent == 1

    on_pipe(cast, main)


def test_messages_arrive_whole_and_in_order_and_the_application_sees_none(cast: Cast) -> None:
    bodies = [bytes([number]) * size for number, size in enumerate((1, 5, MAX_MESSAGE, 700))]

    async def main(ends: Ends) -> None:
        ends.do(ends.pair.dialer, *map(SendMessage, bodies))
        ends.do(ends.pair.accepter, SendMessage(b"back"))
        await transfer(ends, 200_000)
        assert cast.accepter.messages == bodies
        assert cast.dialer.messages == [b"back"]
        assert ends.pair.dialer.statistics().streams_open == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await ends.pair.accepter.accept_stream()

    on_pipe(cast, main)


def test_a_control_stream_that_is_none_ends_the_pipe(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        ends.pair.dialer._quic.send_control((MAX_MESSAGE + 1).to_bytes(2, "big") + b"...")
        ends.pair.dialer._schedule()
        error = await ends.pair.accepter.wait_closed()
        assert "control message" in str(error)
        error = await ends.pair.dialer.wait_closed()
        assert isinstance(error, PipeClosed)
        assert error.code == CloseCode.PROTOCOL_VIOLATION

    on_pipe(cast, main)


def test_messages_that_nobody_takes_are_bounded(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        ends.at.accepter.down.conditions = Conditions(loss=1.0)
        ends.do(ends.pair.dialer, *[SendMessage(bytes(MAX_MESSAGE))] * 40)
        core = ends.pair.dialer._core
        assert core.control_dropped == 40 - MAX_QUEUED // (MAX_MESSAGE + 2)
        ends.at.accepter.down.conditions = Conditions()
        await asyncio.sleep(3.0)
        assert len(cast.accepter.messages) == MAX_QUEUED // (MAX_MESSAGE + 2)

    on_pipe(cast, main)


def test_who_stops_or_resets_the_control_stream_has_no_direct_path_and_nothing_else(
    cast: Cast,
) -> None:
    async def main(ends: Ends) -> None:
        dialer = ends.pair.dialer
        ends.do(dialer, SendMessage(b"one"))
        await asyncio.sleep(0.2)
        dialer._quic.reset_stream(2, 7)
        ends.pair.accepter._quic.stop_stream(2, 7)
        for pipe in ends.agents:
            pipe._schedule()
        await asyncio.sleep(0.5)
        ends.do(dialer, SendMessage(b"two"))
        await transfer(ends, 100_000)
        assert dialer._core.control_dropped == 1
        assert cast.accepter.messages == [b"one"]

    on_pipe(cast, main)


def test_sockets_are_opened_as_asked_and_closed_at_the_end(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        sockets = ends.endpoint(ends.pair.dialer).sockets
        before = len(sockets)
        ends.do(ends.pair.dialer, OpenSockets(256, AF_INET))
        assert len(cast.dialer.opened) == len(set(cast.dialer.opened)) == 256
        assert len(sockets) == before + 256
        kept, *others = cast.dialer.opened
        ends.do(
            ends.pair.dialer,
            SwitchTo(Direct(kept, Address("203.0.113.3", 5)), "lucky"),
            CloseSockets((*others, kept, 12_345)),
        )
        assert len(sockets) == before + 1, "the path keeps its own"
        ends.switch(ends.pair.dialer, direct=False)
        assert len(sockets) == before
        ends.do(ends.pair.dialer, OpenSockets(2 * MAX_SOCKETS, AF_INET))
        assert len(sockets) == MAX_SOCKETS
        # The scene ends with a look whether all are closed.

    on_pipe(cast, main)


def test_a_direct_path_outlives_the_socket_towards_the_relay(cast: Cast) -> None:
    """The relay is lost and found by another socket: the pipe, and its path, notice nothing."""

    async def main(ends: Ends) -> None:
        ends.switch_both(direct=True)
        before = ends.endpoint(ends.pair.dialer).current
        assert before is not None
        relay = set(ends.at.relay.host.addresses)
        port = before.socket.local.port

        def passes(datagram: bytes, source: Address, destination: Address) -> bool:
            return not (destination.host in relay and source.port == port)

        ends.at.dialer.up.passes = passes
        await asyncio.sleep(40.0)
        after = ends.endpoint(ends.pair.dialer).current
        assert after is not None
        assert after.socket is not before.socket
        assert ends.pair.dialer.statistics().path.startswith("direct")
        assert before.socket_id in ends.agents[ends.pair.dialer].views[-1].sockets
        assert ends.agents[ends.pair.dialer].network_changes > 0
        await transfer(ends, 200_000)
        ends.switch_both(direct=False)
        await transfer(ends, 200_000)
        await asyncio.sleep(4.0)
        assert before.socket_id not in ends.endpoint(ends.pair.dialer).sockets

    on_pipe(cast, main)


def test_the_agent_hears_what_the_pipe_does(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        ends.switch_both(direct=True)
        cast.dialer.calls.clear()
        cast.accepter.heard_by.clear()
        began = asyncio.get_running_loop().time()
        await transfer(ends, 500_000)
        names = [name for name, _ in cast.dialer.calls]
        assert {"sent", "measured", "acknowledged"} == set(names)
        assert all(0.039 < value < 0.2 for name, value in cast.dialer.calls if name == "measured")
        times = [at for name, at in cast.dialer.calls if name in {"sent", "acknowledged"}]
        assert all(at >= began for at in times)
        assert list(cast.accepter.heard_by) == [ends.path(ends.pair.accepter)]
        took = asyncio.get_running_loop().time() - began
        assert names.count("sent") <= took / 0.02 + 2, "not once for each batch"

    on_pipe(cast, main)


def test_a_goodbye_is_heard_though_the_direct_path_is_dead(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        ends.switch_both(direct=True)
        await transfer(ends, 10_000)
        relay = set(ends.at.relay.host.addresses)
        ends.at.dialer.up.passes = lambda _, source, destination: destination.host in relay
        await ends.pair.dialer.close(7, "bye")
        async with asyncio.timeout(1.0):
            error = await ends.pair.accepter.wait_closed()
        assert isinstance(error, PipeClosed)
        assert error.code == 7

    on_pipe(cast, main)


def test_changes_are_told_and_can_be_waited_for(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        dialer = ends.pair.dialer
        told: list[PathChange] = []
        dialer.on_path_change(told.append)
        waiting = asyncio.create_task(dialer.wait_direct())
        await asyncio.sleep(0.5)
        assert not waiting.done()
        ends.switch_both(direct=True)
        await waiting
        ends.switch_both(direct=False)
        assert [(change.path, change.reason) for change in told] == [
            (ends.path(dialer), "the test says so"),
            (RELAY, "the test says so"),
        ]
        with pytest.raises(NoDirectPath, match="within 3 s"):
            await dialer.wait_direct(3.0)
        assert dialer.is_open

    on_pipe(cast, main)


def test_an_error_in_the_search_costs_the_direct_path_and_nothing_else(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(ends: Ends) -> None:
        ends.switch_both(direct=True)
        await asyncio.sleep(0.2)

        def broken(self: ScriptedAgent, now: float) -> list[Action]:
            raise ZeroDivisionError("nobody foresaw it")

        monkeypatch.setattr(ScriptedAgent, "poll", broken)
        for agent in ends.agents.values():
            agent.timer = 0.0
        await transfer(ends, 500_000)
        assert ends.pair.dialer.statistics().path == "by the relay"
        assert "relay" in ends.pair.dialer.paths().lines()[0]

    on_pipe(cast, main)


def test_hundreds_of_messages_are_one_occasion(cast: Cast) -> None:
    async def main(ends: Ends) -> None:
        polls = 0

        def counted(now: float) -> list[Action]:
            nonlocal polls
            polls += 1
            return []

        cast.accepter.poll = counted  # type: ignore[method-assign]  # to count
        ends.do(ends.pair.dialer, *[SendMessage(b"x")] * 400)
        await asyncio.sleep(0.5)
        assert len(cast.accepter.messages) == 400
        assert polls < 20

    on_pipe(cast, main)
