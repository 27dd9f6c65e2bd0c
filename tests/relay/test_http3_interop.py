"""Three HTTP/3 clients of other makers over real sockets: aioquic, curl (ngtcp2), niquests (qh3).

They choose connection IDs of their own, and send what their makers thought of.
"""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal, cast

import curl_cffi
import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from relay.app import create_app
from relay.core.path import Path
from relay.http3.server import Failure, Http3Limits, Http3Server
from relay.wire.address import Address
from relay.wire.registration import RegisterRequest
from tests.relay.http3_client import Service, certificate, request_headers

TIMEOUT_S = 10.0
BODY = RegisterRequest(bytes(range(16)), 10).encode()

Ask = Callable[[int, str, str, bytes], Awaitable[tuple[int, bytes]]]
"""Port, method, path and body to status and body."""


class Listening:
    """A server on a real socket of this machine."""

    def __init__(self, limits: Http3Limits) -> None:
        self.service = Service()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.closed: list[int] = []
        self.server = Http3Server(
            create_app(self.service),
            certificate=certificate(),
            send=self._send,
            on_moved=lambda holder, path: None,
            on_closed=self.closed.append,
            limits=limits,
        )

    async def start(self) -> None:
        await self.server.start()
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    async def stop(self) -> None:
        await self.server.stop()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _send(self, datagram: bytes, path: Path) -> None:
        self._socket.sendto(datagram, path.remote)

    def _readable(self) -> None:
        for _ in range(64):
            try:
                datagram, source = self._socket.recvfrom(65_535)
            except BlockingIOError:
                return
            self.server.receive_datagram(datagram, Path(Address(*source), 0, "127.0.0.1"))


@asynccontextmanager
async def listening(limits: Http3Limits | None = None) -> AsyncIterator[Listening]:
    relay = Listening(limits or Http3Limits())
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


class AioquicProtocol(QuicConnectionProtocol):
    """One request over aioquic's own asyncio client."""

    async def ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self._h3 = H3Connection(self._quic)
        self._answer = bytearray()
        self._status = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stream_id = self._quic.get_next_available_stream_id()
        self._h3.send_headers(stream_id, request_headers(method, path), end_stream=not body)
        if body:
            self._h3.send_data(stream_id, body, end_stream=True)
        self.transmit()
        await self._done
        return self._status, bytes(self._answer)

    def quic_event_received(self, event: QuicEvent) -> None:
        for h3_event in self._h3.handle_event(event) if hasattr(self, "_h3") else ():
            if isinstance(h3_event, HeadersReceived):
                self._status = int(dict(h3_event.headers)[b":status"])
            if isinstance(h3_event, DataReceived):
                self._answer += h3_event.data
            if isinstance(h3_event, HeadersReceived | DataReceived) and h3_event.stream_ended:
                self._done.set_result(None)


async def aioquic_asks(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    configuration = QuicConfiguration(alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=AioquicProtocol
    ) as client:
        return await cast(AioquicProtocol, client).ask(method, path, body)


async def curl_asks(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    def ask() -> tuple[int, bytes]:
        response = curl_cffi.request(
            cast(Literal["GET", "POST"], method),
            f"https://127.0.0.1:{port}{path}",
            data=body or None,
            http_version="v3only",
            verify=False,
            timeout=TIMEOUT_S,
        )
        return response.status_code, response.content

    return await asyncio.to_thread(ask)


NIQUESTS = """
import sys, warnings
warnings.simplefilter("ignore")
import niquests
port, method, path, body = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4].encode()
with niquests.Session(disable_http1=True, disable_http2=True) as session:
    session.quic_cache_layer.add_domain("127.0.0.1", port, port)
    response = session.request(
        method, f"https://127.0.0.1:{port}{path}", data=body or None, verify=False, timeout=10
    )
    assert response.http_version == 30, response.http_version
    sys.stdout.write(f"{response.status_code} {response.text}")
"""


async def niquests_asks(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    # In a process of its own: it takes over the name urllib3, and warns of what we ask of it.
    def ask() -> tuple[int, bytes]:
        arguments = [str(port), method, path, body.decode()]
        run = subprocess.run(
            [sys.executable, "-c", NIQUESTS, *arguments],
            capture_output=True,
            timeout=3 * TIMEOUT_S,
            check=False,
        )
        assert run.returncode == 0, run.stderr.decode()
        status, _, text = run.stdout.partition(b" ")
        return int(status), text

    return await asyncio.to_thread(ask)


CLIENTS = pytest.mark.parametrize(
    "ask", [aioquic_asks, curl_asks, niquests_asks], ids=["aioquic", "curl", "niquests"]
)


@CLIENTS
def test_health_and_registration(ask: Ask) -> None:
    async def run() -> None:
        async with listening() as relay:
            assert await ask(relay.port, "GET", "/health", b"") == (200, b'{"status":"ok"}')
            status, body = await ask(relay.port, "POST", "/v1/register", BODY)
            assert status == 200
            assert json.loads(body)["connection_ids"] == 10
            [(request, path, _)] = relay.service.registered
            assert request == RegisterRequest(bytes(range(16)), 10)
            assert json.loads(body)["address"] == str(path.remote)
            status, body = await ask(relay.port, "POST", "/v1/register", b"{}")
            assert status == 400
            assert "'key'" in json.loads(body)["detail"]
            assert Failure.INTERNAL_ERROR not in relay.server.counters.failures

    asyncio.run(run())


@CLIENTS
def test_retry(ask: Ask) -> None:
    """Also under load, when each client must first answer a Retry."""

    async def run() -> None:
        async with listening(Http3Limits(retry_above_half_open=0)) as relay:
            assert (await ask(relay.port, "GET", "/health", b""))[0] == 200
            assert relay.server.counters.retried >= 1

    asyncio.run(run())


@CLIENTS
def test_body_that_is_too_large(ask: Ask) -> None:
    async def run() -> None:
        async with listening() as relay:
            status, body = await ask(relay.port, "POST", "/v1/register", b"x" * 60_000)
            assert status == 413
            assert "4096" in json.loads(body)["detail"]

    asyncio.run(run())
