"""What the two commands do with an open pipe: standard streams in, standard streams out."""

import asyncio
from dataclasses import dataclass

from ..errors import CloseCode, PeersError, PipeClosed, PipeLost, StreamReset
from ..pipe import Pipe
from ..stream import Stream
from .io import Sink, Source, say, say_on_terminal


async def converse(
    pipe: Pipe,
    source: Source | None,
    *,
    original: bool,
    is_dialer: bool,
    sink: Sink | None = None,
) -> None:
    """Send `source` to the peer and write what it sends, until both have ended.

    Ours is one unidirectional stream each way (docs/protocol.md §6.3); the original's is one
    bidirectional stream that the dialer opens (§7).

    :param source: what to send; None: nothing, the end at once.
    :param sink: where what comes goes; None: standard output.
    :raises PeersError: if not everything went through, both ways.
    """
    conversation = _Conversation(pipe, source, sink or Sink(), original)
    if original:
        stream = pipe.open_stream() if is_dialer else await pipe.accept_stream()
        sending = asyncio.create_task(conversation.send(stream))
        receiving = asyncio.create_task(conversation.receive(stream))
    else:
        sending = asyncio.create_task(conversation.send_on_own())
        receiving = asyncio.create_task(conversation.receive_theirs())
    watching = asyncio.create_task(conversation.watch(sending))
    try:
        await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_EXCEPTION)
    finally:
        tasks = [sending, receiving, watching]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    conversation.judge(results)


@dataclass(slots=True)
class _Conversation:
    pipe: Pipe
    source: Source | None
    sink: Sink
    original: bool
    end_sent: bool = False
    end_received: bool = False
    problem: StreamReset | None = None
    """What one direction suffered; the other one went on."""
    ended: PeersError | None = None
    """Why the pipe ended, if it did before we closed it."""

    async def send_on_own(self) -> None:
        """Everything to the peer, on a stream of our own."""
        await self.send(self.pipe.open_stream(unidirectional=True))

    async def receive_theirs(self) -> None:
        """Everything from the peer, on the stream that it opens."""
        await self.receive(await self.pipe.accept_stream())

    async def send(self, stream: Stream) -> None:
        """Everything from the source, and the end, until the peer has acknowledged it."""
        try:
            while self.source is not None and (data := await self.source.read()):
                await stream.write(data)
            stream.write_eof()
            self.end_sent = True
            await stream.drain_acknowledged()
        except StreamReset as reset:
            self.problem = StreamReset("the other side takes no more of what we send", reset.code)

    async def receive(self, stream: Stream) -> None:
        """Everything to the sink, until it is written."""
        try:
            while data := await stream.read():
                await self.sink.write(data)
            self.end_received = True
            await self.sink.flush()
            self.end_what_nobody_types()
        except StreamReset as reset:
            self.problem = StreamReset("the other side could not send everything", reset.code)
        except BrokenPipeError:
            self.problem = StreamReset("standard output was closed before everything was written")
            stream.stop(CloseCode.FAILED)

    def end_what_nobody_types(self) -> None:
        """End our side after theirs, if it is a terminal and what came went into a file.

        Who runs `accept > photo.jpg` has nothing to type, and does not know that we wait for it.
        """
        if self.source is None or self.end_sent or not self.source.is_terminal:
            return
        if self.sink.is_terminal:
            say_on_terminal("the other side has ended; Ctrl-D on a line of its own ends this side")
        else:
            say_on_terminal("received everything")
            self.source.end()

    async def watch(self, sending: asyncio.Task[None]) -> None:
        """See the pipe end while the source is silent: a terminal may be so for hours.

        What has arrived is still written.
        """
        self.ended = await self.pipe.wait_closed()
        sending.cancel()

    def judge(self, results: list[BaseException | None]) -> None:
        """Raise what went wrong, the cause before its consequences."""
        if self.problem is not None:
            raise self.problem
        errors = [each for each in results if isinstance(each, Exception)]
        if self.ended is not None:
            errors.append(self.ended)
        for error in errors:
            if not _is_goodbye(error):
                raise error
        # A peer that has said goodbye has all of ours. That may have overtaken its acknowledgement
        # of our last packets. That we have all of its own, only its FIN says.
        if errors and not self.end_received:
            self._miss_the_end()
        if errors and not self.end_sent:
            raise errors[0]

    def _miss_the_end(self) -> None:
        if not self.original:
            raise PipeClosed(f"the other peer closed the pipe {_UNENDED}")
        # Programs on the original's pipe need not end their stream: closing is all they have.
        say(f"the other peer closed the pipe {_UNENDED}")


_UNENDED = "before it ended its stream; what came may be incomplete"


def _is_goodbye(error: Exception) -> bool:
    # A lost pipe has no code of the other peer's: 0 there is not its word that all is well.
    is_lost = isinstance(error, PipeLost)
    return isinstance(error, PipeClosed) and not is_lost and error.code == CloseCode.DONE
