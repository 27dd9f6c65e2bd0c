"""QUIC that would exhaust the server, or raise in it. Another client is served afterwards."""

import asyncio
import random
from collections.abc import Callable

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicFrameType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from relay.core.path import Path
from relay.http3.quic import CONNECTION_WINDOW, STREAM_WINDOW
from relay.http3.server import Failure, Http3Limits, Http3Server, Refused
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import Client, World, certificate, path_of, until


def stream_frame(stream_id: int, offset: int, data: bytes) -> bytes:
    return encode_uint_var(stream_id) + encode_uint_var(offset) + encode_uint_var(len(data)) + data


STREAM_WITH_OFFSET_AND_LENGTH = QuicFrameType.STREAM_BASE | 4 | 2


@pytest.mark.parametrize(
    ("frame_type", "payload"),
    [
        (STREAM_WITH_OFFSET_AND_LENGTH, stream_frame(0, STREAM_WINDOW, b"x")),
        (STREAM_WITH_OFFSET_AND_LENGTH, stream_frame(4 * 16, 0, b"x")),
        (STREAM_WITH_OFFSET_AND_LENGTH, stream_frame(2 + 4 * 8, 0, b"x")),
        (STREAM_WITH_OFFSET_AND_LENGTH, stream_frame(1, 0, b"x")),
        (STREAM_WITH_OFFSET_AND_LENGTH, stream_frame(3, 0, b"x")),
        (QuicFrameType.CRYPTO, encode_uint_var(400_000) + encode_uint_var(1) + b"x"),
        (QuicFrameType.CRYPTO, encode_uint_var(0) + encode_uint_var(4) + b"\x01\x00\x00\x00"),
        (QuicFrameType.DATAGRAM_WITH_LENGTH, encode_uint_var(3) + b"abc"),
        (QuicFrameType.HANDSHAKE_DONE, b""),
        (QuicFrameType.NEW_TOKEN, encode_uint_var(3) + b"abc"),
        (QuicFrameType.RETIRE_CONNECTION_ID, encode_uint_var(99)),
        (QuicFrameType.STOP_SENDING, encode_uint_var(3) + encode_uint_var(0)),  # our own control
        (QuicFrameType.STOP_SENDING, encode_uint_var(2) + encode_uint_var(0)),  # not ours to send
        (QuicFrameType.RESET_STREAM, encode_uint_var(2) + b"\x00" + encode_uint_var(10_000)),
        (QuicFrameType.RESET_STREAM, encode_uint_var(3) + b"\x00\x00"),
        (QuicFrameType.MAX_STREAMS_BIDI, encode_uint_var(2**61)),
        (0x3F, b""),
    ],
    ids=lambda value: f"{value:#x}" if isinstance(value, int) else value[:6].hex(),
)
def test_forbidden_frame_closes_its_connection_only(frame_type: int, payload: bytes) -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            client.quic.inject(frame_type, payload)
            client.transmit()
            await until(client.terminated.done, 60.0)
            assert len(world.closed) == 1
            await world.assert_serves()
            assert Failure.INTERNAL_ERROR not in world.server.counters.failures

    run_virtual(run())


def test_windows_do_not_grow() -> None:
    """A byte at the far end of each window in turn: aioquic would double it each time."""

    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            stream_id = client.next_stream()
            client.quic.inject(
                STREAM_WITH_OFFSET_AND_LENGTH, stream_frame(stream_id, STREAM_WINDOW - 1, b"x")
            )
            client.transmit()
            await asyncio.sleep(0.1)
            limits = client.quic
            assert limits._remote_max_data == CONNECTION_WINDOW
            assert limits._streams[stream_id].max_stream_data_remote == STREAM_WINDOW
            await world.assert_serves()

    run_virtual(run())


def test_connection_window_moves_on_with_what_has_arrived() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            body = b"{" + b" " * 3000
            for _ in range(60):  # 180 kB: nearly three windows
                assert (await client.post("/v1/register", body)).status == 400
            assert client.quic._remote_max_data > 2 * CONNECTION_WINDOW

    run_virtual(run())


