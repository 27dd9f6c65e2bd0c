"""Standard streams: whole, bounded, and out of the event loop's way."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.cli import io as cli_io
from peers.cli.io import (
    CHUNK,
    READ_AHEAD,
    WRITE_BEHIND,
    Sink,
    Source,
    in_daemon_thread,
    noticing_closed_output,
)
from peers.errors import FileUnusable

LIMIT_S = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe of the system; a test may have closed either."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


async def read_all(source: Source) -> bytes:
    data = bytearray()
    while chunk := await source.read():
        assert len(chunk) <= CHUNK
        data += chunk
    assert await source.read() == b"", "the end stays the end"
    return bytes(data)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    content = os.urandom(10 * CHUNK + 7)
    (tmp_path / "file").write_bytes(content)

    async def run() -> bytes:
        with (tmp_path / "file").open("rb") as file:
            return await asyncio.wait_for(read_all(Source(file.fileno())), LIMIT_S)

    assert asyncio.run(run()) == content


def test_a_pipe_is_read_as_it_comes(pipe: tuple[int, int]) -> None:
    reader, writer = pipe

    async def run() -> None:
        source = Source(reader)
        for each in (b"one", b"two"):
            os.write(writer, each)
            assert await asyncio.wait_for(source.read(), LIMIT_S) == each
        os.close(writer)
        assert await asyncio.wait_for(read_all(source), LIMIT_S) == b""

    asyncio.run(run())


def test_it_reads_no_further_ahead_than_it_says(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100 * CHUNK))

    async def run() -> None:
        with (tmp_path / "file").open("rb") as file:
            source = Source(file.fileno())
            await source.read()
            await asyncio.sleep(0.2)
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) <= (READ_AHEAD + 1) * CHUNK
            await asyncio.wait_for(read_all(source), LIMIT_S)

    asyncio.run(run())


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)

    async def run() -> None:
        source = Source(descriptor)
        with pytest.raises(FileUnusable, match="standard input: Is a directory"):
            await asyncio.wait_for(source.read(), LIMIT_S)
        assert await source.read() == b""

    try:
        asyncio.run(run())
    finally:
        os.close(descriptor)


def test_a_silent_input_does_not_hold_the_program_up(pipe: tuple[int, int]) -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Source(pipe[0]).read(), 0.05)

    asyncio.run(run())
    # What comes after the loop has ended wakes the thread, which ends by itself.
    os.write(pipe[1], b"late")
    for thread in threading.enumerate():
        if thread.name == "standard input":
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_everything_is_written_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    content = os.urandom(40 * CHUNK + 1)
    received = bytearray()

    def drain() -> None:
        while data := os.read(reader, CHUNK):
            received.extend(data)

    thread = threading.Thread(target=drain)
    thread.start()

    async def run() -> None:
        sink = Sink(writer)
        for start in range(0, len(content), CHUNK):
            await sink.write(content[start : start + CHUNK])
        await sink.write(b"")
        await sink.flush()
        os.close(writer)

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    thread.join(LIMIT_S)
    assert received == content


def test_a_slow_reader_holds_the_writer_back(pipe: tuple[int, int]) -> None:
    written: list[int] = []

    async def write_for_ever() -> None:
        sink = Sink(pipe[1])
        while True:
            await sink.write(bytes(CHUNK))
            written.append(CHUNK)

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(write_for_ever(), 0.3))
    assert len(written) <= WRITE_BEHIND + 2


def test_nobody_reads_any_more(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)

    async def run() -> None:
        sink = Sink(writer)
        await sink.write(b"x")
        with pytest.raises(BrokenPipeError):
            await sink.flush()
        for _ in range(3 * WRITE_BEHIND):
            with pytest.raises(BrokenPipeError):
                await sink.write(b"x")

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_a_full_disk_is_named() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)

    async def run() -> None:
        sink = Sink(descriptor)
        await sink.write(b"x")
        with pytest.raises(FileUnusable, match="standard output: No space left"):
            await sink.flush()

    try:
        asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    finally:
        os.close(descriptor)


def test_a_reader_that_goes_away_is_noticed_once(pipe: tuple[int, int]) -> None:
    calls: list[str] = []

    async def run(descriptor: int) -> None:
        with noticing_closed_output(lambda: calls.append("closed"), descriptor):
            await asyncio.sleep(0.05)
            assert not calls
            os.close(pipe[0])
            await asyncio.sleep(0.1)

    asyncio.run(run(pipe[1]))
    assert calls == ["closed"]


@pytest.mark.parametrize("name", ["file", "/dev/null", "."])
def test_what_is_no_pipe_is_not_watched(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / name, os.O_RDONLY)

    def fail() -> None:
        raise AssertionError

    async def run() -> None:
        with noticing_closed_output(fail, descriptor):
            await asyncio.sleep(0)

    try:
        asyncio.run(run())
    finally:
        os.close(descriptor)


def test_in_a_daemon_thread() -> None:
    done: list[str] = []

    def fail() -> None:
        raise FileUnusable("no")

    async def run() -> None:
        await in_daemon_thread(lambda: done.append(threading.current_thread().name))
        with pytest.raises(FileUnusable):
            await in_daemon_thread(fail)

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    assert done == ["in_daemon_thread"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_some_messages_are_for_a_terminal_only(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    cli_io.say_on_terminal("connected")
    assert capsys.readouterr().err == ("quicpipe: connected\n" if is_terminal else "")


def test_messages_have_one_line_and_survive_a_closed_stream(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cli_io.say("what happens")
    assert capsys.readouterr().err == "quicpipe: what happens\n"
    closed = (tmp_path / "closed").open("w")
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    cli_io.say("into the void")
    cli_io.say_on_terminal("into the void")
