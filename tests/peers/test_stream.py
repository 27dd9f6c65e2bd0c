"""Streams: order, back-pressure both ways, ends, resets, cancelling. Virtual time."""

import asyncio
import hashlib
import random

import pytest

from peers.errors import PipeClosed, StreamReset, UsageError
from peers.quic.parts import TransportSettings
from peers.stream import HIGH_WATERMARK, PIECE, Stream
from tests.lab.virtual_loop import run_virtual

from .pipe_pair import Link, joined
from .quic_pair import random_loss

SMALL = TransportSettings(stream_window=40_000, connection_window=100_000, max_streams=4)


async def read_to_end(stream: Stream) -> bytes:
    return b"".join([chunk async for chunk in stream])


def test_bytes_arrive_whole_and_in_order_both_ways_under_loss() -> None:
    data = random.Random(1).randbytes(3_000_000)

    async def main() -> None:
        async with joined(Link(loss=random_loss(0.03, 1))) as (dialer, accepter):
            here = dialer.open_stream()

            async def send() -> None:
                await here.write(data)
                here.write_eof()
                await here.drain_acknowledged()

            async def echo() -> None:
                there = await accepter.accept_stream()
                async for chunk in there:
                    await there.write(chunk)
                there.write_eof()

            sending = asyncio.ensure_future(send())
            echoing = asyncio.ensure_future(echo())
            back = await read_to_end(here)
            await asyncio.gather(sending, echoing)
            assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()

    run_virtual(main())


def test_read_gives_what_there_is_up_to_the_limit() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            here = dialer.open_stream(unidirectional=True)
            await here.write(bytearray(b"abc"))
            await here.write(memoryview(b"defgh"))
            there = await accepter.accept_stream()
            await asyncio.sleep(0.5)
            assert await there.read(2) == b"ab"
            assert await there.read(4) == b"cdef"
            assert await there.read() == b"gh"
            here.write_eof()
            here.write_eof()
            assert await there.read() == b""
            assert await there.read() == b""
            with pytest.raises(ValueError, match="limit"):
                await there.read(0)

    run_virtual(main())


def test_a_writer_waits_when_the_reader_does_not_read() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            here = dialer.open_stream()
            written = 0

            async def write_for_ever() -> None:
                nonlocal written
                while True:
                    await here.write(bytes(50_000))
                    written += 50_000

            writing = asyncio.ensure_future(write_for_ever())
            there = await accepter.accept_stream()
            await asyncio.sleep(60.0)
            window = TransportSettings().stream_window
            assert window <= written <= window + HIGH_WATERMARK + PIECE
            stuck_at, read = written, 0
            while read < 4_000_000:
                read += len(await there.read())
            await asyncio.sleep(5.0)
            assert written >= stuck_at + 2_000_000
            writing.cancel()

    run_virtual(main())


def test_a_large_write_is_taken_piece_by_piece() -> None:
    async def main() -> None:
        async with joined(settings=SMALL) as (dialer, accepter):
            here = dialer.open_stream()
            writing = asyncio.ensure_future(here.write(bytes(10_000_000)))
            await asyncio.sleep(5.0)
            assert not writing.done()
            assert dialer.statistics().bytes_unacknowledged <= HIGH_WATERMARK + PIECE
            there = await accepter.accept_stream()
            assert accepter.statistics().bytes_unread == there.unread == SMALL.stream_window
            size = 0
            while size < 10_000_000:
                size += len(await there.read())
            await writing

    run_virtual(main())


def test_cancelled_reads_and_writes_lose_nothing() -> None:
    async def main() -> None:
        async with joined(settings=SMALL) as (dialer, accepter):
            here = dialer.open_stream()
            await here.write(b"begin ")
            there = await accepter.accept_stream()
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await here.read()
            await here.write(bytes(HIGH_WATERMARK))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await here.write(b"not this")
            await there.write(b"answer")
            assert await here.read() == b"answer"

            reading = asyncio.ensure_future(read_to_end(there))
            await here.write(b" end")
            here.write_eof()
            received = await reading
            assert received == b"begin " + bytes(HIGH_WATERMARK) + b" end"

    run_virtual(main())


def test_unidirectional_streams_go_one_way() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            here = dialer.open_stream(unidirectional=True)
            assert (here.is_readable, here.is_writable) == (False, True)
            await here.write(b"x")
            there = await accepter.accept_stream()
            assert (there.is_readable, there.is_writable) == (True, False)
            with pytest.raises(UsageError, match="only be written"):
                await here.read()
            with pytest.raises(UsageError, match="only be read"):
                await there.write(b"y")
            with pytest.raises(UsageError, match="only be read"):
                there.write_eof()
            here.stop()
            there.reset()
            assert await there.read() == b"x"

    run_virtual(main())


def test_nothing_is_written_after_the_end() -> None:
    async def main() -> None:
        async with joined() as (dialer, _):
            here = dialer.open_stream()
            here.write_eof()
            with pytest.raises(UsageError, match="after its end"):
                await here.write(b"more")

    run_virtual(main())


def test_reset_reaches_the_reader_at_once() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            here = dialer.open_stream()
            await here.write(bytes(100_000))
            there = await accepter.accept_stream()
            await there.read(10)
            here.reset(42)
            here.reset(43)
            with pytest.raises(StreamReset) as local:
                await here.write(b"more")
            assert local.value.code == 42
            with pytest.raises(StreamReset):
                await here.drain_acknowledged()
            with pytest.raises(StreamReset, match="code 42") as remote:
                await read_to_end(there)
            assert remote.value.code == 42
            # The other direction still works.
            await there.write(b"pity")
            assert await here.read() == b"pity"

    run_virtual(main())


