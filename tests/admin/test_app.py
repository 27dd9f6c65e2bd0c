"""What the admin listener answers, over real TCP."""

import asyncio
import json
from typing import Any

import pytest

from relay.admin.app import Offer
from relay.admin.guard import Denied, Rules
from relay.core.admission import Grant
from relay.core.outcome import Outcome
from tests.admin.fake_relay import LISTENER, TOKEN, WALL, FakeRelay, bearer, running

GRANT = Grant("alice", "t1", 2e9, 3600.0)


def get(path: str, relay: FakeRelay | None = None, **more: Any) -> Any:
    async def main() -> Any:
        async with running(relay) as listener:
            answer = await listener.ask(path, **more)
            assert answer.status == 200, answer
            return json.loads(answer.body)

    return asyncio.run(main())


def status(
    path: str, *, rules: Rules | None = None, offer: Offer | None = None, **more: Any
) -> int:
    async def main() -> int:
        async with running(rules=rules, offer=offer) as listener:
            return (await listener.ask(path, **more)).status

    return asyncio.run(main())


def test_a_registration_is_shown_with_everything_about_it() -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener:
            name = relay.register("198.51.100.7", 5000, grant=GRANT)
            relay.now += 10
            listener.sight.watch.forwarded(relay.registry.by_owner[0].path.remote, 3, 3000)
            listener.sight.tick()
            relay.now += 1
            listener.sight.watch.forwarded(relay.registry.by_owner[0].path.remote, 2, 2000)
            listener.sight.tick()
            answer = await listener.ask(f"/v1/registrations/{name}")
            one = json.loads(answer.body)
            ids = one.pop("connection_id_list")
            assert len(ids) == 2
            assert all(len(each) == 24 for each in ids)
            assert one == {
                "id": name,
                "address": "198.51.100.7:5000",
                "listener": LISTENER,
                "connection_ids": 2,
                "held": True,
                "since": WALL + 1000,
                "last_seen": WALL + 1011,
                "expires": WALL + 1000 + 3600,
                "subject": "alice",
                "token_id": "t1",
                "forwarded_by": "userspace",
                "packets": 5,
                "bytes": 5000,
                "packets_per_s": 1.0,
                "bytes_per_s": 1000.0,
                "last_forwarded": WALL + 1011,
                "kernel": {"packets": 0, "bytes": 0},
                "userspace": {"packets": 5, "bytes": 5000},
            }
            listed = json.loads((await listener.ask("/v1/registrations")).body)
            assert listed == {"registrations": [one], "next": None}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", [1, 2, 3, 4]),
        ("?address=198.51.100.1", [1]),
        ("?address=198.51.100.0/30", [1, 2, 3]),
        ("?address=198.51.100.2:5002", [2]),
        ("?address=198.51.100.2:5003", []),
        ("?address=[2001:db8::4]:5004", [4]),
        ("?address=2001:db8::/64", [4]),
        ("?subject=alice", [2]),
        ("?token_id=t1", [2]),
        ("?token_id=t2", []),
        ("?forwarded_by=kernel", [3]),
        ("?forwarded_by=userspace&held=true", [1, 2]),
        ("?held=false", [4]),
        ("?limit=2", [1, 2]),
        ("?start=2", [3, 4]),
        ("?start=99", []),
        ("?order=bytes&start=1&limit=2", [1, 2]),
        ("?order=bytes", [3, 1, 2, 4]),
        ("?order=bytes&limit=1", [3]),
    ],
)
def test_registrations_are_filtered_and_ordered(asked: str, found: list[int]) -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener:
            names = {}
            for number, host in enumerate(
                ("198.51.100.1", "198.51.100.2", "198.51.100.3", "2001:db8::4"), 1
            ):
                grant = GRANT if number == 2 else None
                name = relay.register(host, 5000 + number, key=number, grant=grant)
                names[name] = number
            relay.registry.release(4, relay.now)
            relay.kernel_owners.add(2)
            remote = relay.registry.by_owner[2].path.remote
            listener.sight.watch.forwarded(remote, 5, 500)
            listener.sight.watch.forwarded(relay.registry.by_owner[0].path.remote, 5, 400)
            page = json.loads((await listener.ask("/v1/registrations" + asked)).body)
            assert [names[each["id"]] for each in page["registrations"]] == found

    asyncio.run(main())


