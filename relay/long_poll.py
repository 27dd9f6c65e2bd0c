"""Requests that wait until there is something to answer: long polls (docs/protocol.md §10.3).

A client asks, and the relay answers when something has happened to what it asks about, or when the
time is over. A task of the HTTP/3 server waits for each; that is all that it costs.
"""

import asyncio
from collections.abc import Hashable

from relay.core.rendezvous import RendezvousFull

MAX_WAIT_S = 25.0
"""Seconds that a request may wait: less than any NAT on the way forgets, and than HTTP/3's own
limit (`Http3Limits.answer_timeout_s`)."""


class LongPolls:
    """Who waits for what. For one event loop.

    Whoever wakes passes no value: the one that waited looks again by itself. So look first, and
    wait only when there is nothing; between the two there must be no `await`.
    """

    def __init__(self, max_waiting: int = 20_000) -> None:
        """:param max_waiting: requests that may wait at a time, about 20 kB each."""
        self._max_waiting = max_waiting
        self._waiting: dict[Hashable, asyncio.Future[bool]] = {}
        self.refused = 0
        """How many requests were too many."""

    def __len__(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    async def wait(self, key: Hashable, seconds: float) -> bool:
        """Wait for `wake(key)`; whether it came. No longer than `seconds`, or `MAX_WAIT_S`.

        One request waits for a key: if another one comes, the earlier is woken at once, so that
        a client that has lost one on the way need not wait for its end.

        :raises RendezvousFull: too many wait already.
        """
        self.wake(key)
        if len(self._waiting) >= self._max_waiting:
            self.refused += 1
            raise RendezvousFull("too many requests wait here", retry_after_s=5.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting[key] = future
        timer = loop.call_later(max(0.0, min(seconds, MAX_WAIT_S)), _resolve, future, False)
        try:
            return await future
        finally:
            timer.cancel()
            if self._waiting.get(key) is future:
                del self._waiting[key]

    def wake(self, key: Hashable) -> None:
        """Something has happened to `key`: whoever waits for it is to look again."""
        future = self._waiting.pop(key, None)
        if future is not None:
            _resolve(future, True)


def _resolve(future: "asyncio.Future[bool]", was_woken: bool) -> None:
    if not future.done():
        future.set_result(was_woken)
