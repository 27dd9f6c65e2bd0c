"""The live event stream: server-sent events (WHATWG HTML §9.2).

Besides the events of relay/core/events.py there are `lost` (so many are missing here), `sample`
(the last second, if asked for) and `end` (the relay stops). A comment comes every few seconds, so
that both ends notice when the other has gone.
"""

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from relay.admin.sight import Sight
from relay.core.events import EventKind, Lost, Told
from relay.core.history import Step

SAMPLE = "sample"
KINDS = (*(kind.value for kind in EventKind), SAMPLE)
"""What a client may ask for."""

KEEPALIVE_S = 15.0
RETRY_MS = 2_000
"""After which a browser asks again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one client wants."""

    kinds: Collection[EventKind]
    samples: bool = False
    after: int | None = None
    """The last event that it has heard of."""
    backlog: int = 0
    """Without that: so many of the last events first."""
    duration_s: float | None = None
    """It ends after so long; None: never."""


class Streams:
    """All event streams of one listener."""

    def __init__(self, sight: Sight, keepalive_s: float = KEEPALIVE_S) -> None:
        self._sight = sight
        self._keepalive_s = keepalive_s
        self._open: set[EventStream] = set()
        self._is_closed = False

    def open(self, ask: Ask) -> "EventStream":
        """Answer a request with a stream.

        :raises relay.core.events.TooManyWatchers: there are too many already.
        """
        stream = EventStream(self._sight, ask, self._keepalive_s, self._open.discard)
        if self._is_closed:
            stream.end()
        self._open.add(stream)
        return stream

    def sample(self, step: Step) -> None:
        """Tell all who asked for it. Who is slow gets the newest only."""
        for stream in self._open:
            stream.sample(step)

    def close(self) -> None:
        """End them all."""
        self._is_closed = True
        for stream in self._open:
            stream.end()


class EventStream:
    """One answer: an ASGI application for one request."""

    def __init__(
        self,
        sight: Sight,
        ask: Ask,
        keepalive_s: float,
        done: Callable[["EventStream"], None],
    ) -> None:
        """Made in the event loop; what happens from now on is in the stream."""
        self._ask = ask
        self._hub = sight.hub
        self._keepalive_s = keepalive_s
        self._done = done
        self._ready = asyncio.Event()
        self._step: Step | None = None
        self._is_over = False
        self._watcher = self._hub.watch(
            ask.kinds, self._ready.set, after=ask.after, backlog=ask.backlog
        )

    def sample(self, step: Step) -> None:
        """There is a new sample."""
        if self._ask.samples:
            self._step = step
            self._ready.set()

    def end(self) -> None:
        """Say good-bye."""
        self._is_over = True
        self._ready.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"x-accel-buffering", b"no"),  # proxies must not hold it back
        ]
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(send, f"retry: {RETRY_MS}\n\n")
            if scope["method"] != "HEAD":
                await self._tell(send, gone)
            await self._send(send, "", more=False)
        finally:
            gone.cancel()
            self._hub.leave(self._watcher)
            self._done(self)

    async def _tell(self, send: Send, gone: "asyncio.Future[None]") -> None:
        loop = asyncio.get_running_loop()
        ends_at = None if self._ask.duration_s is None else loop.time() + self._ask.duration_s
        while not gone.done():
            self._ready.clear()
            text = self._text()
            if text:
                await self._send(send, text)
            if self._is_over:
                await self._send(send, "event: end\ndata: {}\n\n")
                return
            patience_s = self._keepalive_s
            if ends_at is not None:
                patience_s = min(patience_s, ends_at - loop.time())
                if patience_s <= 0:
                    return
            ready = asyncio.ensure_future(self._ready.wait())
            try:
                both: set[asyncio.Future[Any]] = {ready, gone}
                await asyncio.wait(both, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
            if not self._ready.is_set() and not gone.done():
                await self._send(send, ": still here\n\n")

    def _text(self) -> str:
        pieces = [_event(each) for each in self._watcher.take()]
        step, self._step = self._step, None
        if step is not None:
            pieces.append(f"event: {SAMPLE}\ndata: {json.dumps(step.to_json())}\n\n")
        return "".join(pieces)

    async def _send(self, send: Send, text: str, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


def _event(each: Told | Lost) -> str:
    if isinstance(each, Lost):
        return f"event: lost\ndata: {json.dumps({'count': each.count})}\n\n"
    data = json.dumps(each.event.to_json())  # ASCII, and no line breaks
    return f"id: {each.number}\nevent: {each.event.kind.value}\ndata: {data}\n\n"


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
