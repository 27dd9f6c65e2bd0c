"""One HTTP/3 connection to the relay: certificate first, then requests. docs/protocol.md §3.

Over the endpoint's own socket, so that the relay sees the address that the pipes have.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from aioquic.h3.connection import ErrorCode as H3ErrorCode
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    PingAcknowledged,
    QuicEvent,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicErrorCode

from ..connection_ids import ConnectionIdSource
from ..endpoint import Endpoint, Way
from ..errors import PeersError, RegistrationFailed, RelayUnreachable, printable
from ..quic.connection import PeerConnection
from ..quic.parts import HTTP3_ALPN, TlsParts, TransportSettings
from ..token import TokenSource, hint

IDLE_TIMEOUT_S = 40.0
"""Seconds; more than two keepalives. The liveness of the link finds out much sooner."""

MAX_RESPONSE = 65_536
"""Bytes of the largest response body that is read. A useful one has about 200."""

_SETTINGS = TransportSettings(
    idle_timeout_s=IDLE_TIMEOUT_S,
    stream_window=2 * MAX_RESPONSE,  # for a stream's whole life: a response with its headers
    connection_window=8 * MAX_RESPONSE,  # for all streams that are not over
    max_streams=8,  # of the relay's own: control and QPACK make three (RFC 9114 §6.2)
)

_UNAUTHORIZED = 401

_log = logging.getLogger(__name__)

Check = Callable[[list[bytes]], None]
"""Takes the relay's certificates in DER, its own first.

