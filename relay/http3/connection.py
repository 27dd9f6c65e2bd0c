"""One HTTP/3 connection: feeds aioquic, keeps its timer, and hands requests to hypercorn."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
)

from relay.core.path import Path
from relay.core.registry import HolderId
from relay.http3.limits import Http3Limits
from relay.http3.quic import HostConnection
from relay.http3.report import Failure, Refused
from relay.http3.requests import Requests, RequestServer

_TIMER_RESOLUTION_S = 0.001
"""A timer that is due is not called sooner than this: what never ends must not spin."""


class Host(Protocol):
    """What a connection asks of the server."""

    def send(self, datagram: bytes, path: Path) -> None:
        """Pass a datagram to the network; never raises."""

    def add_route(self, cid: bytes, connection: "ClientConnection") -> None:
        """Datagrams to this connection ID are for `connection`."""

    def remove_route(self, cid: bytes) -> None:
        """No more."""

    def refuse(self, reason: Refused) -> None:
        """Count a datagram that was not taken."""

    def schedule_flush(self, connection: "ClientConnection") -> None:
        """Call `flush` soon, once."""

    def guard(
        self, connection: "ClientConnection", action: Callable[..., None], *args: object
    ) -> None:
        """Call `action`; whatever it raises ends this connection and no other."""

    def established(self, connection: "ClientConnection") -> None:
        """The handshake is complete."""

    def moved(self, connection: "ClientConnection", path: Path) -> None:
        """The client is now reached by `path`, which is validated."""

    def ended(self, connection: "ClientConnection", failure: Failure | None) -> None:
        """It is over: forget it."""


class ClientConnection:
    """One client. The application sees `id` and `validated_path` of it."""

    def __init__(
        self,
        connection_id: HolderId,
        quic: HostConnection,
        host: Host,
        server: RequestServer,
        limits: Http3Limits,
        now: float,
    ) -> None:
        self._id = connection_id
        self._quic = quic
        self._host = host
        self._server = server
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._handshake_end = now + limits.handshake_timeout_s
        self._cids: set[bytes] = {quic.host_cid}
        self._requests: Requests | None = None
        self._is_established = False
        self._is_ended = False
        self._announced: Path | None = None  # what the host knows: set once it is established
        self._timer: asyncio.TimerHandle | None = None

    @property
    def id(self) -> HolderId:
        """Unique in this process."""
        return self._id

    @property
    def validated_path(self) -> Path | None:
        """The network path in use, if it is validated: read it when it is needed."""
        return self._quic.validated_path

    @property
    def is_established(self) -> bool:
        """Whether the handshake is complete."""
        return self._is_established

    def begin(self, datagram: bytes, path: Path, now: float, is_validated: bool) -> None:
        """Take the first datagram. `is_validated`: the client's address is, by Retry."""
        self._host.add_route(self._quic.host_cid, self)
        self._quic.receive_datagram(datagram, path, now)
        if not self._quic.has_begun:
            self.end(Failure.BAD_INITIAL)
            return
        if is_validated:
            self._quic.validate_first_path()
        self._follow(now)

    def receive(self, datagram: bytes, path: Path, now: float) -> None:
        """Take a datagram that is for this connection; what to answer is sent soon."""
        if self._is_ended:
            return
        if not self._quic.takes_from(path):
            self._host.refuse(Refused.MOVED_TOO_EARLY)
            return
        self._quic.receive_datagram(datagram, path, now)
        self._follow(now)

    def flush(self, now: float) -> None:
        """Send what is to be sent, and look what comes of it."""
        if self._is_ended:
            return
        for datagram, path in self._quic.datagrams_to_send(now):
            self._host.send(datagram, path)
        self._handle_events()
        if self._quic.is_over:
            self.end(self._why_over())
        else:
            self._arm(now)

    def close(self, error_code: int, reason: str, now: float) -> None:
        """Tell the client, with an error code of HTTP/3 (RFC 9114 §8.1), and end at once."""
        if self._is_ended:
            return
        try:
            self._quic.close(error_code=error_code, reason_phrase=reason)
            for datagram, path in self._quic.datagrams_to_send(now):
                self._host.send(datagram, path)
        finally:
            self.end(None)

    def end(self, failure: Failure | None) -> None:
        """Forget everything without a word to the client. The second time nothing happens."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._requests is not None:
            self._requests.end()
        for cid in self._cids:
            self._host.remove_route(cid)
        self._cids.clear()
        self._host.ended(self, failure)

    def schedule_flush(self) -> None:
        """There may be something to send: see to it soon."""
        if not self._is_ended:
            self._host.schedule_flush(self)

    def call_guarded(self, action: Callable[..., None], *args: object) -> None:
        """Call `action`; whatever it raises ends this connection and no other."""
        self._host.guard(self, action, *args)

    def _follow(self, now: float) -> None:
        self._handle_events()
        path = self._quic.validated_path
        if self._is_established and path is not None and path != self._announced:
            self._announced = path
            self._host.moved(self, path)
        self._host.schedule_flush(self)

    def _handle_events(self) -> None:
        while (event := self._quic.next_event()) is not None:
            self._handle_event(event)

    def _handle_event(self, event: QuicEvent) -> None:
        match event:
            case ConnectionIdIssued(connection_id=cid):
                self._cids.add(cid)
                self._host.add_route(cid, self)
            case ConnectionIdRetired(connection_id=cid):
                self._cids.discard(cid)
                self._host.remove_route(cid)
            case HandshakeCompleted():
                self._requests = Requests(self, self._quic, self._server, self._limits)
                self._is_established = True
                self._announced = self._quic.validated_path
                self._quic.release_handshake()
                self._host.established(self)
            case ConnectionTerminated():
                pass  # seen as `is_over`
            case _ if self._requests is not None:
                self._requests.handle_event(event)

    def _why_over(self) -> Failure | None:
        if not self._is_established:
            return Failure.HANDSHAKE_FAILED
        if self._quic.is_idle_closed:
            return Failure.IDLE_TIMEOUT
        if self._quic.is_closed_by_us:
            return Failure.PROTOCOL_ERROR
        return None

    def _handle_timer(self) -> None:
        """The timer has fired, perhaps early."""
        self._timer = None
        now = self._loop.time()
        if not self._is_established and now >= self._handshake_end:
            self.end(Failure.HANDSHAKE_TIMEOUT)
            return
        due = self._quic.get_timer()
        if due is not None and now >= due:
            self._quic.handle_timer(now)
            self._follow(now)
        else:
            self._arm(now)

    def _arm(self, now: float) -> None:
        """One timer, which may fire early: most packets move it on, and few need it."""
        due = self._quic.get_timer()
        if not self._is_established:
            due = self._handshake_end if due is None else min(due, self._handshake_end)
        if due is None:
            return
        due = max(due, now + _TIMER_RESOLUTION_S)
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self.call_guarded, self._handle_timer)
