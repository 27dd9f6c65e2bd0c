"""What the commands make of the ways in which a conversation ends."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from peers.cli import streams as cli_streams
from peers.cli.io import Source
from peers.cli.streams import converse
from peers.errors import CloseCode, PipeClosed, PipeLost
from peers.pipe import Pipe
from tests.lab.virtual_loop import run_virtual
from tests.peers.pipe_pair import Link, joined

Peer = Callable[[Pipe], Awaitable[None]]


class ListSink:
    """Standard output that is a list."""

    written: list[bytes]

    def __init__(self) -> None:
        ListSink.written = []

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def flush(self) -> None:
        """Everything is written already."""


class LateSource(Source):
    """Standard input that ends when it is told to."""

    def __init__(self) -> None:
        self._end = asyncio.Event()

    @property
    def is_terminal(self) -> bool:
        return False

    def end(self) -> None:
        self._end.set()

    async def read(self) -> bytes:
        await self._end.wait()
        return b""


@pytest.fixture(autouse=True)
def _sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_streams, "Sink", ListSink)


async def says_nothing(pipe: Pipe) -> None:
    await (await pipe.accept_stream()).read()


async def forgets_the_end(pipe: Pipe) -> None:
    stream = pipe.open_stream(unidirectional=True)
    await stream.write(b"half")
    await stream.drain_acknowledged()


async def ends(pipe: Pipe) -> None:
    stream = pipe.open_stream(unidirectional=True)
    await stream.write(b"whole")
    stream.write_eof()
    await stream.drain_acknowledged()


async def forgets_the_end_as_the_original(pipe: Pipe) -> None:
    stream = pipe.open_stream()
    await stream.write(b"half")
    assert await stream.read() == b""
    await stream.drain_acknowledged()


def conversation_with(peer: Peer, *, original: bool = False) -> bytes:
    """Accept, with nothing to send, from a peer that does something and closes with code 0."""

    async def play(pipe: Pipe) -> None:
        await peer(pipe)
        await pipe.close(CloseCode.DONE)

    async def run() -> None:
        async with joined() as (dialer, accepter):
            playing = asyncio.create_task(play(dialer))
            try:
                await converse(accepter, None, original=original, is_dialer=False)
            finally:
                await playing

    run_virtual(run())
    return b"".join(ListSink.written)


def test_a_peer_that_ends_its_stream_has_sent_everything() -> None:
    assert conversation_with(ends) == b"whole"


@pytest.mark.parametrize("peer", [says_nothing, forgets_the_end])
def test_a_peer_that_closes_without_an_end_has_not(peer: Peer) -> None:
    with pytest.raises(PipeClosed, match="before it ended its stream; what came may be incomplete"):
        conversation_with(peer)


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_peer_that_falls_silent_is_not_taken_for_one_that_said_goodbye(has_ended: bool) -> None:
    # Even if it has sent everything: of ours it may have received nothing.
    async def run() -> None:
        link = Link()
        source = LateSource()
        async with joined(link) as (dialer, accepter):
            if has_ended:
                dialer.open_stream(unidirectional=True).write_eof()
            talking = asyncio.create_task(
                converse(accepter, source, original=False, is_dialer=False)
            )
            await asyncio.sleep(1.0)
            link.loss = lambda to_server, datagram: True
            source.end()
            with pytest.raises(PipeLost, match=r"the other peer was not heard for [34]\d s"):
                await talking
            await dialer.close()

    run_virtual(run())


def test_what_came_before_is_written() -> None:
    with pytest.raises(PipeClosed):
        conversation_with(forgets_the_end)
    assert ListSink.written == [b"half"]


def test_the_originals_peers_need_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert conversation_with(forgets_the_end_as_the_original, original=True) == b"half"
    assert "may be incomplete" in capsys.readouterr().err
