"""HTTP/3 that would break the server. Each test shows that another client is served afterwards.

Stock hypercorn dies of several of these, or freezes for everybody.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pylsqpack
import pytest
from aioquic.buffer import encode_uint_var

from relay.http3.server import Failure, Http3Limits
from relay.wire.registration import MAX_BODY
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import (
    Client,
    Response,
    SlowApplication,
    World,
    path_of,
    request_headers,
    until,
)

DATA, HEADERS, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x0, 0x1, 0x4, 0x5, 0x7, 0xD
CONTROL_STREAM, PUSH_STREAM, QPACK_ENCODER_STREAM, QPACK_DECODER_STREAM = 0, 1, 2, 3


def frame(kind: int, payload: bytes) -> bytes:
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload


def headers_frame(headers: list[tuple[bytes, bytes]]) -> bytes:
    _, payload = pylsqpack.Encoder().encode(0, headers)
    return frame(HEADERS, payload)


GET_HEALTH = headers_frame(request_headers("GET", "/health"))
POST_REGISTER = headers_frame(request_headers("POST", "/v1/register"))


def assert_problem(response: Response, status: int) -> None:
    assert response.status == status
    assert response.content_type == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["detail"]


def hostile(
    attack: Callable[[World, Client], Awaitable[None]], limits: Http3Limits | None = None
) -> World:
    """Run `attack` with a client of its own; afterwards another one must be served."""

    async def run() -> World:
        async with World(limits=limits) as world:
            client = await world.connect()
            await attack(world, client)
            await world.assert_serves()
            assert Failure.INTERNAL_ERROR not in world.server.counters.failures
            return world

    return run_virtual(run())


def test_data_after_the_response() -> None:
    async def attack(world: World, client: Client) -> None:
        too_big = frame(DATA, b"x" * (MAX_BODY + 1))
        response = await client.raw(POST_REGISTER, too_big, end=False)
        assert_problem(response, 413)
        for _ in range(20):
            client.send(0, frame(DATA, b"z" * 100))
            await asyncio.sleep(0.01)
        assert response.stopped is not None
        assert (await client.get("/health")).status == 200

    hostile(attack)


def test_many_data_frames_to_an_application_that_does_not_read() -> None:
    async def attack(world: World, client: Client) -> None:
        frames = [frame(DATA, b"x") for _ in range(200)]
        assert (await client.raw(GET_HEALTH, *frames)).status == 200
        frames = [frame(DATA, b"") for _ in range(1000)]
        assert (await client.raw(GET_HEALTH, *frames)).status == 200

    hostile(attack)


def test_stop_sending_before_the_response() -> None:
    async def attack(world: World, client: Client) -> None:
        stream_id = client.next_stream()
        client.send(stream_id, GET_HEALTH)
        client.quic.stop_stream(stream_id, 0x10C)
        client.transmit()
        client.send(stream_id, b"", end=True)
        await asyncio.sleep(0.1)
        # And in one flight with the request, so that the application has begun.
        stream_id = client.next_stream()
        client.quic.send_stream_data(stream_id, GET_HEALTH, end_stream=True)
        client.quic.stop_stream(stream_id, 0x10C)
        client.transmit()
        await asyncio.sleep(0.1)
        assert (await client.get("/health")).status == 200

    hostile(attack)


def test_stop_sending_while_the_application_works() -> None:
    application = SlowApplication()

    async def run() -> None:
        async with World(application) as world:
            client = await world.connect()
            stream_id, _ = client.request("GET", "/slow")
            await until(lambda: application.running == 1)
            client.quic.stop_stream(stream_id, 0x10C)
            client.transmit()
            await until(lambda: application.running == 0)
            assert application.cancelled == 1
            assert world.server.counters.failures[Failure.REQUEST_CANCELLED] == 1
            assert (await client.get("/quick")).status == 204
            await world.assert_serves("/quick", 204)

    run_virtual(run())


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (501, [(b":method", b"CONNECT"), (b":authority", b"relay.test")]),
        (
            501,
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"https"),
                (b":authority", b"relay.test"),
                (b":path", b"/health"),
            ],
        ),
        (400, request_headers("GET", "/caf\u00e9")),
        (400, request_headers("GET", "/\x7f")),
        (400, request_headers("GET", "health")),
        (400, request_headers("GET", "*")),
        (400, [(b":method", b"GET"), (b":authority", b"relay.test")]),
        (400, request_headers("G\u00c9T", "/health")),
        (400, request_headers("G T", "/health")),
        (400, request_headers("G" * 33, "/health")),
        (405, request_headers("PUT", "/health")),
        (404, request_headers("GET", "/%ff%00")),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value[-1])[:40],
)
def test_request_that_is_answered_with_a_problem(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    async def attack(world: World, client: Client) -> None:
        for end in (True, False):
            if end or status in (400, 501):  # others are answered when they are whole
                assert_problem(await client.raw(headers_frame(headers), end=end), status)
        assert (await client.get("/health")).status == 200

    hostile(attack)


def test_trailers_mean_nothing() -> None:
    async def attack(world: World, client: Client) -> None:
        trailers = headers_frame([(b"x-trailer", b"yes")])
        assert (await client.raw(GET_HEALTH, trailers)).status == 200
        body = frame(DATA, b"not json")
        assert_problem(await client.raw(POST_REGISTER, body, trailers), 400)

    hostile(attack)


def test_reset_in_mid_request() -> None:
    async def attack(world: World, client: Client) -> None:
        stream_id, _ = client.request("POST", "/v1/register", b"x", end=False)
        await asyncio.sleep(0.1)
        client.quic.reset_stream(stream_id, 0x10C)
        client.transmit()
        await asyncio.sleep(0.1)
        assert world.server.counters.failures[Failure.REQUEST_CANCELLED] == 1
        # Also before there is anything to reset, and in the middle of a frame.
        client.quic.reset_stream(client.next_stream(), 0x10C)
        stream_id = client.next_stream()
        client.send(stream_id, POST_REGISTER[:5])
        client.quic.reset_stream(stream_id, 0x10C)
        client.transmit()
        assert (await client.get("/health")).status == 200

    hostile(attack)


def test_client_that_vanishes_leaves_no_task() -> None:
    application = SlowApplication()

    async def run() -> None:
        limits = Http3Limits(idle_timeout_s=5.0, request_timeout_s=60.0)
        async with World(application, limits) as world:
            client = await world.connect()
            client.request("GET", "/slow")
            client.request("POST", "/slow", b"x", end=False)
            await until(lambda: application.running == 1)
            client.leave()
            await until(lambda: world.server.counters.connections == 0, 30.0)
            await until(lambda: application.running == 0)
            assert application.cancelled == 1
            assert world.server.counters.failures[Failure.IDLE_TIMEOUT] == 1
            assert len(world.closed) == 1
            await world.assert_serves("/quick", 204)

    run_virtual(run())


def test_application_that_never_answers_is_cancelled() -> None:
    application = SlowApplication()

    async def run() -> None:
        async with World(application) as world:
            client = await world.connect()
            _, response = client.request("GET", "/slow")
            await until(response.done.done, 60.0)
            assert response.reset is not None
            assert application.cancelled == 1
            assert world.server.counters.failures[Failure.APPLICATION_TIMEOUT] == 1
            assert (await client.get("/quick")).status == 204

    run_virtual(run())


def test_request_that_never_ends_is_reset() -> None:
    async def attack(world: World, client: Client) -> None:
        _, half = client.request("POST", "/v1/register", b"x", end=False)
        stream_id = client.next_stream()
        client.send(stream_id, POST_REGISTER[:5])
        await until(lambda: half.done.done() and client.responses[stream_id].done.done(), 30.0)
        assert half.reset is not None
        assert half.stopped is not None
        assert client.responses[stream_id].reset is not None
        assert world.server.counters.failures[Failure.REQUEST_TIMEOUT] == 2
        assert (await client.get("/health")).status == 200

    hostile(attack)


@pytest.mark.parametrize(
    "frames",
    [
        headers_frame([(b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]),
        headers_frame([*request_headers("GET", "/"), (b":method", b"GET")]),
        headers_frame([(b":method", b"GET"), *request_headers("GET", "/")]),
        headers_frame([*request_headers("GET", "/"), (b":status", b"200")]),
        headers_frame([*request_headers("GET", "/"), (b"Upper", b"x")]),
        headers_frame([*request_headers("GET", "/"), (b"connection", b"close")]),
        headers_frame([*request_headers("GET", "/"), (b"content-length", b"-1")]),
        headers_frame([*request_headers("GET", "/"), (b"content-length", b"9" * 5000)]),
        headers_frame([*request_headers("GET", "/"), (b"content-length", b"7")]),
        headers_frame([*request_headers("GET", "/"), (b"x", b"a\r\nb")]),
        frame(HEADERS, b"\xff" * 40),
        frame(HEADERS, b""),
        frame(HEADERS, b"\x02\x00\x80"),  # needs a dynamic table, which we do not have
        frame(DATA, b"before the headers"),
        frame(SETTINGS, b""),
        frame(PUSH_PROMISE, b"\x00" + b"\x00\x00"),
        frame(GOAWAY, b"\x00"),
        frame(MAX_PUSH_ID, b"\x00"),
        frame(0x2, b""),
        b"\x01\x40",
        frame(HEADERS, b"\x00\x00" + b"\xd1" * 8000),  # 8 kB that stand for 300 kB
    ],
    ids=lambda frames: frames[:12].hex(),
)
def test_malformed_request_closes_its_connection_only(frames: bytes) -> None:
    async def attack(world: World, client: Client) -> None:
        stream_id = client.next_stream()
        client.send(stream_id, frames, end=True)
        await until(client.terminated.done, 60.0)
        assert world.closed
        assert world.server.counters.failures[Failure.PROTOCOL_ERROR] == 1

    hostile(attack)


@pytest.mark.parametrize(
    "octets",
    [
        encode_uint_var(PUSH_STREAM) + b"\x00",
        encode_uint_var(CONTROL_STREAM),  # the second one
        encode_uint_var(QPACK_ENCODER_STREAM),  # the second one
        encode_uint_var(QPACK_DECODER_STREAM),  # the second one
    ],
    ids=["push", "control", "qpack-encoder", "qpack-decoder"],
)
def test_forbidden_stream_closes_its_connection_only(octets: bytes) -> None:
    async def attack(world: World, client: Client) -> None:
        client.send_unidirectional(octets)
        await until(client.terminated.done, 60.0)

    hostile(attack)


@pytest.mark.parametrize("kind", [0x21, 0x54, 0x1234], ids=["reserved", "webtransport", "unknown"])
def test_unknown_streams_are_ignored(kind: int) -> None:
    async def attack(world: World, client: Client) -> None:
        for _ in range(4):
            client.send_unidirectional(encode_uint_var(kind) + b"\x00" * 3000)
        await asyncio.sleep(0.1)
        assert (await client.get("/health")).status == 200

    hostile(attack)


@pytest.mark.parametrize(
    "octets",
    [
        frame(SETTINGS, b"\x01\x00"),  # twice
        frame(HEADERS, b""),
        encode_uint_var(MAX_PUSH_ID) + encode_uint_var(2**40) + b"x" * 16000,
    ],
    ids=["settings-again", "headers", "endless"],
)
def test_bad_control_frames_close_their_connection_only(octets: bytes) -> None:
    async def attack(world: World, client: Client) -> None:
        client.send(client.control_stream, octets)
        await until(client.terminated.done, 60.0)

    hostile(attack)


def test_huge_qpack_table_is_declined() -> None:
    async def run() -> None:
        async with World() as world:
            client = Client(world, path_of(1000), is_http3=False)
            client.connect()
            await client.established
            settings = encode_uint_var(1) + encode_uint_var(2**61)
            client.send_unidirectional(encode_uint_var(CONTROL_STREAM) + frame(SETTINGS, settings))
            client.send(client.next_stream(), GET_HEALTH, end=True)
            await until(lambda: world.server.counters.requests == 1)
            await world.assert_serves()
            assert not client.terminated.done()

    run_virtual(run())


def test_garbage_on_qpack_streams() -> None:
    async def run() -> None:
        async with World() as world:
            for kind in (QPACK_ENCODER_STREAM, QPACK_DECODER_STREAM):
                client = Client(world, path_of(1000 + kind), is_http3=False)
                client.connect()
                await client.established
                client.send_unidirectional(encode_uint_var(kind) + b"\xff" * 100)
                await until(client.terminated.done, 60.0)
            await world.assert_serves()

    run_virtual(run())
