"""The inside of a pipe: what the endpoint drives, and what its streams stand on."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from aioquic.quic import events

from .auth import Authentication, Peer, explain_failure, other_role, refuse
from .connection import Routes
from .control import MAX_QUEUED, ControlMalformed, MessageReader, frame
from .errors import (
    AuthenticationFailed,
    CloseCode,
    InviteExpired,
    NoAnswer,
    PeersError,
    PipeClosed,
    PipeLost,
    printable,
)
from .quic.connection import PeerConnection
from .quic.parts import End, EndedBy
from .stream import Stream
from .waiters import Waiters

KEEPALIVE_S = 10.0
"""Seconds of silence after which the other peer is asked for a sign of life. It has the idle
timeout (30 s) to give one, and is asked again every second."""
DIALER_PATIENCE_S = 1.0
"""Seconds for which the dialer leaves that to the accepter."""

DATAGRAMS_UNREAD = 256
"""Datagrams kept until the application fetches them; one more, and the oldest is dropped."""

_MOST_EARLY = 16
"""Messages that are kept until the pipe is open."""


class Companion(Protocol):
    """Who talks to the other peer on the control stream: the search for direct paths."""

    def pipe_opened(self, now: float) -> None:
        """Both ends have accepted each other. Called once."""

    def message_received(self, body: bytes, now: float) -> None:
        """The other end sent this on its control stream, 1 to 4,096 bytes."""

    def pipe_ended(self) -> None:
        """The pipe is over. Called once."""


class PipeCore:
    """Implements `Connection` for the endpoint and `Carrier` for the streams.

    It turns QUIC's events into queues, and wakes whoever waits for them. An error, once set, stays.
    """

    def __init__(
        self,
        quic: PeerConnection,
        schedule: Callable[[], None],
        routes: Routes,
        auth: Authentication,
    ) -> None:
        self._quic = quic
        self._schedule = schedule
        self._auth = auth
        self._heard_at: float | None = None
        self._asked_at = 0.0  # when the last keepalive went out
        self._candidate: Peer | None = None  # authenticated by us, perhaps not yet we by it
        self._error: PeersError | None = None
        self._watched: dict[int, Stream] = {}
        # The original's peers have none.
        self._control_streams = frozenset(quic.control_stream_ids if auth.kind is not None else ())
        self._control_reader = MessageReader()
        self._early: list[bytes] = []  # messages that came before the pipe was open
        self._control_stopped = False  # the other end listens no more
        self.companion: Companion | None = None
        self.control_dropped = 0
        """Messages that were not sent, as too many waited, or the other end takes none."""

        self.peer: Peer | None = None
        """Set when the pipe is open: both ends have accepted each other."""
        self.streams: dict[int, Stream] = {}
        """By ID, until both directions are over."""
        self.unaccepted: deque[Stream] = deque()
        """Streams that the other end has opened. Their number is limited by QUIC."""
        self.datagrams: deque[bytes] = deque()
        self.datagrams_dropped = 0
        self.changes = Waiters()
        """Woken when the pipe opens, ends, and when nothing is left to say to the other end."""
        self.acceptors = Waiters()
        self.datagram_readers = Waiters()
        quic.follow_routes(routes)

    @property
    def is_open(self) -> bool:
        """Whether both ends have accepted each other, and none has closed."""
        return self.peer is not None and self._error is None

    def open_stream(self, *, unidirectional: bool) -> Stream:
        """Make a stream of our own."""
        return self._add_stream(self._quic.open_stream(unidirectional=unidirectional))

    def accept_stream(self) -> Stream:
        """Take the first of `unaccepted`, which must not be empty."""
        stream = self.unaccepted.popleft()
        stream.accept()
        return stream

    def finish(self, code: int, reason: str) -> None:
        """Close, unless that has happened already."""
        if self._quic.end is None:
            self._quic.finish(code, reason)
            self._look_for_end(None)
            self._schedule()

    def send_control(self, body: bytes) -> None:
        """Send a message of 1 to 4,096 bytes to the other end's companion, reliably, in order."""
        ours, _ = self._quic.control_stream_ids
        framed = frame(body)
        is_full = self._quic.unacknowledged(ours) + len(framed) > MAX_QUEUED
        is_possible = self._control_streams and self.is_open and not self._control_stopped
        if is_full or not is_possible:
            self.control_dropped += 1
            return
        self._quic.send_control(framed)
        self._schedule()

    def give_up(self, error: PeersError, code: int, reason: str) -> None:
        """End the pipe for a reason of our own; the other end hears code and reason."""
        if self._error is None:
            self._end(error)
            self._quic.finish(code, reason)
            self._schedule()

    # `Connection`, for the endpoint

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take one UDP payload."""
        self._quic.receive(datagram, now)
        self._heard_at = now

    def process(self, now: float) -> None:
        """Handle what QUIC has to report."""
        while (event := self._quic.next_event()) is not None:
            if self._error is not None:
                continue
            if getattr(event, "stream_id", None) in self._control_streams:
                self._handle_control(event, now)
            else:
                self._handle(event)
        if self._candidate is not None and self.peer is None:
            self._look_whether_open(now)
        if self._watched:
            self._watched = {
                stream_id: stream
                for stream_id, stream in self._watched.items()
                if stream.progress()
            }
        self._look_for_end(now)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """The UDP payloads to send now."""
        datagrams = self._quic.outgoing(now)
        if self._quic.is_gone:
            self.changes.wake()  # a waiting dialer is gone as soon as it is closed
        return datagrams

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called."""
        timer = self._quic.next_timer()
        if timer is None or not self.is_open:
            return timer
        return min(timer, self._keepalive_at())

    def handle_timer(self, now: float) -> None:
        """The time of `next_timer` has come."""
        if self.is_open and now >= self._keepalive_at():
            self._asked_at = now
            self._quic.send_ping(0)
        self._quic.handle_time(now)

    # `Carrier`, for streams

    @property
    def quic(self) -> PeerConnection:
        """The connection."""
        return self._quic

    @property
    def error(self) -> PeersError | None:
        """How the pipe ended; None while it has not."""
        return self._error

    def schedule(self) -> None:
        """There may be something to send."""
        self._schedule()

    def watch(self, stream: Stream) -> None:
        """Call its `progress` after each batch, until it returns False."""
        self._watched[stream.id] = stream

    def finished(self, stream: Stream) -> None:
        """Both directions of a stream are over."""
        if self.streams.pop(stream.id, None) is not None:
            self._quic.end_receiving(stream.id)
            if not self._quic.is_local_stream(stream.id):
                self._quic.release_stream(stream.id)
                self._schedule()

    # Own

    def _keepalive_at(self) -> float:
        # Both ends heard each other last in the same exchange. With equal times they would both
        # ask, each time; so the accepter asks first.
        interval_s = KEEPALIVE_S + (DIALER_PATIENCE_S if self._quic.is_client else 0.0)
        return max(self._heard_at or 0.0, self._asked_at) + interval_s

    def _handle_control(self, event: events.QuicEvent, now: float) -> None:
        match event:
            case events.StreamDataReceived():
                self._quic.consumed(event.stream_id, len(event.data))
                self._take_messages(event.data, now)
            case events.StreamReset():
                self._quic.end_receiving(event.stream_id)
            case events.StopSendingReceived():  # of ours: it is all that can be heard of that
                self._control_stopped = True

    def _take_messages(self, data: bytes, now: float) -> None:
        try:
            bodies = self._control_reader.feed(data)
        except ControlMalformed as error:
            self.finish(CloseCode.PROTOCOL_VIOLATION, str(error))
            return
        if self.peer is None:  # HANDSHAKE_DONE is still to come
            self._early += bodies[: _MOST_EARLY - len(self._early)]
        elif self.companion is not None:
            for body in bodies:
                self.companion.message_received(body, now)

    def _handle(self, event: events.QuicEvent) -> None:
        match event:
            case events.StreamDataReceived():
                stream = self._stream(event.stream_id)
                if stream is not None:
                    stream.feed(event.data, is_end=event.end_stream)
            case events.DatagramFrameReceived():
                self._take_datagram(event.data)
            case events.HandshakeCompleted():
                self._authenticate()
            case events.StreamReset():
                stream = self._stream(event.stream_id)
                if stream is not None:
                    stream.feed_reset(event.error_code)
            case events.StopSendingReceived():
                stream = self._stream(event.stream_id)
                if stream is not None:
                    stream.feed_stop(event.error_code)

    def _authenticate(self) -> None:
        try:
            self._candidate = self._auth.check(self._quic)
        except AuthenticationFailed as error:
            refuse(self._quic, error)
            self._end(error)

    def _look_whether_open(self, now: float) -> None:
        # The server's last word in the handshake says that it has checked us, too.
        if self._quic.is_handshake_confirmed and self._quic.end is None:
            self.peer = self._candidate
            self.changes.wake()
            if self.companion is not None:
                self.companion.pipe_opened(now)
                for body in self._early:
                    self.companion.message_received(body, now)
            self._early.clear()

    def _stream(self, stream_id: int) -> Stream | None:
        """The stream, made if the other end has just opened it; None: it is over."""
        stream = self.streams.get(stream_id)
        if stream is None and not self._quic.is_local_stream(stream_id):
            stream = self._add_stream(stream_id)
            stream.hold()
            self.unaccepted.append(stream)
            self.acceptors.wake()
        return stream

    def _add_stream(self, stream_id: int) -> Stream:
        is_local = self._quic.is_local_stream(stream_id)
        is_unidirectional = stream_id & 2 != 0  # RFC 9000 §2.1
        stream = Stream(
            self,
            stream_id,
            readable=not (is_unidirectional and is_local),
            writable=not (is_unidirectional and not is_local),
        )
        self.streams[stream_id] = stream
        return stream

    def _take_datagram(self, data: bytes) -> None:
        if len(self.datagrams) >= DATAGRAMS_UNREAD:
            self.datagrams.popleft()
            self.datagrams_dropped += 1
        self.datagrams.append(data)
        self.datagram_readers.wake()

    def _look_for_end(self, now: float | None) -> None:
        end = self._quic.end
        if end is None:
            return
        if self._error is None:
            silence = 0.0 if now is None else now - (self._heard_at or now)
            self._end(self._explain(end, silence))
        if self._quic.is_gone:
            self.changes.wake()

    def _end(self, error: PeersError) -> None:
        self._error = error
        for stream in list(self.streams.values()):
            stream.pipe_ended()
        for waiters in (self.changes, self.acceptors, self.datagram_readers):
            waiters.wake()
        companion, self.companion = self.companion, None
        if companion is not None:
            companion.pipe_ended()

    def _explain(self, end: End, silence_s: float) -> PeersError:
        other = other_role(self._quic)
        if self.peer is None:
            if end.by is not EndedBy.SILENCE:
                return explain_failure(end, other)
            if self._quic.is_muted:
                return InviteExpired("the invite has expired: nobody answered it")
            return NoAnswer(f"no answer from the {other}; invite used or expired?")
        reason = printable(end.reason)
        why = f": {reason}" if reason else ""
        match end.by:
            case EndedBy.SILENCE:
                return PipeLost(f"the other peer was not heard for {silence_s:.0f} s")
            case _ if not end.is_application:
                return PipeLost(f"the pipe broke, with QUIC error {end.code:#x}{why}")
            case EndedBy.PEER:
                text = "the other peer closed the pipe"
            case EndedBy.US:
                text = "the pipe was closed here"
        with_code = f", with code {end.code}" if end.code else ""
        return PipeClosed(f"{text}{with_code}{why}", code=end.code, reason=reason)
