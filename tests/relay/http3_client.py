"""A relay's HTTP/3 server and clients that talk to it in memory; no socket, any clock.

The clients are aioquic's, and let a test do what no honest client does.
"""

import asyncio
import contextlib
import functools
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path as FilePath
from ssl import CERT_NONE

from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamReset,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.app import create_app
from relay.certificate import ServerCertificate
from relay.control import Control
from relay.core.admission import Grant
from relay.core.path import Path
from relay.core.registry import HolderId
from relay.http3.server import Http3Limits, Http3Server
from relay.wire.address import Address
from relay.wire.registration import RegisterAnswer, RegisterRequest
from tests.relay.unruly import UnrulyConnection

PATIENCE_S = 5.0
"""Seconds for any single answer; most tests run on a virtual clock."""


@contextlib.asynccontextmanager
async def serving(control: Control) -> AsyncIterator[None]:
    """It serves, until the block ends."""
    await control.start()
    try:
        yield
    finally:
        await control.stop()


Headers = list[tuple[bytes, bytes]]


@functools.cache
def certificate() -> ServerCertificate:
    """One self-signed certificate for the whole run."""
    with tempfile.TemporaryDirectory() as directory:
        return ServerCertificate.self_signed(FilePath(directory))


def path_of(port: int, host: str = "192.0.2.1") -> Path:
    """The path of a client at this port."""
    return Path(Address(host, port), 0, "198.51.100.1")


class Service:
    """Registers everything, and remembers who asked."""

    def __init__(self) -> None:
        self.registered: list[tuple[RegisterRequest, Path, HolderId]] = []
        self.grants: list[Grant | None] = []
        self.deleted: list[str] = []
        self.error: Exception | None = None

    def register(
        self,
        request: RegisterRequest,
        path: Path,
        holder: HolderId,
        grant: Grant | None = None,
    ) -> RegisterAnswer:
        if self.error is not None:
            raise self.error
        self.registered.append((request, path, holder))
        self.grants.append(grant)
        return RegisterAnswer("0" * 32, str(path.remote), request.num, 180.0)

    def delete(self, registration_id: str) -> bool:
        self.deleted.append(registration_id)
        return registration_id == "0" * 32


class SlowApplication:
    """Answers /quick at once, and anything else never."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] != "/quick":
            self.running += 1
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


class World:
    """One server, and where its datagrams go."""

    def __init__(
        self,
        app: ASGIApp | None = None,
        limits: Http3Limits | None = None,
        is_core_short: Callable[[], bool] = lambda: False,
        is_known: Callable[[Address], bool] = lambda _: False,
    ) -> None:
        self.service = Service()
        self.moved: list[tuple[HolderId, Path]] = []
        self.closed: list[HolderId] = []
        self.sent: list[tuple[bytes, Path]] = []
        """Datagrams of the server to addresses where no client is."""
        self.sent_by_path: dict[Path, int] = {}
        """Bytes of the server by path."""
        self._clients: dict[Path, Client] = {}
        self.application = app or create_app(self.service)
        self.server = Http3Server(
            self.application,
            certificate=certificate(),
            send=self.deliver,
            on_moved=lambda holder, path: self.moved.append((holder, path)),
            on_closed=self.closed.append,
            limits=limits,
            is_core_short=is_core_short,
            is_known=is_known,
        )
        self.to_server: Callable[[bytes, Path], None] = self.server.receive_datagram
        """What the clients' datagrams are given to."""

    async def __aenter__(self) -> "World":
        await self.server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.server.stop()

    def attach(self, client: "Client", path: Path) -> None:
        """Datagrams of the server by `path` reach `client`."""
        self._clients[path] = client

    def detach(self, path: Path) -> None:
        """Nobody is there any more."""
        self._clients.pop(path, None)

    async def connect(self, port: int = 1000) -> "Client":
        """A new client whose handshake is complete."""
        client = Client(self, path_of(port))
        client.connect()
        async with asyncio.timeout(PATIENCE_S):
            await client.established
        return client

    async def assert_serves(self, what: str = "/health", status: int = 200) -> None:
        """Another client is served: the purpose of every hostile test."""
        client = await self.connect(9999)
        assert (await client.get(what)).status == status
        client.close()

    def deliver(self, datagram: bytes, path: Path) -> None:
        """What the server sends with."""
        self.sent_by_path[path] = self.sent_by_path.get(path, 0) + len(datagram)
        client = self._clients.get(path)
        if client is None:
            self.sent.append((datagram, path))
        else:
            asyncio.get_running_loop().call_soon(client.receive, datagram)


