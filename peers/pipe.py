"""A pipe: one QUIC connection between two peers, for asyncio (docs/protocol.md §6).

`dial` and `accept` give open pipes. A pipe belongs to the event loop in which it was made.
"""

import asyncio
import copy
import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from .attachment import Attachment
from .auth import Authentication, Peer
from .closing import ClosedAtExit
from .connection import Connection, Routes
from .errors import CloseCode, PeersError, PipeClosed
from .link.link import RelayLink
from .paths.driver import DIRECT_WITHIN_S, OnChange, PathDriver, no_paths
from .paths.path import RELAY, PathPolicy
from .paths.report import PathReport
from .pipe_core import PipeCore
from .quic.connection import PeerConnection
from .quic.parts import QuicStatistics
from .stream import Stream, check_code

CLOSE_PATIENCE_S = 5.0
"""Seconds that `Pipe.close` waits at the most. Usually it takes three probe timeouts."""


@dataclass(frozen=True, slots=True)
class PipeStatistics(QuicStatistics):
    """Counts since the start, and the state of the path now. Sizes in bytes, times in seconds."""

    datagrams_dropped_unread: int
    """Datagrams that were dropped because too many waited to be fetched."""
    streams_open: int
    """Streams whose two directions are not both over."""
    bytes_unacknowledged: int
    """Written to streams and kept until the other end has acknowledged it."""
    bytes_unread: int
    """Received on streams and kept until the application reads it."""
    path: str
    """What it is sent by: `by the relay`, or `direct to ADDRESS`."""


