"""The peer's tie to its relay, kept up whatever happens. docs/protocol.md §3.

A link connects, registers, keeps the connection alive, notices when it is dead, reconnects,
registers everything again, and then has every pipe send a probe. Its owner notices nothing of that.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from relay.wire.connection_id import Derivation
from relay.wire.outside import ADDRESS_PATH
from relay.wire.registration import REGISTRATIONS_PATH

from ..endpoint import Endpoint
from ..errors import RegistrationFailed, RelayError, RelayUnreachable
from ..identity import fingerprint_of
from ..network import Network
from ..relay_name import RelayName
from ..trust import RelayTrust
from .connection import RelayConnection, Response
from .liveness import Action, Liveness
from .outside import Outside
from .registration import Registration, register
from .renewal import Renewals
from .search import RelaySearch

REQUEST_TIMEOUT_S = 10.0
"""Seconds for a request, with the reconnections and waits that it may take."""
SLOW_REQUEST_S = 1.0
"""Seconds, besides the round trip, after which a request is also tried over a new connection: on a
lossy way the relay's own probes may have backed off."""
LOST_REQUEST_PAUSE_S = 0.2
"""Seconds before a request that was cut off is made again; twice as many each further time."""
FAULT_PAUSE_S = 1.0
"""Seconds before the relay is looked for again after an error that nobody foresaw."""
GOODBYE_S = 1.0
"""Seconds that ending the registrations may take when the link closes."""

_log = logging.getLogger(__name__)

Made = TypeVar("Made")


