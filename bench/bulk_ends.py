"""The processes of `bench.bulk`: each sends or receives, and says in one line of JSON what it saw.

`stock-*` are aioquic's own asyncio server and client as they come, one straight to the other;
`dialer` and `accepter` are ours, and the relay stands between them.
"""

import asyncio
import json
import os
import resource
import ssl
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived

from peers import Accepter, Identity, Invite, InviteKey, PathPolicy, Pipe, RelayTrust, dial

CHUNK = 1 << 20
_ALPN = ["bench"]


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _peak_mb() -> float:
    # Of this process alone: getrusage would begin with the peak of the one that started it.
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1000


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _StockReceiver(QuicConnectionProtocol):
    """Counts one stream, and answers when it ends."""

    finished: "asyncio.Future[None]"
    count = 0
    began = 0.0

    def quic_event_received(self, event: QuicEvent) -> None:
        if not isinstance(event, StreamDataReceived):
            return
        self.began = self.began or time.perf_counter()
        self.count += len(event.data)
        if event.end_stream:
            _say(bytes=self.count, seconds=time.perf_counter() - self.began)
            self._quic.send_stream_data(event.stream_id, b"ok", end_stream=True)
            self.transmit()
            self.finished.set_result(None)


async def stock_server(address: tuple[str, int]) -> None:
    """Receive one stream."""
    identity = Identity.generate()
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=_ALPN,
        certificate=identity.certificate,
        private_key=identity.private_key,
    )
    _StockReceiver.finished = asyncio.get_running_loop().create_future()
    server = await serve(*address, configuration=configuration, create_protocol=_StockReceiver)
    _say(ready=True)
    await _StockReceiver.finished
    await asyncio.sleep(0.3)
    server.close()


async def stock_client(address: tuple[str, int], size: int) -> None:
    """Send one stream."""
    configuration = QuicConfiguration(alpn_protocols=_ALPN, verify_mode=ssl.CERT_NONE)
    async with connect(*address, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        writer.write(bytes(size))
        writer.write_eof()
        await reader.read()


async def dialer(relay: str, size: int, pipes: int) -> None:
    """Send `size` bytes on each of so many pipes; all begin when all are open."""
    data = os.urandom(CHUNK)
    dialings = [
        await dial(relay, auth=InviteKey(), trust=RelayTrust(), path_policy=PathPolicy.RELAY_ONLY)
        for _ in range(pipes)
    ]
    for dialing in dialings:
        print(dialing.invite.encode(), end="", flush=True)
    opened = [await dialing.pipe() for dialing in dialings]

    async def send(pipe: Pipe) -> None:
        stream = pipe.open_stream(unidirectional=True)
        for start in range(0, size, CHUNK):
            await stream.write(data[: size - start])
        stream.write_eof()
        await stream.drain_acknowledged()

    await asyncio.gather(*map(send, opened))
    print(json.dumps({"peak_mb": _peak_mb(), "cpu_s": _cpu_s()}), file=sys.stderr, flush=True)
    for dialing in dialings:
        await dialing.close()


async def accepter(relay: str, size: int, pipes: int) -> None:
    """Receive on as many pipes; one line for each with how long `size` bytes took."""
    async with await Accepter.connect(relay, trust=RelayTrust()) as door:
        invites = [Invite.decode(sys.stdin.readline()) for _ in range(pipes)]
        opened = await asyncio.gather(*(door.accept(invite) for invite in invites))

        async def receive(pipe: Pipe) -> None:
            stream = await pipe.accept_stream()
            began = time.perf_counter()
            count = 0
            while data := await stream.read(CHUNK):
                count += len(data)
            _say(bytes=count, seconds=time.perf_counter() - began)

        await asyncio.gather(*map(receive, opened))
        _say(peak_mb=_peak_mb(), cpu_s=_cpu_s())


def main() -> None:
    """Run the role that the command line names."""
    role, *arguments = sys.argv[1:]
    if role.startswith("stock"):
        host, port, size = arguments
        address = (host, int(port))
        asyncio.run(
            stock_server(address) if role == "stock-server" else stock_client(address, int(size))
        )
    else:
        relay, size, pipes = arguments
        asyncio.run((dialer if role == "dialer" else accepter)(relay, int(size), int(pipes)))


if __name__ == "__main__":
    main()