:raises RelayUntrusted: and then nothing is sent to it.
"""


@dataclass(frozen=True, slots=True)
class Response:
    """What the relay answered to a request."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    had_token: bool = False
    """Whether the request showed one."""

    def problem(self) -> str:
        """What went wrong, in the relay's words (RFC 9457), fit to be shown."""
        said = self._problem()
        return hint(said, had_token=self.had_token) if self.status == _UNAUTHORIZED else said

    def retry_after_s(self) -> float | None:
        """Seconds (RFC 9110 §10.2.3); a date, which our relay never gives, is not read."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None

    def _problem(self) -> str:
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError):
            fields = None
        detail = fields.get("detail") if isinstance(fields, dict) else None
        return printable(detail) if isinstance(detail, str) else f"status {self.status}"


@dataclass(slots=True)
class _Exchange:
    """A request that waits for its response."""

    response: asyncio.Future[Response]
    had_token: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class RelayConnection:
    """Implements `Connection`. It begins with its construction; wait for `ready`."""

    def __init__(
        self,
        endpoint: Endpoint,
        way: Way,
        host: str,
        check: Check,
        token: TokenSource | None = None,
    ) -> None:
        """:param host: the relay's name or address, for SNI.
        :param token: shown with every request, and so to a relay that `check` trusts only.
        """
        loop = self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._place = endpoint.place(way)
        self._quic = PeerConnection(
            parts=TlsParts(alpn=HTTP3_ALPN, server_name=_server_name(host)),
            connection_ids=ConnectionIdSource.towards_http3(),
            settings=_SETTINGS,
        )
        self._check = check
        self._token = token
        self._http: H3Connection | None = None  # None until the relay is trusted
        self._exchanges: dict[int, _Exchange] = {}  # by stream
        self._ping_id = 0
        self._challenges = 0  # how many of the relay's path challenges were noticed
        self._moved_ping_id = 0  # its acknowledgement says that the relay has our new address
        self._unanswered_since: float | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self.way = way
        self.chain: list[bytes] = []
        """The relay's certificates in DER; empty before `ready`."""
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when requests can be made. Raises `RelayUntrusted` or `RelayUnreachable`."""
        self.ended: asyncio.Future[str] = loop.create_future()
        """Done when the connection is over; says why."""
        self.is_to_begin_again = False
        """Whether the relay has ended it as it knows nothing of the token that it gave in its Retry
        packet (RFC 9000 §8.1.3): it was restarted in between, or our address changed."""
        self.on_ping_acknowledged: Callable[[float], None] | None = None
        self.on_moved: Callable[[float], None] | None = None
        """Called when the relay has seen that we are at another address, and has validated it."""
        self._quic.follow_routes(self._place)
        self._quic.start(loop.time())
        self._place.attach(self)

    @property
    def round_trip_s(self) -> float:
        """Smoothed round trip to the relay, in seconds; 0.0 before the first sample."""
        return self._quic.statistics().smoothed_rtt_s

    async def request(self, method: str, authority: str, path: str, body: bytes = b"") -> Response:
        """Make one request and wait for its response: as long as the connection lasts.

        :raises RelayUnreachable: the connection ended first.
        :raises RegistrationFailed: the response is larger than `MAX_RESPONSE`.
        """
        if self._http is None or self.ended.done():
            raise RelayUnreachable(f"the relay's connection is closed: {self._why()}")
        stream = self._quic.get_next_available_stream_id()
        headers = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", authority.encode()),
            (b":path", path.encode()),
        ]
        if body:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", str(len(body)).encode()))
        token = self._token() if self._token is not None else None
        if token is not None:
            headers.append((b"authorization", b"Bearer " + token.encode()))
        exchange = _Exchange(self._loop.create_future(), token is not None)
        self._exchanges[stream] = exchange
        self._http.send_headers(stream, headers, end_stream=not body)
        if body:
            self._http.send_data(stream, body, end_stream=True)
        self._place.schedule()
        try:
            return await exchange.response
        finally:
            self._exchanges.pop(stream, None)

    def ping(self) -> None:
        """Send a PING; `on_ping_acknowledged` is called when the relay has answered it."""
        self._ping_id += 1
        self._quic.send_ping(self._ping_id)
        self._place.schedule()

    @property
    def heard_at(self) -> float | None:
        """When anything came last, in loop time; None: nothing did yet."""
        return self._place.last_heard

    def end_if_silent(self, patience_s: float | None, first_s: float | None = None) -> None:
        """From now on end as soon as for so many seconds something of ours was not acknowledged,
        and nothing was heard; None: no longer.

        :param first_s: the same until anything is heard, if that is another time.
        """
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None
        if patience_s is None or self.ended.done():
            return
        now = self._loop.time()
        since = now if self._unanswered_since is None else self._unanswered_since
        limit_s = patience_s if first_s is None or self.heard_at is not None else first_s
        left_s = since + limit_s - now
        if left_s > 0:
            again = self.end_if_silent
            self._silence_timer = self._loop.call_later(left_s, again, patience_s, first_s)
        else:
            self.close()

    def close(self) -> None:
        """Say goodbye, once and without waiting, and end. A second call does nothing."""
        if not self.ended.done():
            self._quic.finish(H3ErrorCode.H3_NO_ERROR, "")
            self._leave("closed by us")

    # What the endpoint calls.

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take one UDP payload."""
        self._quic.receive(datagram, now)
        self._unanswered_since = None

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """The UDP payloads to send now."""
        datagrams = self._quic.outgoing(now)
        if datagrams and self._unanswered_since is None and self._quic.has_unacknowledged:
            self._unanswered_since = now
        return datagrams

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called."""
        return self._quic.next_timer()

    def handle_timer(self, now: float) -> None:
        """The time of `next_timer` has come."""
        self._quic.handle_time(now)

    def process(self, now: float) -> None:
        """Handle what QUIC and HTTP/3 have to report."""
        while not self.ended.done() and (event := self._quic.next_event()) is not None:
            match event:
                case HandshakeCompleted():
                    self._begin()
                case PingAcknowledged(uid=ping_id):
                    self._acknowledged(ping_id, now)
                case ConnectionTerminated():
                    pass  # comes late, after the draining period: see below
                case _:
                    self._handle_http(event)
        if self._quic.path_challenges > self._challenges:
            # The answer goes out with this ping; when that is acknowledged the relay has both.
            self._challenges = self._quic.path_challenges
            self.ping()
            self._moved_ping_id = self._ping_id
        end = self._quic.end
        if end is not None and not self.ended.done():
            self.is_to_begin_again = (
                end.code == QuicErrorCode.INVALID_TOKEN and not end.is_application
            )
            self._leave(printable(end.reason) or f"closed with code {end.code}")

    def _acknowledged(self, ping_id: int, now: float) -> None:
        if self.on_ping_acknowledged is not None:
            self.on_ping_acknowledged(now)
        if ping_id == self._moved_ping_id and self.on_moved is not None:
            self.on_moved(now)

    def _begin(self) -> None:
        """The relay has proved that it has the certificate's key: is it one that we trust?"""
        self.chain = self._quic.peer_certificates
        try:
            self._check(self.chain)
        except PeersError as error:
            self._refuse(error)
            self.close()
            return
        self._http = H3Connection(self._quic)
        if not self.ready.done():
            self.ready.set_result(None)

    def _handle_http(self, event: QuicEvent) -> None:
        if self._http is None:
            return
        # A stream's window never moves, and the connection's only when a stream is over: what is
        # left of an unfinished frame aioquic keeps in memory, and after a reset for good.
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.end_receiving(event.stream_id)
        elif isinstance(event, StreamReset):
            self._fail(event.stream_id, RelayUnreachable("the relay reset the request"))
        try:
            for each in self._http.handle_event(event):
                self._handle_response(each)
        except Exception as error:  # any: aioquic promises no list for malformed input
            _log.info("the relay's HTTP/3 is malformed: %s: %s", type(error).__name__, error)
            self._quic.finish(H3ErrorCode.H3_INTERNAL_ERROR, "malformed HTTP/3")

    def _handle_response(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            return
        if isinstance(event, DataReceived):
            exchange.body += event.data
        elif exchange.status < 200:  # none yet, or an interim one; else these are trailers
            exchange.headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers
            }
            exchange.status = _status(exchange.headers)
        if len(exchange.body) > MAX_RESPONSE:
            self._fail(event.stream_id, RegistrationFailed("the relay's answer is too large"))
        elif event.stream_ended and not exchange.response.done():
            response = Response(
                exchange.status, exchange.headers, bytes(exchange.body), exchange.had_token
            )
            exchange.response.set_result(response)

    def _fail(self, stream: int, error: PeersError) -> None:
        exchange = self._exchanges.pop(stream, None)
        if exchange is not None and not exchange.response.done():
            exchange.response.set_exception(error)
            exchange.response.exception()  # seen, should nobody wait for it any more

    def _leave(self, why: str) -> None:
        """End; if the relay does not know it yet, it is told."""
        self.end_if_silent(None)
        self._place.schedule()
        self._endpoint.flush()
        self._quic.leave_routes()
        self._place.detach()
        self.ended.set_result(why)
        self._refuse(RelayUnreachable(f"the relay did not let us in: {why}"))
        for stream in list(self._exchanges):
            self._fail(stream, RelayUnreachable(f"the connection to the relay ended: {why}"))

    def _refuse(self, error: PeersError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # seen: whoever lost interest need not hear of it

    def _why(self) -> str:
        return self.ended.result() if self.ended.done() else "it has not begun"


def _server_name(host: str) -> str:
    """As TLS wants it (RFC 6066 §3): without the last dot, without a zone, in ASCII."""
    name = host.partition("%")[0].rstrip(".")
    return name if name.isascii() else name.encode("idna").decode()


def _status(headers: dict[str, str]) -> int:
    text = headers.get(":status", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) == 3 else 0