class RelayLink:
    """Made by `connect`. It implements the endpoint's `Observer`."""

    def __init__(self, endpoint: Endpoint, name: RelayName, trust: RelayTrust) -> None:
        self._endpoint = endpoint
        self._name = name
        self._search = RelaySearch(endpoint, name, trust)
        self._loop = asyncio.get_running_loop()
        self._connection: RelayConnection | None = None
        self._registrations = Renewals(endpoint, str(name), lambda: self._connection, trust.token)
        self.token = trust.token
        self._up = asyncio.Event()  # set while there is a connection that has not ended
        # Done when the connection, thought lost, was only slow.
        self._recovered: asyncio.Future[None] = self._loop.create_future()
        self._reconnecting: asyncio.Task[None] | None = None
        self._liveness = Liveness(self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # meaningful while `_timer` is set
        self.outside = Outside(lambda: self.request("GET", ADDRESS_PATH))
        self.closers: list[Callable[[], Awaitable[None]]] = []
        """Called when the link closes, before it says goodbye: they have `GOODBYE_S`."""
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self.reconnections = 0
        """How often the relay was lost and found again."""

    @classmethod
    async def connect(cls, network: Network, name: RelayName, trust: RelayTrust) -> "RelayLink":
        """Reach a relay by whichever of its addresses answers first, and see that it is ours.

        :raises RelayUnreachable: no address, or no answer in ten seconds.
        :raises RelayUntrusted: by `trust`; nothing was told to it.
        """
        endpoint = Endpoint(network)
        link = cls(endpoint, name, trust)
        try:
            link._adopt(await link._search.first())
        except BaseException:
            endpoint.close()
            raise
        endpoint.observer = link
        return link

    @property
    def endpoint(self) -> Endpoint:
        """Where pipes find their place. It is closed with the link."""
        return self._endpoint

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def name(self) -> RelayName:
        """What the relay was asked for as."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """The relay's certificate: `sha256:` and 64 hexadecimal digits."""
        chain = self._connection.chain if self._connection is not None else []
        return fingerprint_of(chain[0]) if chain else ""

    async def register(self, key: bytes, derivation: Derivation, count: int) -> Registration:
        """Have the connection IDs number 1 to `count` of a key registered, and keep them so.

        :raises RegistrationFailed: the relay refuses, or does not answer.
        """
        registration = Registration(key, derivation)
        self._registrations.add(registration)
        try:
            await self.extend(registration, count)
        except BaseException:
            self._registrations.remove(registration)
            raise
        return registration

    async def extend(self, registration: Registration, count: int) -> None:
        """Have more connection IDs registered: up to number `count`.

        :raises RegistrationFailed: the relay refuses, or does not answer.
        """
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                deadline = self._loop.time() + REQUEST_TIMEOUT_S
                await self._insist(registration, count, deadline)
        except TimeoutError:
            raise RegistrationFailed(
                f"the relay {self._name} did not answer our registration"
                f" within {REQUEST_TIMEOUT_S:.0f} s"
            ) from None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        held_s: float = 0.0,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Response:
        """Make any other request, and again if its connection is lost: it may arrive twice.

        :param held_s: seconds for which the relay may hold it back: a long poll.
        :param timeout_s: seconds to wait for the answer, besides `held_s`.
        :raises RelayUnreachable: no answer, or the link is closed.
        """

        async def once(connection: RelayConnection) -> Response:
            return await connection.request(method, str(self._name), path, body)

        try:
            async with asyncio.timeout(held_s + timeout_s):
                return await self._repeat(once, held_s)
        except TimeoutError:
            raise RelayUnreachable(
                f"the relay {self._name} did not answer within {held_s + timeout_s:.0f} s"
            ) from None

    async def end(self, registration: Registration) -> None:
        """End a registration: best effort, within `GOODBYE_S`. What fails, the lease ends."""
        self._registrations.remove(registration)
        connection = self._connection
        if connection is None or not self._up.is_set() or not registration.id:
            return
        path = f"{REGISTRATIONS_PATH}/{registration.id}"
        with suppress(RelayError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await connection.request("DELETE", str(self._name), path)

    async def close(self) -> None:
        """End all registrations, say goodbye to the relay, close the endpoint. Takes `GOODBYE_S`.

        Nothing is left behind even if this is cancelled. All who call it wait for its end.
        """
        self._closed = True
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    # What the endpoint reports.

    def heard(self, now: float) -> None:
        """Something came by the current way."""
        self._liveness.heard(now)

    def pipe_received(self, now: float) -> None:
        """Some of it was for a pipe."""
        self._liveness.pipe_received(now)
        self._arm(now)

    def pipe_sent(self, now: float) -> None:
        """A pipe has sent."""
        self._liveness.pipe_sent(now)
        self._arm(now)

    def pipe_returned(self, now: float) -> None:
        """A pipe has lost its direct path: perhaps we are elsewhere. A ping lets the relay see."""
        connection = self._connection
        if connection is None or self._reconnecting is not None or not self._up.is_set():
            return
        connection.ping()
        self._liveness.pinged(now, connection.round_trip_s)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm(now)

    # Ending.

    async def _close(self) -> None:
        try:
            if self._reconnecting is not None:
                self._reconnecting.cancel()
            self._registrations.stop()
            self._search.stop()
            self.outside.close()
            if self._timer is not None:
                self._timer.cancel()
            await asyncio.gather(
                *(self._at_end(each) for each in self.closers),
                *(self.end(each) for each in self._registrations),
            )
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            self._endpoint.close()
            self._up.set()  # whoever waits for a connection learns that there will be none

    async def _at_end(self, closer: Callable[[], Awaitable[None]]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await closer()

    # Keeping it alive.

    def _adopt(self, connection: RelayConnection) -> None:
        """From now on this is the connection, and its way is everybody's."""
        now = self._loop.time()
        former, self._connection = self._connection, connection
        self._endpoint.use(connection.way)
        if former is not None:
            former.close()
        connection.end_if_silent(None)  # from now on that is up to the liveness
        connection.on_ping_acknowledged = self._acknowledged
        connection.on_moved = self._moved
        connection.ended.add_done_callback(lambda _: self._ended(connection))
        self.outside.replaced()
        self._liveness = Liveness(now)
        self._up.set()
        self._arm(now)

    def _moved(self, now: float) -> None:
        self._endpoint.probe_pipes(now)
        self.outside.moved()

    def _acknowledged(self, now: float) -> None:
        self._liveness.ping_acknowledged(now)
        self._recover()

    def _recover(self) -> None:
        """The relay has answered: an attempt to reconnect, if one is being made, is needless."""
        if not self._recovered.done():
            self._recovered.set_result(None)

    def _ended(self, connection: RelayConnection) -> None:
        if connection is self._connection and not self._closed:
            self._up.clear()
            self._reconnect(connection.ended.result())  # if that is not under way already

    def _arm(self, now: float) -> None:
        """See to it that `_check` is called in time. Called per batch: mostly there is no need.

        Nothing that is heard makes the liveness want to act sooner than a second from then.
        """
        if self._reconnecting is not None or self._closed:
            return
        if self._timer is not None:
            if self._timer_at <= now + 1.0:
                return
            if self._timer_at <= self._liveness.next_timer():
                return
            self._timer.cancel()
        self._timer_at = self._liveness.next_timer()
        self._timer = self._loop.call_at(self._timer_at, self._check)

    def _check(self) -> None:
        self._timer = None
        now = max(self._loop.time(), self._timer_at)
        connection = self._connection
        if self._closed or self._reconnecting is not None or connection is None:
            return  # armed again when that is over
        match self._liveness.poll(now):
            case Action.PING:
                connection.ping()
                self._liveness.pinged(now, connection.round_trip_s)
            case Action.RECONNECT:
                self._reconnect("it does not answer")
                return
            case Action.NOTHING:
                pass
        self._arm(now)

    # Finding it again.

    def _reconnect(self, why: str) -> None:
        if self._reconnecting is None and not self._closed:
            _log.info("lost the relay %s: %s", self._name, why)
            self._recovered = self._loop.create_future()
            self._reconnecting = self._loop.create_task(self._keep_trying())

    async def _keep_trying(self) -> None:
        try:
            connection = await self._search_until_found()
        finally:
            self._reconnecting = None
        now = self._loop.time()
        if connection is None:
            self._liveness = Liveness(now)
            self._registrations.reclaim()
            self._arm(now)
            return
        self.reconnections += 1
        _log.info("found the relay %s again, at %s", self._name, connection.way.relay)
        self._adopt(connection)
        # The other end may be waiting for a probe timeout that has backed off: do not let it wait.
        self._endpoint.probe_pipes(now)

    async def _search_until_found(self) -> RelayConnection | None:
        """Returns a new connection; None: the one that we have works after all."""
        while True:
            try:
                connection = await self._search.again(
                    self._recovered, self._registrations.renew_all
                )
            except Exception as error:  # any: nobody else would try again
                _log.error("cannot look for the relay: %s: %s", type(error).__name__, error)
                _log.info("the error's origin:", exc_info=True)
                await asyncio.sleep(FAULT_PAUSE_S)
                continue
            former = self._connection
            if connection is not None or former is None or not former.ended.done():
                return connection
            self._recovered = self._loop.create_future()  # it answered once more, and then ended

    # Registering.

    async def _insist(self, registration: Registration, count: int, deadline: float) -> None:
        """Register over whichever connection there is, until it is done or refused for good."""

        async def once(connection: RelayConnection) -> None:
            first = registration.count + 1
            await register(connection, str(self._name), registration, first, count)
            self.outside.registered(registration.address)

        while True:
            try:
                await self._repeat(once)
                return
            except RegistrationFailed as error:
                wait_s = error.retry_after_s
                if wait_s is None or self._loop.time() + wait_s > deadline:
                    raise
                await asyncio.sleep(wait_s)

    async def _repeat(
        self, make: Callable[[RelayConnection], Awaitable[Made]], held_s: float = 0.0
    ) -> Made:
        """Make a request over whichever connection there is, until one of them brings the answer.

        :raises RelayUnreachable: the link is closed.
        """
        pause_s = LOST_REQUEST_PAUSE_S
        while True:
            await self._up.wait()
            connection = self._connection
            if connection is None:
                raise RelayUnreachable("the connection to the relay is closed")
            slow_s = SLOW_REQUEST_S + connection.round_trip_s + held_s
            slow = self._loop.call_later(slow_s, self._reconnect, "a request is not answered")
            try:
                made = await make(connection)
                self._recover()
                return made
            except RelayUnreachable:
                await asyncio.sleep(pause_s)  # the connection is being replaced
                pause_s *= 2
            finally:
                slow.cancel()
