"""The requests of one HTTP/3 connection, from frames to the ASGI application and back.

Hypercorn's H3Protocol and HTTPStream do the work, and this module and exchange.py are the only
ones that touch their internals. Stock, one client can stop their server for everybody; so a request
is held here until it is whole (it is small), and only then does the application run, in a task that
ends with the request. docs/protocol.md §3; RFC 9114.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from typing import Protocol

from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.connection import stream_is_unidirectional
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Request
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h3 import H3Protocol
from hypercorn.typing import (
    AppWrapper,
    ConnectionState,
    WorkerContext,
)
from hypercorn.utils import filter_pseudo_headers

from relay.core.limits import source_of
from relay.http3.exchange import ApplicationRun, Exchange
from relay.http3.frames import FrameConnection
from relay.http3.limits import Http3Limits
from relay.http3.load import RequestLoad
from relay.http3.quic import HostConnection
from relay.http3.report import Failure, Http3Report
from relay.problem import PROBLEM_TYPE, problem_body
from relay.requests import CONNECTION_EXTENSION, Connection

H3_NO_ERROR = 0x100
_H3_INTERNAL_ERROR = 0x102
_H3_EXCESSIVE_LOAD = 0x107
_H3_REQUEST_CANCELLED = 0x10C
_H3_REQUEST_INCOMPLETE = 0x10D
"""RFC 9114 §8.1."""

_MAX_FRAME_BUFFER = 12_288
"""Bytes of an unfinished frame that a stream may hold; aioquic itself has no bound."""

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
"""RFC 9110 §5.6.2: a token."""

_PATH = re.compile(rb"/[\x21-\x7e]*")
"""What RFC 3986 allows and a little more: visible ASCII."""


class ConnectionView(Connection, Protocol):
    """What the application sees of the connection, and what a request wants of it."""

    def schedule_flush(self) -> None:
        """There may be something to send."""

    def call_guarded(self, action: Callable[..., None], *args: object) -> None:
        """Call `action`; whatever it raises ends this connection and no other."""


@dataclass(frozen=True, slots=True)
class RequestServer:
    """What the requests of all connections share."""

    app: AppWrapper
    config: Config
    context: WorkerContext
    state: ConnectionState
    report: Http3Report
    load: RequestLoad


class _Stage(Enum):
    ARRIVING = auto()
    RUNNING = auto()
    DONE = auto()  # answered, reset or refused; what still arrives is thrown away


@dataclass(slots=True)
class _Request:
    stream_id: int
    timeout: asyncio.TimerHandle
    stage: _Stage = _Stage.ARRIVING
    headers: list[tuple[bytes, bytes]] | None = None
    body: bytearray = field(default_factory=bytearray)
    task: asyncio.Task[None] | None = None
    source: str = ""
    """Whom it counts for (`relay.core.limits.source_of`); empty: it is just moving."""


class Requests(H3Protocol):
    """Takes the QUIC events of one connection."""

    def __init__(
        self,
        connection: ConnectionView,
        quic: HostConnection,
        server: RequestServer,
        limits: Http3Limits,
    ) -> None:
        # Not H3Protocol's own: it would make a plain H3Connection, which at once opens streams.
        self.app = server.app
        self.client = None
        self.config = server.config
        self.context = server.context
        self.connection = self._frames = FrameConnection(quic)
        self.send = self._flush
        self.server = None
        self.streams = {}
        self.state = server.state
        self._view = connection
        self._quic = quic
        self._shared = server
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, _Request] = {}
        self._running = 0

    async def handle(self, quic_event: QuicEvent) -> None:
        """Hypercorn's entry; nothing here waits, so ours is `handle_event`."""
        self.handle_event(quic_event)

    def handle_event(self, event: QuicEvent) -> None:
        """Follow a QUIC event. Breaking HTTP/3 closes the connection."""
        if isinstance(event, StreamDataReceived):
            self._open(event.stream_id)
        for h3_event in self._frames.handle_event(event):
            self._handle_h3_event(h3_event)
        match event:
            case StreamDataReceived():
                if self._frames.buffered(event.stream_id) > _MAX_FRAME_BUFFER:
                    self._quic.close(_H3_EXCESSIVE_LOAD, reason_phrase="a frame is too long")
                elif event.end_stream:
                    self._end_arrival(event.stream_id)
            case StreamReset():
                self._cancelled(event.stream_id)
                self._end_arrival(event.stream_id)
            case StopSendingReceived():
                self._cancelled(event.stream_id)

    def end(self) -> None:
        """The connection is over: so are its requests."""
        for request in self._requests.values():
            self._drop(request)
        self._requests.clear()

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what the application answers, unless the client no longer wants it."""
        if self._quic.can_send(event.stream_id):
            await super().stream_send(event)

    async def _create_server_push(
        self, stream_id: int, path: bytes, headers: list[tuple[bytes, bytes]]
    ) -> None:
        """There is nothing to push."""

    async def _flush(self) -> None:
        self._view.schedule_flush()

    def _open(self, stream_id: int) -> None:
        if stream_id in self._requests or stream_is_unidirectional(stream_id):
            return
        timeout = self._set_timeout(stream_id, self._limits.request_timeout_s)
        self._requests[stream_id] = _Request(stream_id, timeout)

    def _set_timeout(self, stream_id: int, seconds: float) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, self._view.call_guarded, self._timed_out, stream_id)

    def _handle_h3_event(self, event: H3Event) -> None:
        match event:
            case HeadersReceived() | DataReceived():
                request = self._requests.get(event.stream_id)
                if request is None or request.stage is not _Stage.ARRIVING:
                    return
                if isinstance(event, DataReceived):
                    self._take_body(request, event.data)
                elif request.headers is None:  # else these are trailers, which mean nothing here
                    self._take_headers(request, event.headers)
                if event.stream_ended and request.stage is _Stage.ARRIVING:
                    self._start(request)

    def _take_headers(self, request: _Request, headers: list[tuple[bytes, bytes]]) -> None:
        request.headers = headers
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        if pseudo[b":method"] == b"CONNECT":
            self._refuse(request, 501, "this relay opens no tunnels and no WebSockets")
        elif not _METHOD.fullmatch(pseudo[b":method"]):
            self._refuse(request, 400, "the method is not a token of at most 32 characters")
        elif not _PATH.fullmatch(pseudo.get(b":path", b"")):
            self._refuse(request, 400, "expected a path that begins with / and is ASCII")
        elif any(
            name == b"content-length" and int(value) > self._limits.max_body
            for name, value in headers
        ):
            self._refuse_body(request)
        elif self._running >= self._limits.max_requests:
            detail = "too many requests at once on this connection"
            self._refuse(request, 429, detail, Failure.TOO_MANY_OF_CONNECTION)
        else:
            self._check_load(request)

    def _check_load(self, request: _Request) -> None:
        path = self._view.validated_path
        request.source = source_of(path.remote) if path is not None else ""
        match self._shared.load.why_full(request.source, self._limits):
            case Failure.TOO_MANY_OF_SOURCE as reason:
                self._refuse(request, 429, "too many requests at once from your address", reason)
            case Failure() as reason:
                self._refuse(request, 429, "the relay works on too many requests", reason)

    def _take_body(self, request: _Request, data: bytes) -> None:
        if len(request.body) + len(data) > self._limits.max_body:
            self._refuse_body(request)
        else:
            request.body += data

    def _refuse_body(self, request: _Request) -> None:
        detail = f"the body may have at most {self._limits.max_body} bytes"
        self._refuse(request, 413, detail, Failure.BODY_TOO_LARGE)

    def _refuse(
        self, request: _Request, status: int, detail: str, reason: Failure = Failure.BAD_REQUEST
    ) -> None:
        self._shared.report.fail(reason)
        self._answer_problem(request.stream_id, status, detail)
        # RFC 9114 §4.1: answered before it is whole, so the rest need not be sent.
        self._quic.refuse_rest(request.stream_id, H3_NO_ERROR)
        self._drop(request)

    def _answer_problem(self, stream_id: int, status: int, detail: str) -> None:
        if not self._quic.can_send(stream_id):
            return
        body = problem_body(status, detail)
        headers = [
            (b":status", b"%d" % status),
            (b"content-type", PROBLEM_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            headers.append((b"retry-after", b"1"))
        self._frames.send_headers(stream_id, headers)
        self._frames.send_data(stream_id, body, end_stream=True)
        self._view.schedule_flush()

    def _start(self, request: _Request) -> None:
        request.stage = _Stage.RUNNING
        request.timeout.cancel()
        request.timeout = self._set_timeout(request.stream_id, self._limits.answer_timeout_s)
        self._running += 1
        self._shared.load.add(request.source, 1)
        self._shared.report.requests += 1
        request.task = self._loop.create_task(self._serve(request))

    async def _serve(self, request: _Request) -> None:
        path = self._view.validated_path
        run = ApplicationRun({CONNECTION_EXTENSION: self._view})
        stream = Exchange(
            self.app,
            self.config,
            self.context,
            run,
            True,
            path.remote if path else None,
            None,
            self.stream_send,
            request.stream_id,
        )
        try:
            await stream.handle(self._hypercorn_request(request))
            await stream.handle(Body(request.stream_id, bytes(request.body)))
            await stream.handle(EndBody(request.stream_id))
            await run()
        except Exception as error:  # whatever it is, it must not reach the other requests
            self._shared.report.fail(Failure.APPLICATION_ERROR, error)
        self._view.call_guarded(self._conclude, request, stream.is_unanswered)

    def _conclude(self, request: _Request, is_unanswered: bool) -> None:
        """The application has returned, or raised."""
        if request.task is None:
            return  # cancelled meanwhile, and it would not hear of it
        if is_unanswered:
            self._answer_problem(request.stream_id, 500, "the relay failed; its log says more")
        elif self._quic.can_send(request.stream_id):
            self._quic.reset(request.stream_id, _H3_INTERNAL_ERROR)  # begun, but not finished
            self._view.schedule_flush()
        self._forget_task(request)
        self._drop(request)
        self._requests.pop(request.stream_id, None)

    def _hypercorn_request(self, request: _Request) -> Request:
        headers = request.headers or []
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        return Request(
            stream_id=request.stream_id,
            headers=filter_pseudo_headers(headers),
            http_version="3",
            method=pseudo[b":method"].decode("ascii"),
            raw_path=pseudo[b":path"],
            state=self.state,
        )

    def _end_arrival(self, stream_id: int) -> None:
        """The client has ended its half: nothing more of this stream will come."""
        request = self._requests.get(stream_id)
        if request is not None and request.stage is not _Stage.RUNNING:
            self._drop(request)
            del self._requests[stream_id]

    def _cancelled(self, stream_id: int) -> None:
        request = self._requests.get(stream_id)
        if request is None or request.stage is _Stage.DONE:
            return
        self._shared.report.fail(Failure.REQUEST_CANCELLED)
        self._abandon(request, _H3_REQUEST_CANCELLED)

    def _timed_out(self, stream_id: int) -> None:
        request = self._requests.get(stream_id)
        if request is None or request.stage is _Stage.DONE:
            return
        if request.stage is _Stage.RUNNING:
            self._shared.report.fail(Failure.APPLICATION_TIMEOUT)
            self._abandon(request, _H3_INTERNAL_ERROR)
        else:
            self._shared.report.fail(Failure.REQUEST_TIMEOUT)
            self._abandon(request, _H3_REQUEST_INCOMPLETE)

    def _abandon(self, request: _Request, error_code: int) -> None:
        self._quic.reset(request.stream_id, error_code)
        self._quic.refuse_rest(request.stream_id, error_code)
        was_running = request.stage is _Stage.RUNNING
        self._drop(request)
        if was_running:  # else it is remembered until the client ends its half
            del self._requests[request.stream_id]
        self._view.schedule_flush()

    def _drop(self, request: _Request) -> None:
        """Free what it holds, whatever stage it is in."""
        request.timeout.cancel()
        request.stage = _Stage.DONE
        request.body.clear()
        if request.task is not None:
            request.task.cancel()
            self._forget_task(request)

    def _forget_task(self, request: _Request) -> None:
        request.task = None
        self._running -= 1
        self._shared.load.add(request.source, -1)
