"""The routes of slots, called as an ASGI server would."""

import asyncio
import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from relay.app import create_app
from relay.core.limits import RateLimits
from relay.core.path import Path
from relay.core.slots import SlotLimits
from relay.requests import CONNECTION_EXTENSION
from relay.slots_app import SlotsApp
from relay.wire.registration import MAX_BODY
from relay.wire.slots import (
    CLAIM_PATH,
    END_PATH,
    OPEN_PATH,
    RECEIVE_PATH,
    SEND_PATH,
    ClaimRequest,
    End,
    EndRequest,
    OpenAnswer,
    OpenRequest,
    Received,
    ReceiveRequest,
    SendRequest,
)
from tests.relay.http3_client import Service, path_of

A, B, C = "a" * 32, "b" * 32, "c" * 32
PATHS = (OPEN_PATH, CLAIM_PATH, SEND_PATH, RECEIVE_PATH, END_PATH)


@dataclass
class Connection:
    id: int = 7
    validated_path: Path | None = field(default_factory=lambda: path_of(1000))


class Relay:
    """The application with its slots, and a clock that is set by hand."""

    def __init__(
        self, limits: SlotLimits | None = None, rate_limits: RateLimits | None = None
    ) -> None:
        self.now = 0.0
        self.slots = SlotsApp(
            limits,
            rate_limits=rate_limits or RateLimits(per_minute=1e6, burst=10**6),
            clock=lambda: self.now,
            below=lambda count: count - 1,
        )
        self._app = create_app(Service(), more=self.slots.routes)

    def counted(self) -> dict[str, int]:
        return {name: count for name, count in self.slots.counters().items() if count}

    async def ask(
        self, path: str, body: bytes, connection: Connection | None = None, method: str = "POST"
    ) -> tuple[int, dict[str, str], bytes]:
        sent: list[Message] = []
        scope: Scope = {
            "type": "http",
            "http_version": "3",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": ("192.0.2.1", 1),
            "server": None,
            "extensions": {CONNECTION_EXTENSION: connection or Connection()},
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, sent[1].get("body", b"")

    async def open(self, token: str = A) -> int:
        status, _, body = await self.ask(OPEN_PATH, OpenRequest(token).encode())
        assert status == 200
        return OpenAnswer.decode(body).slot

    async def receive(self, token: str, number: int, wait: int = 0) -> Received:
        status, _, body = await self.ask(RECEIVE_PATH, ReceiveRequest(token, number, wait).encode())
        assert status == 200
        return Received.decode(body)

    async def status(self, path: str, body: bytes) -> int:
        return (await self.ask(path, body))[0]

    async def refused(self, path: str, body: bytes) -> tuple[int, str]:
        status, headers, answer = await self.ask(path, body)
        assert headers["content-type"] == "application/problem+json"
        return status, json.loads(answer)["detail"]


def test_an_exchange() -> None:
    async def main() -> None:
        relay = Relay()
        number = await relay.open()
        assert number == 9
        assert await relay.receive(A, 0) == Received(None, None)
        assert await relay.status(CLAIM_PATH, ClaimRequest(number, B, b"hello").encode()) == 204
        assert await relay.receive(A, 0) == Received(b"hello", None)
        assert await relay.status(SEND_PATH, SendRequest(A, 0, b"element").encode()) == 204
        assert await relay.receive(B, 0) == Received(b"element", None)
        assert await relay.status(END_PATH, EndRequest(A, End.WRONG_CODE).encode()) == 204
        assert await relay.receive(B, 1) == Received(None, End.WRONG_CODE)
        assert relay.counted() == {"slots": 1, "slot_ended_wrong_code": 1}

    asyncio.run(main())


@pytest.mark.parametrize("what", ["claim", "send", "end"])
def test_whoever_waits_is_told_at_once(what: str) -> None:
    async def main() -> None:
        relay = Relay()
        number = await relay.open()
        claim = ClaimRequest(number, B, b"hello").encode()
        if what != "claim":
            await relay.status(CLAIM_PATH, claim)
        wanted = 0 if what == "claim" else 1
        waiting = asyncio.create_task(relay.receive(A, wanted, wait=25))
        await asyncio.sleep(0)
        assert not waiting.done()
        path, body, expected = {
            "claim": (CLAIM_PATH, claim, Received(b"hello", None)),
            "send": (SEND_PATH, SendRequest(B, 1, b"x").encode(), Received(b"x", None)),
            "end": (END_PATH, EndRequest(B, End.LEFT).encode(), Received(None, End.LEFT)),
        }[what]
        assert await relay.status(path, body) == 204
        async with asyncio.timeout(5):
            assert await waiting == expected

    asyncio.run(main())


def test_two_that_wait_with_one_token_do_not_wake_each_other_for_ever() -> None:
    async def main() -> None:
        relay = Relay()
        await relay.open()
        first = asyncio.create_task(relay.receive(A, 0, wait=25))
        await asyncio.sleep(0)
        second = asyncio.create_task(relay.receive(A, 0, wait=25))
        async with asyncio.timeout(5):
            assert await first == Received(None, None), "the newer one waits in its place"
        await asyncio.sleep(0.02)
        assert not second.done()
        await relay.status(END_PATH, EndRequest(A, End.LEFT).encode())
        async with asyncio.timeout(5):
            assert await second == Received(None, End.LEFT)

    asyncio.run(main())


def test_a_wait_ends_by_itself() -> None:
    async def main() -> None:
        relay = Relay()
        await relay.open()
        async with asyncio.timeout(20):
            assert await relay.receive(A, 0, wait=1) == Received(None, None)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        (CLAIM_PATH, ClaimRequest(1, C, b"x").encode(), 404, "begins with 1"),
        (CLAIM_PATH, ClaimRequest(9, C, b"x").encode(), 409, "used by somebody"),
        (CLAIM_PATH, ClaimRequest(9, A, b"x").encode(), 409, "token"),
        (OPEN_PATH, OpenRequest(B).encode(), 409, "token"),
        (SEND_PATH, SendRequest(C, 0, b"x").encode(), 404, "does not know"),
        (SEND_PATH, SendRequest(A, 1, b"x").encode(), 409, "not the next"),
        (RECEIVE_PATH, ReceiveRequest(C, 0).encode(), 404, "does not know"),
        (END_PATH, EndRequest(C, End.DONE).encode(), 404, "does not know"),
    ],
)
def test_refusals(path: str, body: bytes, status: int, word: str) -> None:
    async def main() -> None:
        relay = Relay()
        number = await relay.open()
        await relay.status(CLAIM_PATH, ClaimRequest(number, B, b"hello").encode())
        refused, detail = await relay.refused(path, body)
        assert refused == status
        assert word in detail
        assert [n for name, n in relay.counted().items() if "refused" in name] == [1]

    asyncio.run(main())