def test_streams_are_given_back() -> None:
    async def run() -> None:
        async with World(limits=Http3Limits(max_streams=4)) as world:
            client = await world.connect()
            for _ in range(40):
                assert (await client.get("/health")).status == 200
            assert client.quic._remote_max_streams_bidi <= 40 + 4

    run_virtual(run())


def test_too_many_requests_at_once() -> None:
    async def run() -> None:
        gate = asyncio.Event()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == "/wait":
                await gate.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        async with World(application, Http3Limits(max_requests=3)) as world:
            client = await world.connect()
            waiting = [client.request("GET", "/wait")[1] for _ in range(3)]
            refused = await client.get("/wait")
            assert refused.status == 429
            assert int(refused.headers[b"retry-after"]) >= 1
            assert refused.content_type == "application/problem+json"
            await world.assert_serves("/quick", 204)
            gate.set()
            for response in waiting:
                await response.done
                assert response.status == 204
            assert (await client.get("/wait")).status == 204

    run_virtual(run())


def test_client_that_acknowledges_nothing() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            client.drop_received = True
            client.quic._loss._cc.congestion_window = 10**9  # nor does it slow down
            for uid in range(5000):
                client.quic.send_ping(uid)
                client.transmit()
                await asyncio.sleep(0.001)
                if not world.server.counters.connections:
                    break
            assert world.server.counters.failures[Failure.PROTOCOL_ERROR] == 1
            await world.assert_serves()

    run_virtual(run())


def test_client_that_only_pings_is_asked_to_acknowledge() -> None:
    """Else the relay would remember each acknowledgement that it ever sent."""

    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            for uid in range(3000):  # half a day
                client.quic.send_ping(uid)
                client.transmit()
                await asyncio.sleep(15.0)
            assert world.server.counters.connections == 1
            assert (await client.get("/health")).status == 200

    run_virtual(run(), limit_s=100_000.0)


def test_damaged_datagrams_of_a_live_connection() -> None:
    chance = random.Random(1)

    async def run() -> None:
        async with World() as world:
            client = Client(world, path_of(1000))
            intact: Callable[[bytes, Path], None] = world.server.receive_datagram

            def damage(datagram: bytes, path: Path) -> None:
                for _ in range(3):
                    octets = bytearray(datagram[: chance.randrange(1, len(datagram) + 1)])
                    for _ in range(chance.randrange(1, 8)):
                        octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
                    intact(bytes(octets), path)
                intact(datagram, path)

            world.to_server = damage
            client.connect()
            await client.established
            for _ in range(10):
                assert (await client.get("/health")).status == 200
            world.to_server = intact
            await world.assert_serves()
            assert Failure.INTERNAL_ERROR not in world.server.counters.failures

    run_virtual(run())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    datagrams=st.lists(
        st.one_of(
            st.binary(max_size=1500),
            st.builds(
                lambda first, rest, size: (bytes([first, 0, 0, 0, 1]) + rest).ljust(size, b"\0"),
                st.integers(0xC0, 0xFF),
                st.binary(max_size=100),
                st.integers(0, 1300),
            ),
        ),
        max_size=5,
    )
)
def test_any_datagram_is_taken_or_counted(datagrams: list[bytes]) -> None:
    """Any bytes: no exception, no internal error, and each is counted as refused or has begun
    something that is ended later."""

    async def run() -> None:
        async with World() as world:
            for datagram in datagrams:
                world.server.receive_datagram(datagram, path_of(1000))
            await asyncio.sleep(1.0)
            counters = world.server.counters
            assert Failure.INTERNAL_ERROR not in counters.failures
            assert sum(counters.refused.values()) + sum(counters.failures.values()) >= len(
                {datagram for datagram in datagrams if len(datagram) < 1200}
            )
            assert sum(len(datagram) for datagram, _ in world.sent) <= sum(map(len, datagrams))

    run_virtual(run())


