"""The longest stall of the event loop is seen, however short it is beside the ticks."""

import asyncio
import time

from relay.admin.service import AdminService
from relay.admin.settings import AdminSettings
from relay.wire.address import Address
from tests.admin.fake_relay import FakeRelay, until

STALL_S = 0.3


def test_a_stall_between_two_ticks_is_seen_whole() -> None:
    async def main() -> None:
        settings = AdminSettings(listen=(Address("127.0.0.1", 0),))
        service = AdminService(settings, FakeRelay(), clock=time.monotonic)
        await service.start()
        try:
            await asyncio.sleep(0.2)  # the first tick was at the start
            time.sleep(STALL_S)  # noqa: ASYNC251  (that is what is tested)
            # A look is due every twentieth of a second: so much of it may go unseen.
            await until(lambda: service.sight.longest_stall_s > STALL_S - 0.06)
        finally:
            await service.stop()

    asyncio.run(main())
