"""The gate before the application, and the rates behind it: the last that is let in, the first that
is not, each counted by its reason."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from relay.app import create_app
from relay.core.admission import Grant, TokenLimits
from relay.core.destinations import DestinationRefusal, DestinationRefused
from relay.core.limits import RateLimits
from relay.core.path import Path
from relay.core.quota import TokenOver
from relay.gate import FREE, GRANT_EXTENSION, KEEPING, Gate
from relay.requests import CONNECTION_EXTENSION, Problem, RegisterGuard
from relay.tokens import Secrets, Verifier, new_claims
from tests.relay.http3_client import Service, path_of
from tests.relay.test_app import Answer, Connection

NOW = 1_800_000_000.0
SECRETS = Secrets.parse("0123456789abcdef" * 2, "here")
GRACE_S = 100.0
ALL = (
    ("POST", "/v1/register"),
    ("GET", "/v1/address"),
    ("POST", "/v1/challenge"),
    ("POST", "/v1/listen"),
    ("POST", "/v1/listeners/wait"),
    ("POST", "/v1/invites"),
    ("GET", "/v1/names/bob"),
    ("POST", "/v1/slots"),
    ("POST", "/v1/slots/claim"),
    ("POST", "/v1/slots/send"),
    ("POST", "/v1/slots/receive"),
    ("GET", "/v1/whatever-comes-next"),
    ("GET", "/v1/registrations"),
)
"""What wants a token."""
OPEN = (
    ("GET", "/health"),
    ("DELETE", "/v1/registrations/" + "0" * 32),
    ("POST", "/v1/listeners/end"),
    ("POST", "/v1/slots/end"),
)
"""What does not."""


def token(*, ttl_s: float = 60.0, subject: str = "alice", **limits: int) -> str:
    return SECRETS.sign(new_claims(subject, ttl_s, TokenLimits(**limits), NOW))


class Door:
    """A gate, and an application behind it that remembers with which grant it was asked."""

    def __init__(self, *, max_requests: int = 256, is_open: bool = False) -> None:
        self.wall = NOW
        self.now = 0.0
        self.grants: list[Grant | None] = []
        self.hold: asyncio.Event | None = None
        verifier = None if is_open else Verifier(SECRETS, frozenset({"bad"}), GRACE_S)
        self.gate = Gate(
            verifier,
            max_requests=max_requests,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
        )
        self._app = self.gate.before(self._behind)

    async def _behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.grants.append(scope["extensions"].get(GRANT_EXTENSION))
        if self.hold is not None:
            await self.hold.wait()
        await Response(status_code=204)(scope, receive, send)

    async def ask(
        self, method: str, path: str, *bearers: str, connection: Connection | None = None
    ) -> Answer:
        return await ask(self._app, method, path, *bearers, connection=connection)


async def ask(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    method: str,
    path: str,
    *bearers: str,
    body: bytes = b"",
    connection: Connection | None = None,
) -> Answer:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {each}".encode()) for each in bearers],
        "extensions": {CONNECTION_EXTENSION: connection or Connection()},
    }
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:]))


@pytest.mark.parametrize(("method", "path"), ALL)
def test_everything_wants_a_token(method: str, path: str) -> None:
    async def main() -> None:
        door = Door()
        answer = await door.ask(method, path)
        answer.assert_problem(401, "this relay wants a token")
        assert answer.headers["www-authenticate"] == 'Bearer realm="quicpipe"'
        assert +door.gate.refused == {"token_missing": 1}
        assert door.grants == []
        assert (await door.ask(method, path, token(registrations=3))).status == 204
        (grant,) = door.grants
        assert grant is not None
        assert (grant.subject, grant.limits.registrations) == ("alice", 3)

    asyncio.run(main())


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_what_shows_an_unguessable_id_wants_none(method: str, path: str) -> None:
    door = Door()
    assert asyncio.run(door.ask(method, path)).status == 204
    assert path in FREE or path.startswith("/v1/registrations/")


@pytest.mark.parametrize(("method", "path"), [*ALL, *OPEN])
def test_an_open_relay_wants_none(method: str, path: str) -> None:
    door = Door(is_open=True)
    assert asyncio.run(door.ask(method, path)).status == 204
    assert door.grants == [None]


def test_each_refusal_is_counted_by_its_reason() -> None:
    async def main() -> None:
        door = Door()
        claims = new_claims("alice", 60.0, TokenLimits(), NOW)
        later = SECRETS.sign(claims | {"nbf": NOW + 999})
        revoked = SECRETS.sign(claims | {"jti": "bad"})
        foreign = Secrets.parse("x" * 32, "there").sign(claims)
        elsewhere = SECRETS.sign(claims | {"aud": "shop"})
        for bearer, reason in (
            ("nonsense", "token_malformed"),
            (later, "token_not_yet_valid"),
            (revoked, "token_revoked"),
            (foreign, "token_bad_signature"),
            (elsewhere, "token_wrong_audience"),
            (token(ttl_s=-1), "token_expired"),
        ):
            door.gate.refused.clear()
            answer = await door.ask("POST", "/v1/listen", bearer)
            answer.assert_problem(401)
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
            assert bearer.encode() not in answer.body
            assert +door.gate.refused == {reason: 1}
        (await door.ask("POST", "/v1/listen", token(), token())).assert_problem(401, "more than")
        assert door.grants == []

    asyncio.run(main())


def test_a_token_that_is_over_keeps_what_it_has_begun_for_a_while() -> None:
    async def main() -> None:
        door = Door()
        bearer = token(ttl_s=60)
        for wall, status in ((59.9, 204), (60.0, 401)):
            door.wall = NOW + wall
            assert (await door.ask("POST", "/v1/listen", bearer)).status == status
        for path in KEEPING:
            door.wall = NOW + 60.0 + GRACE_S - 0.1
            assert (await door.ask("POST", path, bearer)).status == 204
            grant = door.grants[-1]
            assert grant is not None
            assert not grant.is_fresh
            door.wall = NOW + 60.0 + GRACE_S
            assert (await door.ask("POST", path, bearer)).status == 401

    asyncio.run(main())


def test_requests_at_once_of_one_subject() -> None:
    async def main() -> None:
        door = Door(max_requests=2)
        door.hold = asyncio.Event()
        waiting = [
            asyncio.create_task(door.ask("POST", "/v1/listeners/wait", token())) for _ in range(2)
        ]
        await asyncio.sleep(0)
        third = await door.ask("GET", "/v1/address", token())
        third.assert_problem(429, "2 requests at once")
        assert int(third.headers["retry-after"]) >= 1
        assert +door.gate.refused == {"requests_of_token_full": 1}
        waiting.append(asyncio.create_task(door.ask("GET", "/v1/address", token(subject="bob"))))
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        waiting[0] = asyncio.create_task(door.ask("GET", "/v1/address", token()))
        await asyncio.sleep(0)
        door.hold.set()
        assert [each.status for each in await asyncio.gather(*waiting)] == [204] * 3
        assert not door.gate._running

    asyncio.run(main())


def test_a_source_that_has_no_good_token_is_told_so_only_so_often() -> None:
    async def main() -> None:
        door = Door()
        for _ in range(120):
            assert (await door.ask("GET", "/v1/address")).status == 401
        answer = await door.ask("GET", "/v1/address", "nonsense")
        answer.assert_problem(429, "without a good token")
        assert +door.gate.refused == {"token_missing": 120, "refused_too_often": 1}
        assert (await door.ask("GET", "/v1/address", token())).status == 204
        other = Connection(validated_path=Path(path_of(1).remote._replace(host="192.0.2.9"), 0, ""))
        assert (await door.ask("GET", "/v1/address", connection=other)).status == 401
        door.now += int(answer.headers["retry-after"])
        assert (await door.ask("GET", "/v1/address")).status == 401

    asyncio.run(main())


BODY = json.dumps({"key": "AAECAwQFBgcICQoLDA0ODw==", "num": 1}).encode()


def test_a_registration_with_a_token_that_is_over_is_401() -> None:
    service = Service()
    service.error = TokenOver()
    answer = asyncio.run(ask(create_app(service), "POST", "/v1/register", body=BODY))
    answer.assert_problem(401, "expired")
    assert "invalid_token" in answer.headers["www-authenticate"]


def test_an_address_that_is_not_taken_is_403() -> None:
    service = Service()
    service.error = DestinationRefused(DestinationRefusal.PRIVATE, "10.0.0.1:1 is private")
    answer = asyncio.run(ask(create_app(service), "POST", "/v1/register", body=BODY))
    answer.assert_problem(403, "10.0.0.1:1 is private")


def test_the_grant_reaches_who_registers() -> None:
    service = Service()
    gate = Gate(Verifier(SECRETS), clock=lambda: 0.0, wall_clock=lambda: NOW)
    guard = RegisterGuard(RateLimits(), clock=lambda: 0.0)
    app = gate.before(create_app(service, guard=guard))
    answer = asyncio.run(ask(app, "POST", "/v1/register", token(registrations=7), body=BODY))
    assert answer.status == 200
    (grant,) = service.grants
    assert grant is not None
    assert grant.limits.registrations == 7


class Clock:
    now = 0.0


def rates(
    clock: Clock, source: int = 10**6, token: int | None = None, total: int | None = None
) -> RegisterGuard:
    return RegisterGuard(
        RateLimits.of(source),
        None if token is None else RateLimits.of(token),
        None if total is None else RateLimits.of(total),
        lambda: clock.now,
    )


def grant_for(subject: str, per_minute: int | None = None) -> Grant:
    return Grant(subject, "t", NOW, 60.0, TokenLimits(registrations_per_minute=per_minute))


def refused(guard: RegisterGuard, grant: Grant | None, path: Path) -> float:
    with pytest.raises(Problem) as error:
        guard.take_registration(path, grant)
    assert error.value.status_code == 429
    assert error.value.headers is not None
    return float(error.value.headers["retry-after"])


def test_registrations_a_minute_of_one_source() -> None:
    clock = Clock()
    guard = rates(clock, source=4)
    for _ in range(2):
        guard.take_registration(path_of(1), None)
    assert refused(guard, None, path_of(2)) == 15
    assert guard.refused == 1
    clock.now = 15.0
    guard.take_registration(path_of(1), None)


def test_registrations_a_minute_of_one_token() -> None:
    clock = Clock()
    guard = rates(clock, token=4)
    for _ in range(2):
        guard.take_registration(path_of(1), grant_for("alice"))
    assert refused(guard, grant_for("alice"), path_of(2)) == 15
    guard.take_registration(path_of(1), grant_for("bob"))
    guard.take_registration(path_of(1), None)
    assert (guard.refused, guard.refused_token, guard.refused_total) == (0, 1, 0)
    for _ in range(3):
        guard.take_registration(path_of(1), grant_for("carol", 6))
    refused(guard, grant_for("carol", 6), path_of(1))


def test_registrations_a_minute_of_everybody() -> None:
    clock = Clock()
    guard = rates(clock, total=4)
    guard.take_registration(path_of(1), grant_for("alice"))
    guard.take_registration(path_of(1), None)
    assert refused(guard, grant_for("bob"), path_of(2)) == 15
    assert (guard.refused, guard.refused_token, guard.refused_total) == (0, 0, 1)
    guard.change_all(RateLimits(), None, None)
    clock.now += 0.001
    guard.take_registration(path_of(1), grant_for("bob"))
