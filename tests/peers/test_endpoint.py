"""The endpoint over a network that is a list, with connections that only take notes."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from peers.endpoint import GRACE_S, Drop, Endpoint, destination_cid
from relay.wire.address import Address
from relay.wire.invariants import Malformed, parse_invariants
from tests.lab.virtual_loop import run_virtual
from tests.peers.list_network import RELAY, Ears, ListNetwork, Notes, Probes

OTHER_RELAY = Address("2001:db8::1", 4433)
CID_A = bytes(range(12))
CID_B = bytes(range(20, 32))


def short(cid: bytes, rest: bytes = b"payload") -> bytes:
    return b"\x40" + cid + rest


def long(destination: bytes, rest: bytes = b"") -> bytes:
    return b"\xc0\0\0\0\1" + bytes([len(destination)]) + destination + b"\0" + rest


class Scene:
    """An endpoint with one way and one pipe whose connection ID is CID_A."""

    def __init__(self) -> None:
        self.network = ListNetwork()
        self.endpoint = Endpoint(self.network)
        self.way = self.endpoint.open(RELAY)
        self.endpoint.use(self.way)
        self.socket = self.network.sockets[0]
        self.pipe = Notes()
        self.place = self.endpoint.place()
        self.place.attach(self.pipe)
        self.place.add(CID_A)


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_batch_is_fed_whole_then_processed_once_and_flushed_once() -> None:
    async def scene() -> None:
        it = Scene()
        await settle()
        it.pipe.calls.clear()
        it.pipe.to_send = [b"ack"]
        it.socket.arrive(short(CID_A, b"1"), short(CID_A, b"2"), long(CID_A, b"3"))
        assert it.pipe.calls == ["receive", "receive", "receive", "process"]
        assert it.pipe.received[0] == short(CID_A, b"1")
        await settle()
        assert it.pipe.calls == ["receive", "receive", "receive", "process", "send"]
        assert it.socket.sent == [([b"ack"], RELAY)]
        it.endpoint.close()

    run_virtual(scene())


def test_what_an_application_answers_goes_out_in_the_same_flush() -> None:
    async def scene() -> None:
        it = Scene()
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        it.pipe.on_process = lambda: None if woken.done() else woken.set_result(None)

        async def application() -> None:
            await woken
            it.pipe.to_send.append(b"answer")
            it.place.schedule()

        await settle()
        task = asyncio.create_task(application())
        await settle()
        it.pipe.to_send = [b"ack"]
        it.socket.arrive(short(CID_A))
        await settle()
        assert it.socket.sent == [([b"ack", b"answer"], RELAY)]
        await task
        it.endpoint.close()

    run_virtual(scene())


def test_every_drop_is_counted_by_reason() -> None:
    async def scene() -> None:
        it = Scene()
        it.socket.arrive(short(CID_B))
        it.socket.arrive(short(CID_A), source=Address("192.0.2.66", 4433))
        it.socket.arrive(short(CID_A), source=RELAY._replace(port=4434))
        it.socket.arrive(b"", b"\x40 short", b"\xc0")
        assert it.endpoint.dropped == {
            Drop.UNKNOWN_CID: 1,
            Drop.FOREIGN_SOURCE: 2,
            Drop.MALFORMED: 3,
        }
        assert it.pipe.received == []
        it.endpoint.close()

    run_virtual(scene())


def test_sending_before_there_is_a_way_is_a_counted_drop() -> None:
    async def scene() -> None:
        endpoint = Endpoint(ListNetwork())
        pipe = Notes()
        pipe.to_send = [b"1", b"2"]
        endpoint.place().attach(pipe)
        await settle()
        assert endpoint.dropped == {Drop.NO_WAY: 2}
        endpoint.close()

    run_virtual(scene())


def test_pipes_follow_a_change_of_way_and_the_old_one_lingers() -> None:
    async def scene() -> None:
        it = Scene()
        new_way = it.endpoint.open(OTHER_RELAY)
        it.endpoint.use(new_way)
        it.pipe.to_send = [b"data"]
        it.place.schedule()
        await settle()
        old, new = it.network.sockets

        def closed() -> list[bool]:
            return [each.closed for each in it.network.sockets]

        assert new.sent == [([b"data"], OTHER_RELAY)]
        await asyncio.sleep(GRACE_S - 0.01)
        old.arrive(short(CID_A))  # was under way
        assert len(it.pipe.received) == 1
        assert closed() == [False, False]
        await asyncio.sleep(0.02)
        assert closed() == [True, False]
        it.endpoint.close()
        assert closed() == [True, True]

    run_virtual(scene())


def test_a_way_used_again_within_its_grace_stays() -> None:
    async def scene() -> None:
        it = Scene()
        other = it.endpoint.open(OTHER_RELAY)
        it.endpoint.use(other)
        it.endpoint.use(it.way)
        await asyncio.sleep(2 * GRACE_S)
        assert [each.closed for each in it.network.sockets] == [False, True]
        it.endpoint.release(it.way)  # the current one is never released
        assert not it.socket.closed
        it.endpoint.close()

    run_virtual(scene())


def test_connections_to_the_relay_keep_to_their_own_way() -> None:
    async def scene() -> None:
        it = Scene()
        candidate = it.endpoint.open(OTHER_RELAY)
        connection = Notes()
        connection.to_send = [b"hello"]
        place = it.endpoint.place(candidate)
        place.attach(connection)
        place.add(CID_B)
        await settle()
        assert it.network.sockets[1].sent == [([b"hello"], OTHER_RELAY)]
        assert it.socket.sent == []
        it.network.sockets[1].arrive(short(CID_B), source=OTHER_RELAY)
        assert connection.received == [short(CID_B)]
        it.endpoint.close()

    run_virtual(scene())


def test_the_observer_hears_of_the_current_way_only() -> None:
    async def scene() -> None:
        it = Scene()
        ears = Ears()
        it.endpoint.observer = ears
        candidate = it.endpoint.open(OTHER_RELAY)
        connection = Notes()
        place = it.endpoint.place(candidate)
        place.attach(connection)
        place.add(CID_B)
        await settle()
        it.network.sockets[1].arrive(short(CID_B), source=OTHER_RELAY)
        await settle()
        assert ears.heard_things == []
        it.socket.arrive(short(CID_B))  # its packets may come by another way, too
        assert ears.heard_things == ["heard"]
        it.pipe.to_send = [b"ack"]
        it.socket.arrive(short(CID_A))
        await settle()
        assert ears.heard_things == ["heard", "heard", "pipe_received", "pipe_sent"]
        it.endpoint.close()

    run_virtual(scene())


def test_timers_fire_at_their_time_and_are_followed_by_process_and_send() -> None:
    async def scene() -> None:
        it = Scene()
        other = Notes()
        other.timer = 2.0
        it.endpoint.place().attach(other)
        it.pipe.timer = 5.0
        it.place.schedule()
        await settle()
        it.pipe.calls.clear()
        await asyncio.sleep(10.0)
        assert other.fired == [2.0]
        assert it.pipe.fired == [5.0]
        assert it.pipe.calls == ["timer", "process", "send"]
        it.endpoint.close()

    run_virtual(scene())


def test_a_timer_that_moves_earlier_or_later_fires_once_at_its_new_time() -> None:
    async def scene() -> None:
        it = Scene()
        for timer in (5.0, 1.0, 7.0):
            it.pipe.timer = timer
            it.place.schedule()
            await settle()
        await asyncio.sleep(20.0)
        assert it.pipe.fired == [7.0]
        it.endpoint.close()

    run_virtual(scene())


def test_a_timer_survives_the_end_of_another_connection() -> None:
    async def scene() -> None:
        it = Scene()
        other = Notes()
        other.timer = 1.0
        place = it.endpoint.place()
        other.on_process = place.detach
        place.attach(other)
        it.pipe.timer = 5.0
        it.place.schedule()
        await asyncio.sleep(10.0)
        assert other.fired == [1.0]
        assert it.pipe.fired == [5.0]
        it.endpoint.close()

    run_virtual(scene())


def test_the_first_datagram_after_a_second_of_silence_is_a_return() -> None:
    async def scene() -> None:
        it = Scene()
        probes = Probes()
        it.place.prober = probes
        for pause in (0.0, 0.9, 1.1, 0.5, 30.0):
            await asyncio.sleep(pause)
            it.socket.arrive(short(CID_A))
        assert probes.returns == [2.0, 32.5]
        assert it.place.last_heard == 32.5
        it.endpoint.probe_pipes(40.0)
        assert probes.moves == [40.0]
        it.endpoint.close()

    run_virtual(scene())


def test_whoever_watches_a_connection_is_called_after_it_has_handled_the_batch() -> None:
    async def scene() -> None:
        it = Scene()
        await settle()
        it.pipe.calls.clear()
        it.place.on_heard = lambda: it.pipe.calls.append("on_heard")
        it.socket.arrive(short(CID_A), short(CID_A))
        assert it.pipe.calls == ["receive", "receive", "process", "on_heard"]
        it.endpoint.close()

    run_virtual(scene())


def test_a_detached_connection_is_left_alone() -> None:
    async def scene() -> None:
        it = Scene()
        it.pipe.timer = 1.0
        await settle()
        it.place.detach()
        it.place.detach()
        it.place.schedule()
        it.pipe.calls.clear()
        it.socket.arrive(short(CID_A))
        await asyncio.sleep(2.0)
        assert it.pipe.calls == []
        assert it.endpoint.dropped == {Drop.UNKNOWN_CID: 1}
        it.endpoint.close()

    run_virtual(scene())


def test_a_connection_ended_by_another_ones_event_in_the_same_batch() -> None:
    async def scene() -> None:
        it = Scene()
        second = Notes()
        place = it.endpoint.place()
        place.attach(second)
        place.add(CID_B)
        it.pipe.on_process = place.detach
        it.socket.arrive(short(CID_A), short(CID_B))
        await settle()
        assert "process" not in second.calls
        it.endpoint.close()

    run_virtual(scene())


def test_routes_can_be_withdrawn_and_closing_forgets_all() -> None:
    async def scene() -> None:
        it = Scene()
        it.place.add(CID_B)
        it.place.discard(CID_A)
        it.place.discard(CID_A)
        it.socket.arrive(short(CID_A), short(CID_B))
        assert it.pipe.received == [short(CID_B)]
        it.endpoint.close()
        it.pipe.calls.clear()
        it.place.schedule()
        await asyncio.sleep(1.0)
        assert it.pipe.calls == []
        assert it.socket.closed

    run_virtual(scene())


@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: b"\xc0\0\0\0\1" + tail))
def test_the_short_cut_reads_what_the_parser_reads(datagram: bytes) -> None:
    header = parse_invariants(datagram)
    expected = None if isinstance(header, Malformed) else header.destination_cid
    assert destination_cid(datagram) == expected
