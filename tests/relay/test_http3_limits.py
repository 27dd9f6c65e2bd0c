"""Bounds of the HTTP/3 server: the last that is served, the first that is not, and its counter."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from relay.core.path import Path
from relay.http3.server import Failure, Http3Limits, Refused
from relay.wire.address import Address
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import Client, Response, World, finished

STREAM_LIMIT_ERROR = 0x4
"""RFC 9000 §20.1."""


class Waiting:
    """An application that answers nothing before it is told to."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await self.answers.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


async def client_at(world: World, host: str, port: int = 1000) -> Client:
    client = Client(world, Path(Address(host, port), 0, "198.51.100.1"))
    client.connect()
    async with asyncio.timeout(5.0):
        await client.established
    return client


def is_refused(response: Response, what: str) -> bool:
    return (
        response.status == 429
        and int(response.headers[b"retry-after"]) >= 1
        and what.encode() in response.body
    )


@pytest.mark.parametrize(
    ("host", "same", "other"),
    [("192.0.2.1", "192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::ff:9", "2001:db8:0:1::1")],
    ids=["ipv4", "ipv6-64"],
)
def test_requests_at_once_of_one_source(host: str, same: str, other: str) -> None:
    async def run() -> None:
        app = Waiting()
        async with World(app, Http3Limits(max_requests_per_source=3)) as world:
            clients = [await client_at(world, host, port) for port in (1, 2, 3)]
            responses = [client.request("GET", "/")[1] for client in clients]
            await asyncio.sleep(0.1)
            late = await client_at(world, same, 4)
            assert is_refused(await late.get("/"), "from your address")
            assert world.server.counters.failures == {Failure.TOO_MANY_OF_SOURCE: 1}
            responses.append((await client_at(world, other, 5)).request("GET", "/")[1])
            await asyncio.sleep(0.1)
            app.answers.set()
            for each in responses:
                assert (await finished(each)).status == 204
            assert (await late.get("/")).status == 204

    run_virtual(run())


def test_requests_at_once_of_everybody() -> None:
    async def run() -> None:
        app = Waiting()
        async with World(app, Http3Limits(max_requests_in_all=2)) as world:
            clients = [await client_at(world, f"192.0.2.{number}") for number in (1, 2, 3)]
            responses = [client.request("GET", "/")[1] for client in clients[:2]]
            await asyncio.sleep(0.1)
            assert is_refused(await clients[2].get("/"), "too many requests")
            assert world.server.counters.failures == {Failure.TOO_MANY_REQUESTS: 1}
            clients[0].close()  # whoever goes makes room
            await asyncio.sleep(0.1)
            responses.append(clients[2].request("GET", "/")[1])
            await asyncio.sleep(0.1)
            app.answers.set()
            for each in responses[1:]:
                assert (await finished(each)).status == 204

    run_virtual(run())


def test_requests_at_once_of_one_connection_are_counted() -> None:
    async def run() -> None:
        app = Waiting()
        async with World(app, Http3Limits(max_requests=2)) as world:
            client = await world.connect()
            for _ in range(2):
                client.request("GET", "/")
            assert is_refused(await client.get("/"), "on this connection")
            assert world.server.counters.failures == {Failure.TOO_MANY_OF_CONNECTION: 1}
            app.answers.set()

    run_virtual(run())


def test_streams_that_are_open_at_once() -> None:
    async def run() -> None:
        async with World(Waiting(), Http3Limits(max_streams=3)) as world:
            client = await world.connect()
            for _ in range(3):
                client.request("GET", "/", end=False)
            await asyncio.sleep(0.1)
            assert not client.terminated.done()
            client.quic._remote_max_streams_bidi = 100  # it does not keep to what it was told
            client.request("GET", "/", end=False)
            async with asyncio.timeout(5.0):
                assert (await client.terminated).error_code == STREAM_LIMIT_ERROR
            assert world.server.counters.failures == {Failure.PROTOCOL_ERROR: 1}

    run_virtual(run())


@pytest.mark.parametrize("says_its_length", [True, False])
def test_bytes_of_a_body(says_its_length: bool) -> None:
    async def run() -> None:
        app = Waiting()
        app.answers.set()
        async with World(app, Http3Limits(max_body=300)) as world:
            client = await world.connect()
            assert (await client.post("/", bytes(300))).status == 204
            if says_its_length:
                stream = client.next_stream()
                headers = [
                    (b":method", b"POST"),
                    (b":scheme", b"https"),
                    (b":authority", b"relay.test"),
                    (b":path", b"/"),
                    (b"content-length", b"301"),
                ]
                client.frames().send_headers(stream, headers)
                client.transmit()
                answer = await finished(client.responses[stream])
            else:
                answer = await client.post("/", bytes(301))
            assert answer.status == 413
            assert b"300 bytes" in answer.body
            assert world.server.counters.failures == {Failure.BODY_TOO_LARGE: 1}

    run_virtual(run())


def test_connections_of_one_source() -> None:
    async def run() -> None:
        async with World(limits=Http3Limits(max_connections_per_source=2)) as world:
            clients = [await client_at(world, "192.0.2.1", port) for port in (1, 2)]
            late = Client(world, Path(Address("192.0.2.1", 3), 0, "198.51.100.1"))
            late.connect()
            await asyncio.sleep(0.5)
            assert not late.established.done()
            assert world.server.counters.refused.keys() == {Refused.NO_ROOM_FOR_SOURCE}
            other = await client_at(world, "192.0.2.2")
            assert (await other.get("/health")).status == 200
            clients[0].close()
            async with asyncio.timeout(10.0):
                await late.established  # its next try

    run_virtual(run())


def test_half_open_of_everybody() -> None:
    async def run() -> None:
        limits = Http3Limits(max_half_open=3, retry_above_half_open=3)
        async with World(limits=limits) as world:
            silent = [
                Client(world, Path(Address("192.0.2.1", port), 0, "198.51.100.1"))
                for port in range(1, 4)
            ]
            for client in silent:
                client.drop_received = True
                client.connect()
                client.leave()
            await asyncio.sleep(0.1)
            assert world.server.counters.half_open == 3
            assert not world.server.counters.refused
            late = Client(world, Path(Address("192.0.2.9", 9), 0, "198.51.100.1"))
            late.connect()
            await asyncio.sleep(0.1)
            counters = world.server.counters
            assert (counters.half_open, counters.retried) == (3, 1)
            assert counters.refused == {Refused.NO_ROOM: 1}  # it has answered the Retry
            async with asyncio.timeout(30.0):
                await late.established  # when the others have been given up
            assert world.server.counters.half_open == 0
            assert world.server.counters.failures == {Failure.HANDSHAKE_TIMEOUT: 3}

    run_virtual(run())


def test_a_request_may_take_so_long_to_arrive() -> None:
    async def run() -> None:
        app = Waiting()
        app.answers.set()
        async with World(app, Http3Limits(request_timeout_s=5.0)) as world:
            client = await world.connect()
            slow, response = client.request("POST", "/", b"a", end=False)
            _, cut_off = client.request("POST", "/", b"a", end=False)
            await asyncio.sleep(4.8)
            client.frames().send_data(slow, b"b", end_stream=True)
            client.transmit()
            assert (await finished(response)).status == 204
            assert (await finished(cut_off)).reset is not None
            assert world.server.counters.failures == {Failure.REQUEST_TIMEOUT: 1}

    run_virtual(run())