@pytest.mark.parametrize("size", [1199, 1200])
def test_short_header_for_nobody(size: int) -> None:
    async def run() -> None:
        async with World() as world:
            world.server.receive_datagram(b"\x40" + b"\xff" * (size - 1), path_of(1))
            await asyncio.sleep(0.1)
            assert world.server.counters.refused == {Refused.UNKNOWN_CONNECTION: 1}
            assert not world.sent

    run_virtual(run())


def test_failing_callbacks_and_application_end_nothing_else() -> None:
    """Our own side's failures, too, stay where they are."""

    async def run() -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] == "/raise":
                raise RuntimeError("on purpose")
            if scope["path"] == "/half":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                raise RuntimeError("on purpose")
            if scope["path"] != "/silent":
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body"})

        async with World(application) as world:
            client = await world.connect()
            assert (await client.get("/raise")).status == 500
            assert (await client.get("/silent")).status == 500
            assert (await client.get("/half")).reset is not None
            assert (await client.get("/quick")).status == 204
            assert world.server.counters.failures[Failure.APPLICATION_ERROR] == 2

    run_virtual(run())

    async def run_callbacks() -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("on purpose")

        async with World() as world:
            server = Http3Server(
                world.application,
                certificate=certificate(),
                send=world.deliver,
                on_moved=fail,
                on_closed=fail,
            )
            await server.start()
            world.to_server = server.receive_datagram
            client = await world.connect()
            client.move(path_of(2000))
            assert (await client.get("/health")).status == 200
            await asyncio.sleep(1.0)
            client.close()
            await until(lambda: server.counters.connections == 0)
            assert server.counters.failures == {Failure.INTERNAL_ERROR: 2}
            await server.stop()

    run_virtual(run_callbacks())


def test_many_handshakes_at_once_leave_the_loop_its_turns() -> None:
    async def run() -> None:
        limits = Http3Limits(handshakes_per_turn=2)
        async with World(limits=limits) as world:
            datagrams: list[tuple[bytes, Path]] = []
            world.to_server = lambda datagram, path: datagrams.append((datagram, path))
            clients = [Client(world, path_of(port)) for port in range(1000, 1020)]
            for client in clients:
                client.connect()
                client.leave()
            for datagram, path in datagrams:
                world.server.receive_datagram(datagram, path)
            begun = [world.server.counters.half_open]
            while begun[-1] < len(clients):
                await asyncio.sleep(0)  # one turn of the loop, in which others have theirs
                begun.append(world.server.counters.half_open)
                assert begun[-1] - begun[-2] <= 2
                assert len(begun) < 100
            assert begun[0] == 0

    run_virtual(run())


FRAME_TYPES = [*range(0x1F), 0x30, 0x31, 0x40]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frames=st.lists(
        st.tuples(st.sampled_from(FRAME_TYPES), st.binary(max_size=40)), min_size=1, max_size=6
    ),
    streams=st.lists(
        st.tuples(st.booleans(), st.binary(max_size=60), st.booleans()), min_size=1, max_size=6
    ),
)
def test_any_frames_end_one_connection_at_most(
    frames: list[tuple[int, bytes]], streams: list[tuple[bool, bytes, bool]]
) -> None:
    """Any QUIC frames and any bytes on streams: no internal error, and the next client is fine."""

    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            for is_request, octets, end in streams:
                if is_request:
                    client.send(client.next_stream(), octets, end=end)
                else:
                    client.send_unidirectional(octets, end=end)
            for frame_type, payload in frames:
                client.quic.inject(frame_type, payload)
                client.transmit()
                await asyncio.sleep(0.01)
            await asyncio.sleep(11.0)
            await world.assert_serves()
            assert Failure.INTERNAL_ERROR not in world.server.counters.failures

    run_virtual(run())
