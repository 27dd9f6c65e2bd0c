"""Two pipes in one event loop, joined in memory. Use it under `run_virtual`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from peers.auth import Authentication, InviteKey
from peers.pipe import Pipe
from peers.quic.connection import PeerConnection
from peers.quic.parts import TransportSettings

from .quic_pair import Loss, RouteTable, connection_ids, no_loss


class Driver:
    """What an endpoint is to one pipe: flushes soon, keeps the timer, delivers to the other."""

    def __init__(self, link: "Link", *, is_client: bool) -> None:
        self._link = link
        self._is_client = is_client
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.pipe: Pipe | None = None
        self.routes = RouteTable()
        self.sent = 0

    def schedule(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_soon(self._flush)

    def deliver(self, datagram: bytes) -> None:
        if self.pipe is not None:
            self.pipe.connection.receive_datagram(datagram, self._loop.time())
            self.pipe.connection.process(self._loop.time())
            self.schedule()

    def stop(self) -> None:
        self.pipe = None
        for handle in (self._handle, self._timer):
            if handle is not None:
                handle.cancel()

    def _flush(self) -> None:
        self._handle = None
        if self.pipe is None:
            return
        for datagram in self.pipe.connection.datagrams_to_send(self._loop.time()):
            self.sent += 1
            if not self._link.loss(self._is_client, datagram):
                target = self._link.driver(not self._is_client)
                self._loop.call_later(self._link.latency_s, target.deliver, datagram)
        if self._timer is not None:
            self._timer.cancel()
        at = self.pipe.connection.next_timer()
        self._timer = None if at is None else self._loop.call_at(at, self._handle_timer)

    def _handle_timer(self) -> None:
        if self.pipe is not None:
            self.pipe.connection.handle_timer(self._loop.time())
            self.pipe.connection.process(self._loop.time())
            self.schedule()


class Link:
    """Both pipes and the way between them."""

    def __init__(self, *, loss: Loss = no_loss, latency_s: float = 0.02) -> None:
        self.loss = loss
        self.latency_s = latency_s
        self._drivers = {each: Driver(self, is_client=each) for each in (True, False)}

    def driver(self, is_client: bool) -> Driver:
        return self._drivers[is_client]

    def dial(
        self, auth: Authentication, wait_s: float, settings: TransportSettings | None = None
    ) -> tuple[Pipe, bytes]:
        """The dialer's pipe, and the invite's packet."""
        connection = PeerConnection(
            parts=auth.parts(is_dialer=True), connection_ids=connection_ids(1), settings=settings
        )
        [packet] = connection.start_muted(asyncio.get_running_loop().time(), wait_s)
        return self._make(True, connection, auth), packet

    def answer(
        self, auth: Authentication, packet: bytes, settings: TransportSettings | None = None
    ) -> Pipe:
        """The accepter's pipe."""
        connection = PeerConnection(
            parts=auth.parts(is_dialer=False),
            connection_ids=connection_ids(2),
            settings=settings,
            first_datagram=packet,
        )
        connection.start_server(asyncio.get_running_loop().time())
        return self._make(False, connection, auth)

    def stop(self) -> None:
        for driver in self._drivers.values():
            driver.stop()

    def _make(self, is_client: bool, connection: PeerConnection, auth: Authentication) -> Pipe:
        driver = self.driver(is_client)
        driver.pipe = Pipe(connection, driver.schedule, driver.routes, auth)
        driver.schedule()
        return driver.pipe


@asynccontextmanager
async def joined(
    link: Link | None = None, *, settings: TransportSettings | None = None
) -> AsyncIterator[tuple[Pipe, Pipe]]:
    """Dialer and accepter, open, with a key from the invite."""
    link = link or Link()
    auth = InviteKey()
    dialer, packet = link.dial(auth, 60.0, settings)
    accepter = link.answer(InviteKey(auth.key), packet, settings)
    try:
        await dialer.wait_open()
        await accepter.wait_open()
        yield dialer, accepter
    finally:
        link.stop()