def test_all_registrations_are_found_page_by_page() -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener:
            wanted = {relay.register(f"198.51.100.{n}", key=n) for n in range(1, 26)}
            found: list[str] = []
            after = ""
            for _ in range(5):
                page = json.loads((await listener.ask(f"/v1/registrations?limit=6{after}")).body)
                found += [each["id"] for each in page["registrations"]]
                after = f"&start={page['next']}"
            assert page["next"] is None
            assert len(found) == 25
            assert set(found) == wanted

    asyncio.run(main())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/registrations?limit=0",
        "/v1/registrations?limit=1001",
        "/v1/registrations?limit=1&limit=2",
        "/v1/registrations?limit=x",
        "/v1/registrations?limit=%D9%A1",
        "/v1/registrations?nonsense=1",
        "/v1/registrations?order=nonsense",
        "/v1/registrations?held=maybe",
        "/v1/registrations?address=example.com",
        "/v1/registrations?address=198.51.100.7:0",
        "/v1/registrations?address=2001:db8::1:x",
        "/v1/registrations?subject=" + "x" * 129,
        "/v1/registrations/nonsense",
        "/v1/events?kind=nonsense",
        "/v1/events?backlog=1001",
        "/v1/events?duration=-1",
        "/v1/overview?x=1",
        "/health?x=1",
    ],
)
def test_a_question_that_makes_no_sense_is_answered_by_what_was_expected(path: str) -> None:
    async def main() -> None:
        async with running() as listener:
            answer = await listener.ask(path)
            assert answer.status == 400
            assert answer.headers["content-type"] == "application/problem+json"
            expected = ("expected", "no parameter", "given twice", "hexadec")
            assert any(words in answer.text for words in expected)

    asyncio.run(main())


def test_an_operator_ends_a_registration_with_the_token_only() -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener:
            name = relay.register()
            path = f"/v1/registrations/{name}"
            for headers, expected in (
                ([], 401),
                ([bearer("another-token-of-the-same-length")], 401),
                ([("Authorization", f"Basic {TOKEN}")], 401),
                ([bearer(), bearer()], 401),
                ([bearer(TOKEN[:-1])], 401),
            ):
                answer = await listener.ask(path, method="DELETE", headers=headers)
                assert answer.status == expected
                assert "Bearer" in answer.headers["www-authenticate"]
            assert len(relay.registry) == 1
            assert (await listener.ask(path, method="DELETE", headers=[bearer()])).status == 204
            assert len(relay.registry) == 0
            assert (await listener.ask(path, method="DELETE", headers=[bearer()])).status == 404
            assert listener.made.app.denied[Denied.TOKEN] == 5

    asyncio.run(main())


def test_a_token_is_revoked_by_its_id() -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener:
            relay.register(grant=GRANT)
            answer = await listener.ask("/v1/revoked/t1", method="PUT")
            assert answer.status == 401
            answer = await listener.ask("/v1/revoked/t1", method="PUT", headers=[bearer()])
            assert json.loads(answer.body) == {"ended": 1}
            assert relay.revoked == ["t1"]
            relay.takes_tokens = False
            answer = await listener.ask("/v1/revoked/t1", method="PUT", headers=[bearer()])
            assert answer.status == 409

    asyncio.run(main())