def test_full() -> None:
    async def main() -> None:
        relay = Relay(SlotLimits(max_slots=1, retry_after_s=2.1))
        await relay.open()
        status, headers, _ = await relay.ask(OPEN_PATH, OpenRequest(B).encode())
        assert (status, headers["retry-after"]) == (429, "3")
        relay = Relay(SlotLimits(max_slots_per_source=1))
        number = await relay.open()
        status, _, _ = await relay.ask(CLAIM_PATH, ClaimRequest(number, B, b"x").encode())
        assert status == 429

    asyncio.run(main())


def test_the_rate_of_openings_and_claims() -> None:
    async def main() -> None:
        relay = Relay(rate_limits=RateLimits(per_minute=60.0, burst=2))
        await relay.open()
        assert await relay.status(CLAIM_PATH, ClaimRequest(1, B, b"x").encode()) == 404
        for path, body in (
            (CLAIM_PATH, ClaimRequest(9, B, b"x").encode()),
            (OPEN_PATH, OpenRequest(B).encode()),
        ):
            status, detail = await relay.refused(path, body)
            assert (status, detail) == (429, "too many codes from your address")
        assert relay.counted()["slot_refused_rate"] == 2
        elsewhere = Connection(validated_path=path_of(1, "192.0.2.2"))
        status, _, _ = await relay.ask(OPEN_PATH, OpenRequest(B).encode(), elsewhere)
        assert status == 200
        relay.now += 1.0
        assert await relay.status(CLAIM_PATH, ClaimRequest(9, C, b"x").encode()) == 204

    asyncio.run(main())


@pytest.mark.parametrize("path", [OPEN_PATH, CLAIM_PATH])
def test_an_address_that_is_not_validated(path: str) -> None:
    async def main() -> None:
        body = ClaimRequest(9, B, b"x").encode()
        status, _, _ = await Relay().ask(path, body, Connection(validated_path=None))
        assert status == 425

    asyncio.run(main())


@pytest.mark.parametrize("path", PATHS)
def test_what_is_malformed_or_too_large(path: str) -> None:
    async def main() -> None:
        relay = Relay()
        assert (await relay.refused(path, b"{"))[0] == 400
        assert (await relay.refused(path, b"[" * 4000))[0] == 400
        assert (await relay.refused(path, bytes(MAX_BODY + 1)))[0] == 413
        status, _, _ = await relay.ask(path, b"", method="GET")
        assert status == 405

    asyncio.run(main())


@given(st.sampled_from(PATHS), st.binary(max_size=200))
def test_any_body_is_refused_or_taken(path: str, body: bytes) -> None:
    async def main() -> None:
        assert (await Relay().refused(path, body))[0] == 400

    asyncio.run(main())