class Pipe(ClosedAtExit):
    """Streams and datagrams to one other peer.

    Close it when done, best with `async with`. When it ends, for whatever reason, every call that
    waits raises `PipeClosed`, which says why; data that has arrived can still be read.
    """

    def __init__(
        self,
        connection: PeerConnection,
        schedule: Callable[[], None],
        routes: Routes,
        auth: Authentication,
    ) -> None:
        """For endpoints. The connection has begun; nothing of it was handled yet.

        :param schedule: asks the endpoint to send soon.
        """
        self._quic = connection
        self._schedule = schedule
        self._core = PipeCore(connection, schedule, routes, auth)
        self._on_close: Callable[[], Awaitable[None]] | None = None
        self._paths: PathDriver | None = None

    # For applications

    @property
    def peer(self) -> Peer:
        """Whom the pipe leads to.

        :raises PipeClosed: if it never opened.
        """
        if self._core.peer is None:
            raise self._core.error or PipeClosed("the pipe is not open yet")
        return self._core.peer

    @property
    def is_open(self) -> bool:
        """Whether both ends have accepted each other, and none has closed."""
        return self._core.is_open

    def open_stream(self, *, unidirectional: bool = False) -> Stream:
        """Open a stream. The other end learns of it when something is written to it.

        It can be written at once; what is beyond the number of streams that the other end takes
        at a time waits, unsent.

        :raises PipeClosed: the pipe has ended.
        """
        self._check_not_ended()
        return self._core.open_stream(unidirectional=unidirectional)

    async def accept_stream(self) -> Stream:
        """The next stream that the other end has opened, in the order of their first data.

        :raises PipeClosed: the pipe has ended, and no more streams wait.
        """
        while not self._core.unaccepted:
            self._check_not_ended()
            await self._core.acceptors.wait()
        return self._core.accept_stream()

    @property
    def max_datagram_size(self) -> int:
        """Bytes that fit in one datagram; 0: the other end takes none."""
        return self._quic.datagram_limit

    def send_datagram(self, data: bytes) -> None:
        """Send one datagram. It may be lost, and may overtake others or be overtaken.

        It is never repeated. When too many wait to be sent, the oldest is dropped.

        :raises DatagramTooLarge: and says what fits.
        :raises PipeClosed: the pipe has ended.
        """
        self._check_not_ended()
        self._quic.send_datagram(data)
        self._schedule()

    async def receive_datagram(self) -> bytes:
        """The next datagram from the other end. Those not fetched in time are dropped.

        :raises PipeClosed: the pipe has ended, and no more datagrams wait.
        """
        while not self._core.datagrams:
            self._check_not_ended()
            await self._core.datagram_readers.wait()
        return self._core.datagrams.popleft()

    async def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close the pipe at once, and wait until the other end has had its chances to hear of it.

        What is not acknowledged yet is dropped, also with code 0. So first `write_eof` and
        `await drain_acknowledged()` on every stream that was written. A second call only waits.

        :param code: docs/protocol.md §6.3.
        :param reason: for people; up to 200 bytes of it are sent.
        :raises UsageError: for a code that QUIC has no room for.
        """
        check_code(code)
        self._core.finish(code, reason)
        # The endpoint's timer ends the closing period; if the endpoint was closed first, ours does.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                while not self._quic.is_gone:
                    await self._core.changes.wait()
        if self._on_close is not None:
            await self._on_close()

    async def wait_closed(self) -> PeersError:
        """Wait until the pipe ends. Returns why: what every waiting call raises."""
        while (error := self._core.error) is None:
            await self._core.changes.wait()
        return copy.copy(error)

    def statistics(self) -> PipeStatistics:
        """A snapshot."""
        return PipeStatistics(
            **dataclasses.asdict(self._quic.statistics()),
            datagrams_dropped_unread=self._core.datagrams_dropped,
            streams_open=len(self._core.streams),
            bytes_unacknowledged=sum(map(self._quic.unacknowledged, self._core.streams)),
            bytes_unread=sum(each.unread for each in self._core.streams.values()),
            path=str(RELAY if self._paths is None else self._paths.current),
        )

    def paths(self) -> PathReport:
        """Which path is in use, why, and what became of all others that were tried."""
        return no_paths(self._quic.is_client) if self._paths is None else self._paths.report()

    def on_path_change(self, action: OnChange) -> None:
        """Call `action` with each change of the path, in the event loop, and quickly."""
        self._driver.on_change(action)

    async def wait_direct(self, timeout_s: float = DIRECT_WITHIN_S) -> None:
        """Wait until the pipe goes straight to the other peer. It may go back later.

        :raises NoDirectPath: there is no such path in that time. The pipe stays as it is.
        :raises PipeClosed: the pipe has ended.
        """
        await self._driver.wait_direct(timeout_s)

    # For `dial` and `accept`

    @property
    def connection(self) -> Connection:
        """What the endpoint is to drive."""
        return self._core

    async def wait_open(self) -> Peer:
        """Wait until both ends have accepted each other.

        :raises AuthenticationFailed: at either end.
        :raises InviteExpired: nobody answered a waiting dialer in time.
        :raises NoAnswer: the other end fell silent in the handshake.
        :raises PipeClosed: it was closed before it was open.
        """
        while self._core.peer is None:
            self._check_not_ended()
            await self._core.changes.wait()
        return self._core.peer

    async def wait_usable(self) -> None:
        """The pipe is open. If only a direct path will do, wait for that, too.

        :raises NoDirectPath: there is none; the pipe is closed.
        :raises PipeClosed: the pipe has ended.
        """
        if self._driver.policy is PathPolicy.DIRECT_ONLY:
            await self._driver.wait_direct(2 * DIRECT_WITHIN_S)  # the driver gives up in time

    def on_close(self, action: Callable[[], Awaitable[None]]) -> None:
        """Have `close` do this at its end: give up what the pipe lived on.

        Every call of `close` awaits it, so it must put up with several, also at the same time.
        """
        self._on_close = action

    def find_paths(self, place: Attachment, link: RelayLink, policy: PathPolicy) -> None:
        """Look for direct paths as soon as the pipe is open. To be called once, before that."""
        self._paths = PathDriver(self._core, place, link, policy)

    def probe(self, now: float) -> None:
        """We moved, or the relay came back: let the other end hear of us. Limit the rate."""
        self._quic.probe_now(now)
        self._schedule()

    def probe_if_waiting(self, now: float) -> None:
        """The other end is heard again: if something awaits its acknowledgement, ask for it."""
        if self._quic.has_unacknowledged:
            self.probe(now)

    def issue_connection_ids(self) -> None:
        """More connection IDs were registered: let the other end have them, if it needs any."""
        self._quic.issue_connection_ids()
        self._schedule()

    @property
    def _driver(self) -> PathDriver:
        """:raises RuntimeError: without `find_paths`."""
        if self._paths is None:
            raise RuntimeError("this pipe knows of no paths")
        return self._paths

    def _check_not_ended(self) -> None:
        if self._core.error is not None:
            raise copy.copy(self._core.error)
