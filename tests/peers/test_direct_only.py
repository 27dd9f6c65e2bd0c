"""Where only a direct path will do."""

import asyncio

import pytest

from peers import NoDirectPath, PathPolicy, accept
from relay.core.path import Path as RelayPath
from relay.wire.address import Address
from tests.lab.pairs import Pair, dial_at
from tests.lab.scene import Scene
from tests.peers.dial_scene import run
from tests.peers.direct_ends import Ends
from tests.peers.scripted_agent import Cast, install


@pytest.fixture
def cast(monkeypatch: pytest.MonkeyPatch) -> Cast:
    return install(monkeypatch)


class TestDirectOnly:
    def test_nothing_of_the_application_goes_by_the_relay(self, cast: Cast) -> None:
        secret = b"for your eyes only" * 1000

        async def main(ends: Ends) -> None:
            dialer = ends.pair.dialer
            forwarded_before = forwarded_bytes.count
            stream = dialer.open_stream(unidirectional=True)
            await stream.write(secret)
            dialer.send_datagram(secret[:1000])
            await asyncio.sleep(5.0)
            assert forwarded_bytes.count - forwarded_before < 2000
            ends.switch_both(direct=True)
            received = await ends.pair.accepter.accept_stream()
            assert await received.read(len(secret)) != b""
            assert await ends.pair.accepter.receive_datagram() == secret[:1000]
            ends.switch(dialer, direct=False)
            await asyncio.sleep(0.2)
            forwarded_before = forwarded_bytes.count
            await stream.write(secret)
            await asyncio.sleep(5.0)
            assert forwarded_bytes.count - forwarded_before < 2000

        forwarded_bytes = ForwardedBytes()

        async def whole(at: Scene) -> None:
            forwarded_bytes.watch(at)
            async with await dial_at(at, path_policy=PathPolicy.DIRECT_ONLY) as dialing:
                answering = asyncio.create_task(accept(dialing.invite, network=at.accepter))
                async with await answering as accepter:
                    await dialing._pipe.wait_open()
                    pair = Pair(dialing.invite, dialing._pipe, accepter, 0.0)
                    await main(Ends(at, pair, cast))

        run(whole)

    def test_a_dialer_that_finds_none_says_what_was_tried(self, cast: Cast) -> None:
        async def whole(at: Scene) -> None:
            async with await dial_at(at, path_policy=PathPolicy.DIRECT_ONLY) as dialing:
                answering = asyncio.create_task(accept(dialing.invite, network=at.accepter))
                began = asyncio.get_running_loop().time()
                with pytest.raises(NoDirectPath, match=r"within 30 s \(path: by the relay"):
                    await dialing.pipe()
                assert asyncio.get_running_loop().time() - began < 31.0
                async with await answering as accepter:
                    error = await accepter.wait_closed()
                assert "no direct path" in str(error)

        run(whole)

    def test_so_does_an_accepter(self, cast: Cast) -> None:
        async def whole(at: Scene) -> None:
            async with await dial_at(at, path_policy=PathPolicy.ANY) as dialing:
                with pytest.raises(NoDirectPath):
                    await accept(
                        dialing.invite, path_policy=PathPolicy.DIRECT_ONLY, network=at.accepter
                    )

        run(whole)

    def test_a_pipe_that_loses_its_path_waits_and_then_gives_up(self, cast: Cast) -> None:
        async def whole(at: Scene) -> None:
            async with await dial_at(at, path_policy=PathPolicy.DIRECT_ONLY) as dialing:
                answering = asyncio.create_task(accept(dialing.invite, network=at.accepter))
                async with await answering as accepter:
                    await dialing._pipe.wait_open()
                    ends = Ends(at, Pair(dialing.invite, dialing._pipe, accepter, 0.0), cast)
                    ends.switch_both(direct=True)
                    dialer = await dialing.pipe()
                    ends.switch_both(direct=False)
                    await asyncio.sleep(29.0)
                    assert dialer.is_open
                    ends.switch_both(direct=True)
                    await asyncio.sleep(31.0)
                    assert dialer.is_open
                    ends.switch_both(direct=False)
                    await asyncio.sleep(31.0)
                    assert isinstance(await dialer.wait_closed(), NoDirectPath)

        run(whole)


class ForwardedBytes:
    """What the relay hands on."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, at: Scene) -> None:
        def tamper(
            datagram: bytes, source: Address, path: RelayPath
        ) -> list[tuple[bytes, RelayPath]]:
            self.count += len(datagram)
            return [(datagram, path)]

        at.relay.tamper = tamper
