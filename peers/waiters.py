"""Tasks that wait until something may have changed, then look again by themselves."""

import asyncio


class Waiters:
    """A condition without a lock, for one event loop: whoever is woken checks its own condition."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._futures)

    async def wait(self) -> None:
        """Wait for the next `wake`. Cancelling it leaves nothing behind."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        try:
            await future
        finally:
            self._futures.discard(future)

    def wake(self) -> None:
        """Let all that wait now look again."""
        for future in self._futures:
            if not future.done():
                future.set_result(None)
