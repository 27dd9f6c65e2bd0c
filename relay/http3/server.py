"""The relay's HTTP/3 server: datagrams in, datagrams out, an ASGI application behind it.

It opens no socket. Hypercorn serves the requests (http3_requests), aioquic the connections
(http3_quic, http3_connection); this module decides which datagram is whose and in what order the
work is done. What goes wrong on one connection ends that connection and no other.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count

from starlette.types import ASGIApp

from relay.certificate import ServerCertificate
from relay.core.limits import RateLimiter, RateLimits
from relay.core.path import Path
from relay.core.registry import HolderId
from relay.http3.admission import Admission, Admitted, MustRetry, Rejected
from relay.http3.application import Application
from relay.http3.connection import ClientConnection
from relay.http3.limits import Http3Limits
from relay.http3.pace import Pace
from relay.http3.quic import HostConnection, server_configuration
from relay.http3.report import Failure, Http3Counters, Http3Report, Refused
from relay.http3.table import ConnectionTable
from relay.wire.address import Address
from relay.wire.invariants import LongHeader, Malformed, ShortHeader, parse_invariants

__all__ = [
    "ClientConnection",
    "Failure",
    "Http3Counters",
    "Http3Limits",
    "Http3Server",
    "Refused",
]

_H3_NO_ERROR = 0x100
_H3_INTERNAL_ERROR = 0x102
"""RFC 9114 §8.1."""

_MAX_PAUSE_S = 0.1
"""Seconds after which newcomers that wait for the core are looked at anew: there may be room."""

_Waiting = tuple[bytes, Path, Admitted]

_STOP_SLICE = 50
"""Connections closed in one turn of the event loop."""


class Http3Server:
    """See the module's text. It is made, and used, within one running event loop."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        certificate: ServerCertificate,
        send: Callable[[bytes, Path], None],
        on_moved: Callable[[HolderId, Path], None],
        on_closed: Callable[[HolderId], None],
        limits: Http3Limits | None = None,
        is_core_short: Callable[[], bool] = lambda: False,
        is_known: Callable[[Address], bool] = lambda _: False,
    ) -> None:
        """`send` takes each datagram that is to be sent, and the way it is to go.

        `on_moved`: a client is now reached by another path than before, which is validated.
        `on_closed`: a connection has ended; called once for each whose handshake was complete.
        `is_core_short`: whether others want the core, so that newcomers must wait.
        `is_known`: whether somebody is registered at an address: so it is no newcomer who begins a
        connection from there, but one whose pipes depend on it.
        """
        self._loop = asyncio.get_running_loop()
        self._limits = limits or Http3Limits()
        self._configuration = server_configuration(certificate, self._limits)
        self._transmit = send
        self._on_moved = on_moved
        self._on_closed = on_closed
        self._report = Http3Report(self._loop.time)
        self._application = Application(app, self._report)
        self._admission = Admission()
        self._unproven = RateLimiter(RateLimits.of(self._limits.unproven_per_minute))
        self._pace = Pace()
        self._is_core_short = is_core_short
        self._is_known = is_known
        self._ids = count(1)
        self._table = ConnectionTable(self._limits)
        # Together bounded: see _admit. Those who return do not wait for the core.
        self._newcomers: deque[_Waiting] = deque()
        self._returning: deque[_Waiting] = deque()
        self._to_flush: dict[ClientConnection, None] = {}  # in the order in which they asked
        self._turn: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None  # of the newcomers
        self._is_running = False

    @property
    def counters(self) -> Http3Counters:
        """A snapshot."""
        return self._report.snapshot(self._table.established, self._table.half_open)

    async def start(self) -> None:
        """Start the application. Datagrams that come earlier are refused.

        :raises hypercorn.utils.LifespanFailureError: if the application says that it failed.
        """
        await self._application.start()
        self._is_running = True

    def change_limits(self, limits: Http3Limits) -> None:
        """From now on these; connections that there are keep theirs."""
        self._limits = self._table.limits = limits
        self._unproven.change(RateLimits.of(limits.unproven_per_minute))

    def change_certificate(self, certificate: ServerCertificate) -> None:
        """From now on clients see this one; connections that there are go on."""
        self._configuration = server_configuration(certificate, self._limits)

    async def stop(self) -> None:
        """Tell all clients, end all connections and requests, stop the application.

        It takes no longer than `stop_timeout_s` and the application's own shutdown (0.2 s); whom it
        could not tell by then is not told.
        """
        if not self._is_running:
            return
        self._is_running = False
        self._newcomers.clear()
        self._returning.clear()
        now = self._loop.time()
        deadline = now + self._limits.stop_timeout_s
        for done, connection in enumerate(self._table):
            if now < deadline:
                self.guard(connection, connection.close, _H3_NO_ERROR, "relay stopping", now)
            else:
                connection.end(None)
            if done % _STOP_SLICE == _STOP_SLICE - 1:
                await asyncio.sleep(0)
                now = self._loop.time()
        for handle in (self._turn, self._pause):
            if handle is not None:
                handle.cancel()
        self._turn = self._pause = None
        await self._application.stop()

    def receive_datagram(self, datagram: bytes, path: Path) -> None:
        """Take a datagram that came by `path`. Never raises; answers are sent soon, not at once."""
        try:
            self._receive(datagram, path)
        except Exception as error:  # the guard of last resort: a hostile datagram that got so far
            self._report.fail(Failure.INTERNAL_ERROR, error)

    def _receive(self, datagram: bytes, path: Path) -> None:
        if not self._is_running:
            self._report.refuse(Refused.STOPPING)
            return
        header = parse_invariants(datagram)
        if isinstance(header, Malformed):
            self._report.refuse(Refused.MALFORMED)
            return
        connection = self._table.find(header, path)
        now = self._loop.time()
        if connection is not None:
            self.guard(connection, connection.receive, datagram, path, now)
        elif isinstance(header, ShortHeader):
            self._report.refuse(Refused.UNKNOWN_CONNECTION)
        else:
            half_open = self._table.half_open + self._how_many_wait
            ask_retry = half_open >= self._limits.retry_above_half_open
            self._admit(self._judge(datagram, header, path, ask_retry, now), datagram, path)

    def _judge(
        self, datagram: bytes, header: LongHeader, path: Path, ask_retry: bool, now: float
    ) -> Admitted | MustRetry | Rejected:
        decide = self._admission.decide
        verdict = decide(datagram, header, path, ask_retry=ask_retry, now=now)
        is_unproven = isinstance(verdict, Admitted) and not verdict.is_validated
        if is_unproven and self._unproven.take("", now):
            verdict = decide(datagram, header, path, ask_retry=True, now=now)
        return verdict

    def _admit(self, verdict: Admitted | MustRetry | Rejected, datagram: bytes, path: Path) -> None:
        match verdict:
            case Admitted():
                refused = self._table.why_no_room(verdict, path, self._how_many_wait)
                if refused is not None:
                    self._report.refuse(refused)
                    return
                queue = self._returning if self._is_known(path.remote) else self._newcomers
                queue.append((datagram, path, verdict))
                self._schedule_turn()
            case MustRetry(answer):
                self._report.retried += 1
                self.send(answer, path)
            case Rejected(reason, answer):
                self._report.refuse(reason)
                if answer is not None:
                    self.send(answer, path)

    def _schedule_turn(self) -> None:
        if self._turn is None and self._is_running:
            self._turn = self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Begin some handshakes, and send what all have to send: once for many datagrams."""
        self._turn = None
        now = self._loop.time()
        wait_s = self._begin_some(now) if self._how_many_wait else 0.0
        to_flush, self._to_flush = self._to_flush, {}
        for connection in to_flush:
            self.guard(connection, connection.flush, now)
        if wait_s:
            self._report.pauses += 1
            self._pause = self._loop.call_later(min(wait_s, _MAX_PAUSE_S), self._end_pause)
        if self._returning or (self._newcomers and self._pause is None):
            self._schedule_turn()

    def _end_pause(self) -> None:
        self._pause = None
        self._schedule_turn()

    @property
    def _how_many_wait(self) -> int:
        return len(self._returning) + len(self._newcomers)

    def _begin_some(self, now: float) -> float:
        """Begin handshakes of those that wait; returns in how many seconds to go on."""
        left = self._limits.handshakes_per_turn
        while left and self._returning:
            left -= 1
            self._try_to_begin(self._returning.popleft(), now)
        if self._pause is not None:
            return 0.0
        is_core_short = self._is_core_short()
        while left and self._newcomers:
            left -= 1
            if wait_s := self._pace.wait_s(now, is_core_short=is_core_short):
                return wait_s
            self._pace.begin()
            self._try_to_begin(self._newcomers.popleft(), now)
            self._pace.end(now)
        return 0.0

    def _try_to_begin(self, waiting: _Waiting, now: float) -> None:
        try:
            self._begin(*waiting, now)
        except Exception as error:
            self._report.fail(Failure.INTERNAL_ERROR, error)

    def _begin(self, datagram: bytes, path: Path, admitted: Admitted, now: float) -> None:
        connection = self._table.find_first(admitted.first_cid, path)
        if connection is not None:  # a second Initial of one that waited before it
            self.guard(connection, connection.receive, datagram, path, now)
            return
        refused = self._table.why_no_room(admitted, path, 0)
        if refused is not None:
            self._report.refuse(refused)
            return
        quic = HostConnection(
            self._configuration,
            self._limits,
            admitted.original_destination_cid,
            admitted.retry_source_cid,
        )
        connection = ClientConnection(
            next(self._ids), quic, self, self._application.requests, self._limits, now
        )
        self._table.add(connection, admitted, path)
        self.guard(connection, connection.begin, datagram, path, now, admitted.is_validated)

    # What connections call: see http3_connection.Host.

    def send(self, datagram: bytes, path: Path) -> None:
        """Pass a datagram to the network; never raises."""
        try:
            self._transmit(datagram, path)
        except Exception as error:
            self._report.fail(Failure.SEND_FAILED, error)

    def guard(
        self, connection: ClientConnection, action: Callable[..., None], *args: object
    ) -> None:
        """Call `action`; whatever it raises ends this connection and no other."""
        try:
            action(*args)
        except Exception as error:
            self._report.fail(Failure.INTERNAL_ERROR, error)
            try:
                connection.close(_H3_INTERNAL_ERROR, "the relay failed", self._loop.time())
            except Exception as second:
                self._report.fail(Failure.INTERNAL_ERROR, second)

    def add_route(self, cid: bytes, connection: ClientConnection) -> None:
        """Datagrams to this connection ID are for `connection`."""
        self._table.add_route(cid, connection)

    def remove_route(self, cid: bytes) -> None:
        """No more."""
        self._table.remove_route(cid)

    def refuse(self, reason: Refused) -> None:
        """Count a datagram that was not taken."""
        self._report.refuse(reason)

    def schedule_flush(self, connection: ClientConnection) -> None:
        """Call `flush` soon, once."""
        self._to_flush[connection] = None
        self._schedule_turn()

    def established(self, connection: ClientConnection) -> None:
        """The handshake is complete."""
        self._report.handshakes += 1
        self._table.establish(connection)

    def moved(self, connection: ClientConnection, path: Path) -> None:
        """The client is now reached by `path`, which is validated."""
        self._tell(self._on_moved, connection.id, path)

    def ended(self, connection: ClientConnection, failure: Failure | None) -> None:
        """It is over: forget it."""
        if failure is not None:
            self._report.fail(failure)
        if not self._table.remove(connection):
            return
        self._to_flush.pop(connection, None)
        if connection.is_established:
            self._tell(self._on_closed, connection.id)

    def _tell(self, listener: Callable[..., None], *args: object) -> None:
        try:
            listener(*args)
        except Exception as error:  # the caller's failure is no reason to end a connection
            self._report.fail(Failure.INTERNAL_ERROR, error)
