"""The live event stream, as a browser reads it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from relay.admin.stream import Ask, Streams
from relay.core.events import MAX_WATCHERS, Cause, EventKind
from relay.core.registry import RegistryRefusal
from relay.wire.address import Address
from tests.admin.fake_relay import FakeRelay, Running, running, until


@dataclass
class Client:
    """Reads one stream."""

    reader: asyncio.StreamReader
    head: dict[str, str] = field(default_factory=dict)

    async def begin(self) -> int:
        status = int((await self._line()).split()[1])
        while line := await self._line():
            name, _, value = line.partition(": ")
            self.head[name.lower()] = value
        return status

    async def event(self) -> dict[str, str]:
        """The next one that is more than a comment."""
        async with asyncio.timeout(20):
            while True:
                block = (await self.reader.readuntil(b"\n\n")).decode()
                lines = [each.strip("\r") for each in block.split("\n")]
                found = dict(each.partition(": ")[::2] for each in lines if ": " in each)
                found.pop("", None)
                if found:
                    return found

    async def comment(self) -> str:
        async with asyncio.timeout(20):
            while b": " not in (block := await self.reader.readuntil(b"\n\n")):
                pass
            return block.decode()

    async def _line(self) -> str:
        async with asyncio.timeout(20):
            return (await self.reader.readline()).decode().rstrip("\r\n")


@asynccontextmanager
async def follow(listener: Running, query: str = "", *headers: str) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    lines = [f"GET /v1/events{query} HTTP/1.1", "Host: localhost", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    client = Client(reader)
    try:
        assert await client.begin() == 200
        assert (await client.event())["retry"] == "2000"
        yield client
    finally:
        writer.close()


def test_what_happens_is_told_as_it_happens() -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener, follow(listener) as client:
            assert client.head["content-type"].startswith("text/event-stream")
            name = relay.register("198.51.100.7", 5000)
            created = await client.event()
            assert (created["event"], created["id"]) == ("created", "1")
            data = json.loads(created["data"])
            assert data.pop("at") > 0
            assert data == {
                "kind": "created",
                "registration": name,
                "address": "198.51.100.7:5000",
            }
            relay.register("198.51.100.7", 6000)
            moved = await client.event()
            assert json.loads(moved["data"])["before"] == "198.51.100.7:5000"
            assert (await client.event())["event"] == "renewed"
            assert relay.watch is not None
            relay.watch.refused(RegistryRefusal.FULL, Address("203.0.113.1", 9), "bob")
            refused = json.loads((await client.event())["data"])
            assert (refused["reason"], refused["subject"]) == ("registrations_full", "bob")
            relay.watch.idle([0])
            assert (await client.event())["event"] == "idle"
            relay.end(name)
            closed = json.loads((await client.event())["data"])
            assert closed["reason"] == Cause.OPERATOR

    asyncio.run(main())


def test_only_what_was_asked_for() -> None:
    relay = FakeRelay()

    async def main() -> None:
        query = "?kind=closed&kind=sample"
        async with running(relay) as listener, follow(listener, query) as client:
            name = relay.register()
            listener.sight.tick()
            relay.now += 1
            step = listener.sight.tick()
            assert step is not None
            listener.made.streams.sample(step)
            sample = await client.event()
            assert sample["event"] == "sample"
            assert json.loads(sample["data"])["registrations"] == 1
            relay.end(name)
            assert (await client.event())["event"] == "closed"

    asyncio.run(main())


def test_who_comes_back_goes_on_where_he_was() -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener:
            for key in range(1, 6):
                relay.register(key=key)
            async with follow(listener, "", "Last-Event-ID: 3") as client:
                assert [(await client.event())["id"] for _ in range(2)] == ["4", "5"]
            async with follow(listener, "?after=4") as client:
                assert (await client.event())["id"] == "5"
            async with follow(listener, "?backlog=2") as client:
                assert [(await client.event())["id"] for _ in range(2)] == ["4", "5"]

    asyncio.run(main())


def test_a_slow_client_is_told_how_many_it_has_lost() -> None:
    async def main() -> None:
        relay = FakeRelay()
        sight = relay.make_sight()
        stream = Streams(sight).open(Ask(frozenset(EventKind)))
        for key in range(1, 301):
            relay.register(port=key, key=key)
        sent: list[str] = []

        async def send(message: object) -> None:
            sent.append(str(message))

        async def receive() -> dict[str, object]:
            await asyncio.Event().wait()
            return {}

        stream.end()
        await stream({"type": "http", "method": "GET"}, receive, send)
        text = "".join(sent)
        assert text.count("event: created") == 256
        assert 'event: lost\\ndata: {"count": 44}' in text

    asyncio.run(main())


def test_silence_is_broken_by_comments() -> None:
    async def main() -> None:
        relay = FakeRelay()
        streams = Streams(relay.make_sight(), keepalive_s=0.02)
        stream = streams.open(Ask(frozenset(EventKind), duration_s=0.2))
        sent: list[str] = []

        async def send(message: object) -> None:
            sent.append(str(message))

        async def receive() -> dict[str, object]:
            await asyncio.Event().wait()
            return {}

        await stream({"type": "http", "method": "GET"}, receive, send)
        assert "".join(sent).count(": still here") >= 2

    asyncio.run(main())


def test_a_stream_may_have_an_end() -> None:
    async def main() -> None:
        async with running() as listener:
            answer = await listener.ask("/v1/events?duration=0")
            assert (answer.status, answer.text) == (200, "retry: 2000\n\n")

    asyncio.run(main())


def test_when_the_relay_stops_that_is_said() -> None:
    async def main() -> None:
        async with running() as listener, follow(listener) as client:
            listener.made.streams.close()
            assert (await client.event())["event"] == "end"
            assert listener.made.streams.open(Ask(frozenset())) is not None

    asyncio.run(main())


def test_a_client_that_goes_makes_room() -> None:
    async def main() -> None:
        async with running() as listener:
            for _ in range(MAX_WATCHERS + 5):
                async with follow(listener):
                    assert listener.sight.hub.watchers >= 1
            await until(lambda: not listener.sight.hub.watchers)

    asyncio.run(main())


@pytest.mark.parametrize("more", [0, 1])
def test_the_last_client_is_let_in_and_the_next_is_told_to_come_again(more: int) -> None:
    async def main() -> None:
        async with running() as listener:
            for _ in range(MAX_WATCHERS - 1 + more):
                listener.sight.hub.watch([], lambda: None)
            answer = await listener.ask("/v1/events?duration=0")
            assert answer.status == (503 if more else 200)
            assert ("retry-after" in answer.headers) == bool(more)

    asyncio.run(main())
