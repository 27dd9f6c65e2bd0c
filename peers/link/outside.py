"""Our own address as the relay sees it, and who wants to know. docs/protocol.md §12.1."""

import asyncio
from collections.abc import Awaitable, Callable

from relay.wire.address import Address
from relay.wire.body import MalformedRequest
from relay.wire.outside import ADDRESS_PATH, AddressAnswer

from ..errors import RelayError
from .connection import RelayConnection, Response

OK = 200
TOO_EARLY = 425
RETRY_S = (0.2, 0.5, 1.0, 2.0)
"""Seconds between the attempts, while the relay has not validated our new address yet."""

OnOutside = Callable[[Address | None], None]
"""Takes the address; None: it is not known any more."""


class Outside:
    """What the relay says of the socket that a link uses, for as long as that is true."""

    def __init__(self, request: Callable[[], Awaitable[Response]]) -> None:
        """:param request: makes the request of `ADDRESS_PATH`, over whichever connection."""
        self._request = request
        self._watchers: dict[object, OnOutside] = {}
        self._asking: asyncio.Task[None] | None = None
        self._again = False
        self._is_stale = False  # the connection is another one than that which said it
        self.address: Address | None = None
        """None: the relay has not said it, or it may have changed."""
        self.listeners: tuple[Address, ...] | None = None
        """Where the relay listens; None: it was not asked."""

    def watch(self, on_outside: OnOutside) -> Callable[[], None]:
        """Have it called at every change, and when the socket may be another one.

        :returns: ends that; a second call does nothing.
        """
        key = object()
        self._watchers[key] = on_outside
        if self.listeners is None:
            self.ask()
        return lambda: self._watchers.pop(key, None) and None

    def registered(self, text: str) -> None:
        """The relay has registered the socket's owner, and said at which address."""
        try:
            self._set(Address.parse(text))
        except ValueError:  # the answer's other fields are good, and nothing hangs on this one
            self._set(None)

    def replaced(self) -> None:
        """The connection is a new one, perhaps from another socket: all may be different."""
        self._is_stale = bool(self._watchers)
        self.moved()

    def moved(self) -> None:
        """The relay has seen us at another address. Nobody is asked whom nobody wants to hear."""
        if self._watchers:
            self.ask()
        else:
            self.address = self.listeners = None

    def ask(self) -> None:
        """Ask the relay, in the background; whoever watches hears of the answer."""
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        else:
            self._again = True  # what is under way may bring what is no longer true

    def close(self) -> None:
        """Stop asking, forget the watchers."""
        self._watchers.clear()
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        try:
            while True:
                self._again = False
                answer = await self._answer()
                if self._again:
                    continue
                if answer is not None:
                    self._is_stale = self._is_stale or answer.listeners != self.listeners
                    self.listeners = answer.listeners
                    self._set(answer.address)
                elif self._is_stale:
                    self._set(None)
                return
        finally:
            self._asking = None

    async def _answer(self) -> AddressAnswer | None:
        """None: the relay is too old to say, or does not answer; a reconnection asks again."""
        for pause_s in (*RETRY_S, None):
            try:
                response = await self._request()
                if response.status != TOO_EARLY or pause_s is None:
                    return read(response)
            except (RelayError, MalformedRequest):
                return None
            await asyncio.sleep(pause_s)
        return None

    def _set(self, address: Address | None) -> None:
        if address == self.address and not self._is_stale:
            return
        self.address = address
        self._is_stale = False
        for on_outside in list(self._watchers.values()):
            on_outside(address)


async def ask_address(connection: RelayConnection, authority: str) -> AddressAnswer | None:
    """Ask over one connection. None: the relay does not say.

    :raises RelayUnreachable: the connection ended first.
    :raises MalformedRequest: the answer makes no sense.
    """
    return read(await connection.request("GET", authority, ADDRESS_PATH))


def read(response: Response) -> AddressAnswer | None:
    """Read an answer; None: the relay did not give any.

    :raises MalformedRequest: it makes no sense.
    """
    return AddressAnswer.decode(response.body) if response.status == OK else None
