"""UPnP with gateways that are not what they should be. The good one is in tests/nat."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence

import pytest
from async_upnp_client.const import HttpRequest
from async_upnp_client.exceptions import UpnpCommunicationError
from hypothesis import given
from hypothesis import strategies as st

from peers.nat.gateway import NotMapped, NotThere
from peers.nat.upnp import SSDP, UpnpMapper, is_of_gateway, search
from peers.nat.upnp_http import BoundedRequester
from relay.wire.address import Address
from tests.peers.list_network import ListNetwork, ListSocket

GATEWAY = "127.0.0.1"
LOCATION = "http://127.0.0.1:{port}/root.xml"


class Router(ListNetwork):
    """Every search gets these answers, from that address."""

    def __init__(self, answers: Sequence[bytes], source: str = GATEWAY) -> None:
        super().__init__()
        self.answers = answers
        self.source = Address(source, SSDP.port)
        self.asked: list[Address] = []

    def open_socket(self, family: socket.AddressFamily) -> ListSocket:
        return AnsweredSocket(self)


class AnsweredSocket(ListSocket):
    def __init__(self, router: Router) -> None:
        super().__init__(Address("0.0.0.0", 50_000))
        self._router = router

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        super().send(datagrams, destination)
        self._router.asked.append(destination)
        loop = asyncio.get_running_loop()
        for each in self._router.answers:
            loop.call_soon(self._answer, each)

    def _answer(self, datagram: bytes) -> None:
        if not self.closed:
            self.arrive(datagram, source=self._router.source)


def ssdp(location: str) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
        b"USN: uuid:1::x\r\nLOCATION: " + location.encode() + b"\r\n\r\n"
    )


def get(url: str) -> HttpRequest:
    return HttpRequest("GET", url, {}, None)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def with_server(serve: Serve, use: Callable[[int], Awaitable[None]]) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    done = asyncio.Event()
    server = await asyncio.start_server(handle, GATEWAY, 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server:
        await use(port)
        async with asyncio.timeout(10.0):
            await done.wait()


def answering(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n") -> Serve:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)
        await writer.drain()

    return serve


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2:80/",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "http://127.0.0.1@203.0.113.5/",
        "http://127.0.0.1.example/",
        "http://localhost/",
        "http://[::1]/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://[/",
        "//127.0.0.1/",
        "",
    ],
)
def test_nothing_is_fetched_from_anywhere_else(url: str) -> None:
    assert not is_of_gateway(url, GATEWAY)


@given(st.text(max_size=80))
def test_any_url_is_judged(url: str) -> None:
    is_of_gateway(url, GATEWAY)


def test_only_the_gateway_is_listened_to_and_only_for_its_own_url() -> None:
    async def found(answers: Sequence[bytes], source: str = GATEWAY) -> str | None:
        return await search(Router(answers, source), GATEWAY)

    async def main() -> None:
        good = LOCATION.format(port=5000)
        assert await found([ssdp(good)]) == good
        bad = [b"", b"HTTP/1.1 200 OK", b"\xff" * 99, ssdp("http://127.0.0.2/"), ssdp("")]
        bad += [b"HTTP/1.1 200 OK\r\n" + b"\xff: \xfe\r\n: \r\n\r\n", b"NOTIFY * HTTP/1.1\r\n\r\n"]
        assert await found([*bad, ssdp(good)]) == good
        async with asyncio.timeout(10.0):
            assert await found([ssdp(good)], "127.0.0.2") is None

    asyncio.run(main())


def test_no_answer_to_the_search_is_nobody_there() -> None:
    async def main() -> None:
        router = Router([])
        with pytest.raises(NotThere):
            await UpnpMapper(router, GATEWAY, "127.0.0.3").map(1, 1, 600)
        assert set(router.asked) == {SSDP, Address(GATEWAY, SSDP.port)}

    asyncio.run(main())


@pytest.mark.parametrize(
    "serve",
    [
        answering(b""),
        answering(b"<root/>"),
        answering(b"<?xml version='1.0'?><root xmlns='urn:schemas-upnp-org:device-1-0'></root>"),
        answering(b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;'>]><root>&b;</root>"),
        answering(b"\xff\xfe" * 500),
        answering(b"x" * 2_000_000),
        answering(b"", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2/\r\n\r\n"),
        answering(b"", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        answering(b"", b"nonsense\r\n\r\n"),
        answering(b"", b""),
    ],
    ids=["empty", "bare", "no device", "entities", "noise", "huge", "moved", "500", "bad", "cut"],
)
def test_a_description_that_is_none_is_refused_in_words(serve: Serve) -> None:
    async def use(port: int) -> None:
        mapper = UpnpMapper(Router([ssdp(LOCATION.format(port=port))]), GATEWAY, "127.0.0.3")
        with pytest.raises(NotMapped, match="UPnP"):
            await mapper.map(1, 1, 600)
        assert not await mapper.is_there()

    asyncio.run(with_server(serve, use))


def test_a_body_without_end_and_one_that_never_comes_are_given_up() -> None:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            await writer.drain()

    async def silence(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2.0)

    async def use(port: int) -> None:
        requester = BoundedRequester(GATEWAY, 100_000, 0.5)
        with pytest.raises(UpnpCommunicationError):
            await requester.async_http_request(
                HttpRequest("GET", LOCATION.format(port=port), {}, None)
            )

    for serve in (flood, silence):
        asyncio.run(with_server(serve, use))


def test_another_host_is_refused_before_a_connection_is_made() -> None:
    async def main() -> None:
        requester = BoundedRequester(GATEWAY, 100, 0.5)
        with pytest.raises(UpnpCommunicationError, match="own"):
            await requester.async_http_request(get("http://127.0.0.2/"))

    asyncio.run(main())
