"""An admin listener beside the test, for clients that block."""

import asyncio
import threading

from relay.admin.guard import Rules
from relay.core.admission import Grant
from tests.admin.fake_relay import TOKEN, FakeRelay, running


class InThread:
    """A listener with some registrations, served by a loop in a thread of its own."""

    def __init__(self, *, reads_want_token: bool = False) -> None:
        self._rules = Rules(token=TOKEN, reads_want_token=reads_want_token)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20.0)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set_result, None)
        self._thread.join(20.0)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        relay = FakeRelay(kernel={"forwarded": 3, "rate_limited": 1})
        async with running(relay, self._rules) as listener:
            self.names = [
                relay.register(f"198.51.100.{n}", key=n, grant=Grant("alice", "t1", 2e9, 60.0))
                for n in range(1, 9)
            ]
            relay.registry.release(3, relay.now)
            listener.sight.tick()
            relay.now += 1.0
            listener.sight.tick()
            self.port = listener.port
            self._ready.set()
            await self._end