def test_stop_reaches_a_writer_that_waits() -> None:
    async def main() -> None:
        async with joined(settings=SMALL) as (dialer, accepter):
            here = dialer.open_stream()
            writing = asyncio.ensure_future(here.write(bytes(5_000_000)))
            there = await accepter.accept_stream()
            await asyncio.sleep(1.0)
            there.stop(9)
            there.stop(10)
            with pytest.raises(StreamReset, match="wants no more") as stopped:
                await writing
            assert stopped.value.code == 9
            with pytest.raises(StreamReset, match="given up here"):
                await there.read()

    run_virtual(main())


def test_streams_that_are_over_make_room_for_others() -> None:
    # Of both kinds, ended in every way; each takes a part of the connection's window, too.
    async def main() -> None:
        async with joined(settings=SMALL) as (dialer, accepter):
            for n in range(60):
                here = dialer.open_stream(unidirectional=n % 2 == 0)
                await here.write(bytes(30_000))
                async with asyncio.timeout(5.0):
                    there = await accepter.accept_stream()
                    if n % 3 == 0:
                        here.write_eof()
                        assert len(await read_to_end(there)) == 30_000
                    elif n % 3 == 1:
                        await there.read(1)
                        here.reset()
                        with pytest.raises(StreamReset):
                            await read_to_end(there)
                    else:
                        await there.read(1)
                        there.stop()
                    if there.is_writable:
                        there.write_eof()
                        await there.drain_acknowledged()
            await asyncio.sleep(1.0)
            assert accepter.statistics().streams_open <= 1
            assert dialer.statistics().streams_open <= 1

    run_virtual(main())


def test_many_streams_at_once_are_bounded_and_all_get_through() -> None:
    async def main() -> None:
        async with joined(settings=SMALL) as (dialer, accepter):

            async def send(n: int) -> None:
                stream = dialer.open_stream(unidirectional=True)
                await stream.write(bytes([n]) * 20_000)
                stream.write_eof()
                await stream.drain_acknowledged()

            sending = [asyncio.ensure_future(send(n)) for n in range(20)]
            await asyncio.sleep(5.0)
            assert accepter.statistics().streams_open == SMALL.max_streams
            seen = set()
            for _ in range(20):
                stream = await accepter.accept_stream()
                data = await read_to_end(stream)
                assert len(data) == 20_000
                assert len(set(data)) == 1
                seen.add(data[0])
            assert seen == set(range(20))
            await asyncio.gather(*sending)

    run_virtual(main())


def test_streams_that_nobody_accepts_are_few_even_if_they_end_at_once() -> None:
    async def main() -> None:
        async with joined(settings=SMALL) as (dialer, accepter):
            for n in range(50):
                stream = dialer.open_stream(unidirectional=True)
                if n % 2:
                    stream.reset()
                else:
                    stream.write_eof()
                await asyncio.sleep(0.1)
            assert accepter.statistics().streams_open == SMALL.max_streams
            for n in range(50):
                async with asyncio.timeout(1.0):
                    stream = await accepter.accept_stream()
                if n % 2:
                    with pytest.raises(StreamReset):
                        await stream.read()
                else:
                    assert await stream.read() == b""
            await asyncio.sleep(1.0)
            assert accepter.statistics().streams_open == 0

    run_virtual(main())


@pytest.mark.parametrize("code", [-1, 1 << 62])
def test_error_codes_have_a_range(code: int) -> None:
    async def main() -> None:
        async with joined() as (dialer, _):
            stream = dialer.open_stream()
            with pytest.raises(UsageError, match="from 0 to"):
                stream.reset(code)
            with pytest.raises(UsageError, match="from 0 to"):
                stream.stop(code)
            with pytest.raises(UsageError, match="from 0 to"):
                await dialer.close(code)
            assert dialer.is_open

    run_virtual(main())


def test_what_has_arrived_can_be_read_after_the_pipe_was_closed() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            whole = dialer.open_stream(unidirectional=True)
            await whole.write(b"all of it")
            whole.write_eof()
            part = dialer.open_stream(unidirectional=True)
            await part.write(b"a part")
            await whole.drain_acknowledged()
            await part.drain_acknowledged()
            await dialer.close(0, "done")
            await accepter.wait_closed()
            streams = [await accepter.accept_stream(), await accepter.accept_stream()]
            assert await streams[0].read() == b"all of it"
            assert await streams[0].read() == b""
            assert await streams[1].read() == b"a part"
            with pytest.raises(PipeClosed) as closed:
                await streams[1].read()
            assert closed.value.code == 0
            with pytest.raises(PipeClosed):
                await accepter.accept_stream()
            with pytest.raises(PipeClosed):
                await part.write(b"x")
            with pytest.raises(PipeClosed):
                part.write_eof()
            streams[1].stop()
            part.reset()

    run_virtual(main())


def test_last_data_is_known_to_have_arrived_when_the_other_end_closes_at_once() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            here = dialer.open_stream()
            await here.write(b"question")
            here.write_eof()
            draining = asyncio.ensure_future(here.drain_acknowledged())
            there = await accepter.accept_stream()
            await read_to_end(there)
            await accepter.close()
            await draining

    run_virtual(main())
