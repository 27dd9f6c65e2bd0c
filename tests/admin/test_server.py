"""The admin listener's TCP: bounded, and gone when it is to be."""

import asyncio
import socket

import pytest
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext

from relay.admin import server as admin_server
from relay.admin.server import AdminListenError, AdminServer
from relay.wire.address import Address
from tests.admin.fake_relay import TOKEN, bearer, running, until

LOOPBACK = Address("127.0.0.1", 0)


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server ends the connection, however it does."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("name", ["_read_data", "protocol_send", "run"])
def test_what_we_rely_on_in_hypercorn_is_there(name: str) -> None:
    assert hasattr(TCPServer, name)
    assert hasattr(WorkerContext(None), "terminated")


def test_the_last_connection_is_taken_and_the_next_is_not() -> None:
    async def main() -> None:
        async with running() as listener:
            server = AdminServer(listener.made.app, max_connections=2)
            await server.start([LOOPBACK])
            port = server.addresses[0].port
            try:
                opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
                await asyncio.sleep(0.05)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert await all_of(reader) == b""
                assert server.turned_away == 1
                first_reader, first_writer = opened[0]
                first_writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"200" in await first_reader.readline()
                for _, each in (*opened, (reader, writer)):
                    each.close()
            finally:
                await server.stop()

    asyncio.run(main())


def test_connections_that_end_make_room_at_once() -> None:
    async def main() -> None:
        async with running() as listener:
            for _ in range(admin_server.MAX_CONNECTIONS + 20):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # kept alive
                assert b"200" in await reader.readline()
                writer.close()
            assert listener.server.turned_away == 0

    asyncio.run(main())


def test_who_asks_for_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "IDLE_S", 0.1)

    async def main() -> None:
        async with running() as listener:
            for beginning in (b"", b"GET /v1/overview HT"):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(beginning)
                await all_of(reader)
                writer.close()

    asyncio.run(main())


def test_who_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "SEND_PATIENCE_S", 0.2)

    async def main() -> None:
        async with running() as listener:
            slow = socket.create_connection(("127.0.0.1", listener.port))
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(20):
                await until(lambda: listener.sight.hub.watchers == 1)
                while listener.sight.hub.watchers:
                    for key in range(200):
                        listener.relay.register(key=1 + key % 50)
                    await asyncio.sleep(0.01)
            assert listener.sight.hub.lost > 0
            slow.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense",
        b"DELETE /v1/registrations/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nabc",
        b"PUT /v1/revoked/%00 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
        + TOKEN.encode()
        + b"\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/registrations/..%2f..%2f HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_nonsense_is_answered_or_cut_and_hurts_nobody(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with running() as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(request_bytes)
            writer.write_eof()
            answer = await all_of(reader)
            writer.close()
            assert b" 200 " not in answer.partition(b"\r\n")[0]
            assert b" 500 " not in answer.partition(b"\r\n")[0]
            assert (await listener.ask("/health")).status == 200

    asyncio.run(main())
    assert not [record for record in caplog.records if record.exc_info]


def test_an_address_in_use_is_said_in_one_line() -> None:
    async def main() -> None:
        async with running() as listener:
            other = AdminServer(listener.made.app)
            wanted = Address("127.0.0.1", listener.port)
            with pytest.raises(AdminListenError, match=f"cannot listen on {wanted}: "):
                await other.start([LOOPBACK, wanted])
            assert other.addresses == []

    asyncio.run(main())


def test_a_successor_waits_until_the_port_is_free() -> None:
    async def main() -> None:
        async with running() as listener:
            wanted = Address("127.0.0.1", listener.port)
            other = AdminServer(listener.made.app)
            starting = asyncio.create_task(other.start([wanted], patience_s=20.0))
            await asyncio.sleep(0.15)
            assert not starting.done()
            await listener.server.stop()
            await starting
            assert other.addresses == [wanted]
            await other.stop()

    asyncio.run(main())


def test_it_stops_in_time_whatever_clients_do() -> None:
    async def main() -> None:
        async with running() as listener:
            writers = []
            for path in ("/v1/events", "/health", ""):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                if path:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    await reader.readline()
                writers.append(writer)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await listener.server.stop()
            assert loop.time() - began < 5.0
            for writer in writers:
                writer.close()

    asyncio.run(main())


def test_writes_work_over_a_connection_that_is_kept() -> None:
    async def main() -> None:
        async with running() as listener:
            names = [listener.relay.register(key=key) for key in (1, 2)]
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            for name in names:
                head = f"DELETE /v1/registrations/{name} HTTP/1.1\r\nHost: localhost\r\n"
                writer.write(f"{head}{bearer()[0]}: {bearer()[1]}\r\n\r\n".encode())
                assert b" 204 " in await reader.readline()
                while await reader.readline() != b"\r\n":
                    pass
            writer.close()
            assert len(listener.relay.registry) == 0

    asyncio.run(main())