def test_without_a_token_nothing_can_be_changed() -> None:
    path = "/v1/registrations/" + "0" * 32
    assert status(path, rules=Rules(), method="DELETE", headers=[bearer()]) == 403
    assert status(path, rules=Rules(), method="DELETE") == 403


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/health", 200),
        ("/", 200),  # the page asks for the token itself
        ("/v1/overview", 401),
        ("/v1/registrations", 401),
        ("/v1/events?duration=0", 401),
        ("/metrics", 401),
        ("/openapi.json", 401),
    ],
)
def test_reading_wants_the_token_where_the_operator_says_so(path: str, expected: int) -> None:
    rules = Rules(token=TOKEN, reads_want_token=True)
    assert status(path, rules=rules) == expected
    assert status(path, rules=rules, headers=[bearer()]) == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9443", 200),
        ("[::1]:9443", 200),
        ("192.0.2.7:1", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("relay.example", 200),
        ("relay.example.:9443", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("relay.example:x", 421),
        ("", 421),
        ("127.0.0.1, evil.example", 421),
    ],
)
def test_a_page_that_rebinds_its_name_is_turned_away(host: str, expected: int) -> None:
    assert status("/health", rules=Rules(hosts={"relay.example"}), host=host) == expected


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v1/overview", [("Sec-Fetch-Site", "same-origin")], 200),
        ("/v1/overview", [("Sec-Fetch-Site", "cross-site")], 403),
        ("/v1/overview", [("Sec-Fetch-Site", "same-site")], 403),
        ("/v1/overview", [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")], 403),
        ("/", [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")], 200),
    ],
)
def test_other_sites_may_link_to_the_page_and_nothing_else(
    path: str, headers: list[tuple[str, str]], expected: int
) -> None:
    assert status(path, headers=headers) == expected


def test_no_answer_permits_other_sites_anything() -> None:
    async def main() -> None:
        async with running() as listener:
            origin = ("Origin", "https://evil.example")
            for path, method in (
                ("/v1/overview", "GET"),
                ("/v1/overview", "OPTIONS"),
                ("/", "GET"),
            ):
                answer = await listener.ask(path, method=method, headers=[origin])
                assert not [name for name in answer.headers if "access-control" in name]
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["cache-control"] == "no-store"
                assert "default-src 'none'" in answer.headers["content-security-policy"]

    asyncio.run(main())


def test_each_part_but_health_is_optional() -> None:
    off = Offer(metrics=False, registrations=False, page=False)
    assert status("/health", offer=off) == 200
    for path in (
        "/metrics",
        "/v1/overview",
        "/v1/registrations",
        "/v1/events",
        "/",
        "/openapi.json",
    ):
        assert status(path, offer=off) == 404
    assert status("/metrics", offer=Offer(registrations=False)) == 200
    assert status("/", offer=Offer(registrations=False)) == 404


def test_health_says_when_the_relay_is_drained() -> None:
    relay = FakeRelay(is_draining=True)

    async def main() -> None:
        async with running(relay) as listener:
            answer = await listener.ask("/health")
            assert (answer.status, json.loads(answer.body)) == (503, {"status": "draining"})

    asyncio.run(main())


def test_the_overview_has_rates_and_what_was_dropped() -> None:
    relay = FakeRelay()

    async def main() -> None:
        async with running(relay) as listener:
            listener.sight.tick()
            relay.now += 2.0
            relay.outcomes[Outcome.FORWARDED] = 100
            relay.outcomes[Outcome.UNKNOWN_CID] = 8
            relay.bytes_forwarded = 120_000
            relay.refused["registrations_of_source_full"] = 3
            listener.sight.tick()
            now = json.loads((await listener.ask("/v1/overview")).body)
            assert (now["packets"], now["packets_per_s"]) == (100, 50.0)
            assert (now["bytes"], now["bytes_per_s"]) == (120_000, 60_000.0)
            assert now["drops"] == {"unknown_cid": 8}
            assert now["drops_per_s"] == {"unknown_cid": 4.0}
            assert now["refused"] == {"registrations_of_source_full": 3}
            (step,) = json.loads((await listener.ask("/v1/history")).body)["steps"]
            assert step["dropped_per_s"] == 4.0

    asyncio.run(main())


def test_a_request_too_many_is_told_to_come_again() -> None:
    async def main() -> None:
        async with running(max_requests=0) as listener:
            answer = await listener.ask("/v1/overview")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert (await listener.ask("/health")).status == 200

    asyncio.run(main())
