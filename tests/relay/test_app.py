"""The application alone, called as an ASGI server would."""

import asyncio
import base64
import json
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Scope

from relay.app import create_app
from relay.core.limits import RateLimits
from relay.core.path import Path
from relay.core.registry import ConnectionIdTaken, RegistryFull, RegistryRefusal
from relay.requests import CONNECTION_EXTENSION
from relay.wire.address import Address
from relay.wire.outside import AddressAnswer
from relay.wire.registration import MAX_BODY, RegisterAnswer, RegisterRequest
from tests.relay.http3_client import Service, path_of

ORIGINAL_REQUEST = json.dumps({"key": base64.b64encode(bytes(16)).decode(), "num": 10}).encode()


LISTENERS = (Address("0.0.0.0", 4433), Address("192.0.2.1", 4434))


@dataclass
class Connection:
    """What the server would put into the scope."""

    id: int = 7
    validated_path: Path | None = field(default_factory=lambda: path_of(1000))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def assert_problem(self, status: int, *words: str) -> None:
        assert self.status == status
        assert self.headers["content-type"] == "application/problem+json"
        problem = json.loads(self.body)
        assert problem["status"] == status
        assert problem["type"] == "about:blank"
        assert problem["title"]
        for word in words:
            assert word in problem["detail"]


class Relay:
    """An application with its service and a clock."""

    def __init__(self, rate_limits: RateLimits | None = None) -> None:
        self.service = Service()
        self.now = 0.0
        self._app = create_app(
            self.service, rate_limits=rate_limits, clock=lambda: self.now, listeners=LISTENERS
        )

    def ask(
        self,
        method: str,
        path: str,
        *chunks: bytes,
        connection: Connection | None = None,
        disconnects: bool = False,
    ) -> Answer:
        messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
        ]
        messages.append(
            {"type": "http.disconnect"} if disconnects else {"type": "http.request", "body": b""}
        )
        sent: list[Message] = []

        async def receive() -> Message:
            return messages.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

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
        asyncio.run(self._app(scope, receive, send))
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], headers, body)

    def register(self, body: bytes = ORIGINAL_REQUEST, path: Path | None = None) -> Answer:
        connection = Connection(validated_path=path or path_of(1000))
        return self.ask("POST", "/v1/register", body, connection=connection)


def test_health() -> None:
    answer = Relay().ask("GET", "/health")
    assert answer.status == 200
    assert json.loads(answer.body) == {"status": "ok"}


def test_address() -> None:
    relay = Relay()
    answer = relay.ask("GET", "/v1/address", connection=Connection(validated_path=path_of(1234)))
    assert answer.status == 200
    assert AddressAnswer.decode(answer.body) == AddressAnswer(path_of(1234).remote, LISTENERS)
    unvalidated = Connection(validated_path=None)
    relay.ask("GET", "/v1/address", connection=unvalidated).assert_problem(425, "not validated")
    relay.ask("POST", "/v1/address").assert_problem(405, "GET")


def test_register_as_the_original_does() -> None:
    relay = Relay()
    answer = relay.register()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert RegisterAnswer.decode(answer.body).connection_ids == 10
    assert relay.service.registered == [(RegisterRequest(bytes(16), 10), path_of(1000), 7)]


def test_body_in_many_pieces() -> None:
    relay = Relay()
    pieces = [ORIGINAL_REQUEST[i : i + 1] for i in range(len(ORIGINAL_REQUEST))]
    assert relay.ask("POST", "/v1/register", *pieces).status == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b"\xff", "JSON"),
        (b"[" * 4000, "JSON"),
        (b'{"num": 10}', "'key'"),
        (b'{"key": "AAAA", "num": 10}', "bytes"),
        (ORIGINAL_REQUEST.replace(b"10", b"0"), "'num'"),
        (ORIGINAL_REQUEST.replace(b"10", b"1025"), "'num'"),
        (ORIGINAL_REQUEST.replace(b"10", b"1e15"), "'num'"),
    ],
)
def test_malformed_registration(body: bytes, word: str) -> None:
    relay = Relay()
    relay.register(body).assert_problem(400, word)
    assert not relay.service.registered


def test_body_of_the_greatest_size() -> None:
    relay = Relay()
    assert relay.register(ORIGINAL_REQUEST.ljust(MAX_BODY)).status == 200
    relay.register(ORIGINAL_REQUEST.ljust(MAX_BODY + 1)).assert_problem(413, str(MAX_BODY))


def test_body_that_ends_early() -> None:
    Relay().ask("POST", "/v1/register", b"{", disconnects=True).assert_problem(400)


def test_path_that_is_not_validated() -> None:
    relay = Relay()
    answer = relay.ask(
        "POST", "/v1/register", ORIGINAL_REQUEST, connection=Connection(validated_path=None)
    )
    answer.assert_problem(425, "validated")
    assert not relay.service.registered


def test_connection_id_of_another_key() -> None:
    relay = Relay()
    relay.service.error = ConnectionIdTaken("another key holds it")
    relay.register().assert_problem(409, "another key")


def test_full_registry() -> None:
    relay = Relay()
    relay.service.error = RegistryFull("no room", RegistryRefusal.FULL, retry_after_s=2.1)
    answer = relay.register()
    answer.assert_problem(429, "no room")
    assert answer.headers["retry-after"] == "3"


def test_service_that_fails() -> None:
    relay = Relay()
    relay.service.error = ZeroDivisionError("a secret")
    with pytest.raises(ZeroDivisionError):  # for the server's log, after the answer
        relay.register()


def test_rate_of_one_source() -> None:
    relay = Relay(RateLimits(per_minute=60.0, burst=2))
    assert [relay.register().status for _ in range(3)] == [200, 200, 429]
    answer = relay.register(path=path_of(2000))  # another port is the same source
    answer.assert_problem(429, "too many")
    assert answer.headers["retry-after"] == "1"
    assert relay.register(path=path_of(1, "192.0.2.2")).status == 200
    site = [Path(Address(f"2001:db8::{n}", n), 0, "::1") for n in range(1, 4)]
    assert [relay.register(path=path).status for path in site] == [200, 200, 429]
    relay.now += 1.0
    assert relay.register().status == 200
    assert relay.ask("GET", "/health").status == 200


def test_delete() -> None:
    relay = Relay()
    answer = relay.ask("DELETE", "/v1/registrations/" + "0" * 32)
    assert (answer.status, answer.body) == (204, b"")
    relay.ask("DELETE", "/v1/registrations/x").assert_problem(404, "no registration")
    assert relay.service.deleted == ["0" * 32, "x"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/register/", "/v1/registrations/", "/health/x"])
def test_nothing_there(path: str) -> None:
    Relay().ask("GET", path).assert_problem(404, "/v1/register")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/register", "POST"),
        ("PUT", "/health", "GET"),
        ("GET", "/v1/registrations/x", "DELETE"),
    ],
)
def test_wrong_method(method: str, path: str, allowed: str) -> None:
    answer = Relay().ask(method, path)
    answer.assert_problem(405, allowed)
    assert allowed in answer.headers["allow"]