class Response:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.reset: int | None = None
        """Error code, if the server reset the stream."""
        self.stopped: int | None = None
        """Error code, if the server asked for no more."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def status(self) -> int:
        return int(self.headers[b":status"])

    @property
    def content_type(self) -> str:
        return self.headers[b"content-type"].decode()

    def json(self) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.body)
        return value

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Client:
    """aioquic's client, driven by the running loop; it does what the test wants."""

    def __init__(
        self, world: World, path: Path, *, alpn: str = "h3", is_http3: bool = True
    ) -> None:
        """Without `is_http3` it opens no control streams."""
        self.world = world
        self.path = path
        self._loop = asyncio.get_running_loop()
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=[alpn], verify_mode=CERT_NONE, idle_timeout=3600.0
        )
        self.quic = UnrulyConnection(configuration)
        self.h3: H3Connection | None = None
        self.established: asyncio.Future[None] = self._loop.create_future()
        self.terminated: asyncio.Future[ConnectionTerminated] = self._loop.create_future()
        self.responses: dict[int, Response] = {}
        self.events: list[QuicEvent] = []
        self.drop_received = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_http3 = is_http3

    def connect(self) -> None:
        """Send the first flight."""
        self.world.attach(self, self.path)
        self.quic.connect(("198.51.100.1", 443), now=self._loop.time())
        self.transmit()

    def leave(self) -> None:
        """Vanish without a word."""
        self.world.detach(self.path)
        if self._timer is not None:
            self._timer.cancel()

    def move(self, path: Path) -> None:
        """Go on from another address."""
        self.world.detach(self.path)
        self.path = path
        self.world.attach(self, path)

    def close(self) -> None:
        """Say goodbye."""
        self.quic.close(error_code=0x100)
        self.transmit()

    def receive(self, datagram: bytes) -> None:
        if self.drop_received:
            return
        self.quic.receive_datagram(datagram, ("198.51.100.1", 443), now=self._loop.time())
        self._follow()
        self.transmit()

    def transmit(self) -> None:
        for datagram, _ in self.quic.datagrams_to_send(now=self._loop.time()):
            self.world.to_server(datagram, self.path)
        if self._timer is not None:
            self._timer.cancel()
        due = self.quic.get_timer()
        if due is not None:
            self._timer = self._loop.call_at(due, self._timer_due)

    def frames(self) -> H3Connection:
        if self.h3 is None:
            self.h3 = H3Connection(self.quic)
        return self.h3

    def next_stream(self) -> int:
        stream_id = self.quic.get_next_available_stream_id()
        self.quic.send_stream_data(stream_id, b"")  # now it is taken
        self.responses[stream_id] = Response()
        return stream_id

    def request(
        self, method: str, path: str, body: bytes = b"", *, end: bool = True
    ) -> tuple[int, Response]:
        """Send a request; its answer comes into the Response."""
        stream_id = self.next_stream()
        headers = request_headers(method, path)
        if body:
            self.frames().send_headers(stream_id, headers)
            self.frames().send_data(stream_id, body, end_stream=end)
        else:
            self.frames().send_headers(stream_id, headers, end_stream=end)
        self.transmit()
        return stream_id, self.responses[stream_id]

    async def get(self, path: str) -> Response:
        return await self.answer("GET", path)

    async def post(self, path: str, body: bytes) -> Response:
        return await self.answer("POST", path, body)

    async def answer(self, method: str, path: str, body: bytes = b"") -> Response:
        """Send a request and wait for its answer."""
        _, response = self.request(method, path, body)
        return await finished(response)

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send these bytes on a stream."""
        self.quic.send_stream_data(stream_id, data, end_stream=end)
        self.transmit()

    def send_unidirectional(self, data: bytes, *, end: bool = False) -> int:
        """Send these bytes on a new unidirectional stream."""
        stream_id = self.quic.get_next_available_stream_id(is_unidirectional=True)
        self.send(stream_id, data, end=end)
        return stream_id

    @property
    def control_stream(self) -> int:
        """The first unidirectional stream."""
        return 2

    async def raw(self, *frames: bytes, end: bool = True) -> Response:
        """Send these bytes on a new request stream, and wait until the server has reacted."""
        stream_id = self.next_stream()
        self.send(stream_id, b"".join(frames), end=end)
        return await finished(self.responses[stream_id])

    def _follow(self) -> None:
        while (event := self.quic.next_event()) is not None:
            self.events.append(event)
            match event:
                case HandshakeCompleted():
                    if self._is_http3:
                        self.frames()
                    if not self.established.done():
                        self.established.set_result(None)
                case ConnectionTerminated():
                    if not self.terminated.done():
                        self.terminated.set_result(event)
                    for response in self.responses.values():
                        response.finish()
                case StreamReset(error_code=code, stream_id=stream_id):
                    if stream_id in self.responses:
                        self.responses[stream_id].reset = code
                        self.responses[stream_id].finish()
                case StopSendingReceived(error_code=code, stream_id=stream_id):
                    if stream_id in self.responses:
                        self.responses[stream_id].stopped = code
                    continue  # aioquic's HTTP/3 would end its half of the stream
            if self.h3 is not None:
                for h3_event in self.h3.handle_event(event):
                    self._follow_h3(h3_event)

    def _follow_h3(self, event: H3Event) -> None:
        match event:
            case HeadersReceived(stream_id=stream_id) if stream_id in self.responses:
                self.responses[stream_id].headers.update(event.headers)
            case DataReceived(stream_id=stream_id) if stream_id in self.responses:
                self.responses[stream_id].body += event.data
            case _:
                return
        if event.stream_ended:
            self.responses[stream_id].finish()

    def _timer_due(self) -> None:
        self.quic.handle_timer(now=self._loop.time())
        self._follow()
        self.transmit()


def request_headers(method: str, path: str) -> Headers:
    """The least that a request has."""
    return [
        (b":method", method.encode()),
        (b":scheme", b"https"),
        (b":authority", b"relay.test"),
        (b":path", path.encode()),
    ]


async def finished(response: Response) -> Response:
    """Wait for the end of a response: complete, reset, or with its connection."""
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.shield(response.done)
    return response


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait for something that is going to be so."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError("what was waited for did not come")
        await asyncio.sleep(0.01)
