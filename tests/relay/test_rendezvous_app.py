"""The rendezvous over HTTP/3 in memory, under a clock that jumps."""

import asyncio
import json

import pytest

from peers.identity import Identity
from relay.core.limits import RateLimits
from relay.core.rendezvous import RendezvousLimits
from relay.wire.registration import MAX_BODY
from relay.wire.rendezvous import (
    EndRequest,
    ListenRequest,
    bytes_to_sign,
)
from tests.relay.rendezvous_app import (
    GRACE,
    INVITE,
    OTHER,
    RELAY,
    WHO,
    Scene,
    ask,
    challenged,
    listen,
    listening,
    now,
    numbers,
    post,
    run,
)


def test_an_invite_wakes_the_listener() -> None:
    async def main(here: Scene) -> None:
        accepter, dialer = await here.world.connect(1000), await here.world.connect(2000)
        listener = await listening(accepter, name="laptop")
        waiting = ask(accepter, listener)
        await asyncio.sleep(10.0)
        assert here.count("polls") == 1
        assert not waiting.done()
        for number, to in enumerate([WHO.fingerprint, "laptop"]):
            assert (await post(dialer, to, number)).status == 202
        assert numbers(await waiting) == [0]
        assert now() < 11.0
        assert numbers(await ask(accepter, listener, after=1), after=1) == [1]
        response = await dialer.get("/v1/names/laptop")
        assert response.json() == {"fingerprint": WHO.fingerprint}

    run(main)


def test_a_poll_without_news_is_answered_in_time() -> None:
    """And not cut off by the server's own limit on slow applications."""

    async def main(here: Scene) -> None:
        client = await here.world.connect()
        listener = await listening(client)
        for wait in (25, 3, 0):
            began = now()
            assert numbers(await ask(client, listener, wait=wait)) == []
            assert now() - began == pytest.approx(wait, abs=0.5)
        assert here.count("polls") == 0

    run(main)


def test_a_poll_takes_the_place_of_the_one_before() -> None:
    async def main(here: Scene) -> None:
        client, again = await here.world.connect(1000), await here.world.connect(1001)
        listener = await listening(client)
        first = ask(client, listener)
        await asyncio.sleep(1.0)
        second = ask(again, listener)  # its connection was lost, as far as it knows
        assert numbers(await first) == []
        assert now() < 2.0
        await post(again, WHO.fingerprint, 7)
        assert numbers(await second) == [7]

    run(main)


def test_a_connection_that_breaks_in_the_middle_of_a_poll() -> None:
    async def main(here: Scene) -> None:
        client, dialer = await here.world.connect(1000), await here.world.connect(2000)
        listener = await listening(client)
        ask(client, listener).cancel()
        await asyncio.sleep(0.1)
        client.close()
        await asyncio.sleep(0.1)
        assert here.count("polls") == 0
        assert (await post(dialer, WHO.fingerprint, 1)).status == 202
        await asyncio.sleep(GRACE - 1.0)
        back = await here.world.connect(1001)
        assert numbers(await ask(back, listener)) == [1]  # with the same id
        assert await listening(back) != listener
        await asyncio.sleep(GRACE + 0.1)
        assert (await post(back, WHO.fingerprint, 2)).status == 404
        assert (await ask(back, listener)).status == 409  # it was replaced, by itself

    run(main)


def test_whoever_listens_with_the_same_identity_takes_over() -> None:
    async def main(here: Scene) -> None:
        first, second = await here.world.connect(1000), await here.world.connect(2000)
        waiting = ask(first, await listening(first, name="laptop"))
        await asyncio.sleep(0.1)
        listener = await listening(second, name="laptop")
        response = await waiting
        assert response.status == 409
        assert "same identity" in str(response.json()["detail"])
        await post(first, "laptop", 3)
        assert numbers(await ask(second, listener)) == [3]

    run(main)


def test_end() -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        listener = await listening(client, name="laptop")
        waiting = ask(client, listener)
        await asyncio.sleep(0.1)
        body = EndRequest(listener).encode()
        assert (await client.post("/v1/listeners/end", body)).status == 204
        assert (await waiting).status == 404
        assert (await client.post("/v1/listeners/end", body)).status == 404
        assert (await client.get("/v1/names/laptop")).status == 404
        assert here.count("listeners") == 0

    run(main)


@pytest.mark.parametrize(
    "path", ["/v1/names/nobody", "/v1/names/7", "/v1/names/" + "a" * 64, "/v1/names/a%2Fb"]
)
def test_a_name_of_nobody(path: str) -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        response = await client.get(path)
        assert response.status == 404
        assert response.content_type == "application/problem+json"

    run(main)


def test_nobody_listens() -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        for to in (WHO.fingerprint, "laptop"):
            response = await post(client, to)
            assert response.status == 404
            assert "nobody listens" in str(response.json()["detail"])

    run(main)


# Proofs.


def test_a_proof_for_another_relay_is_worth_nothing_here() -> None:
    """A relay in between has the listener sign our challenge, but with its own certificate."""

    async def main(here: Scene) -> None:
        client = await here.world.connect()
        response = await listen(client, relay=OTHER.fingerprint)
        assert response.status == 403
        assert (here.count("listeners"), here.count("refused_proof")) == (0, 1)

    run(main)


def test_a_proof_is_of_one_connection_and_serves_once() -> None:
    async def main(here: Scene) -> None:
        client, thief = await here.world.connect(1000), await here.world.connect(2000)
        challenge = await challenged(client)
        message = bytes_to_sign(RELAY, challenge, WHO.certificate_der, None)
        body = ListenRequest(WHO.certificate_der, WHO.sign(message)).encode()
        assert (await thief.post("/v1/listen", body)).status == 403
        await challenged(thief)
        assert (await thief.post("/v1/listen", body)).status == 403
        assert (await client.post("/v1/listen", body)).status == 200
        assert (await client.post("/v1/listen", body)).status == 403
        assert here.count("refused_proof") == 3

    run(main)


def test_a_challenge_that_was_given_long_ago() -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        challenge = await challenged(client)
        await asyncio.sleep(30.0)
        message = bytes_to_sign(RELAY, challenge, WHO.certificate_der, None)
        body = ListenRequest(WHO.certificate_der, WHO.sign(message)).encode()
        response = await client.post("/v1/listen", body)
        assert response.status == 403
        assert "challenge" in str(response.json()["detail"])

    run(main)


def test_a_name_that_is_taken() -> None:
    async def main(here: Scene) -> None:
        first, second = await here.world.connect(1000), await here.world.connect(2000)
        await listening(first, WHO, "laptop")
        assert (await listen(second, OTHER, "laptop")).status == 409
        assert (await listen(second, OTHER)).status == 200
        assert here.count("refused_name_taken") == 1

    run(main)


# Bounds.


def test_bounds_are_told_with_a_time() -> None:
    limits = RendezvousLimits(max_listeners=1, max_invites_per_listener=1, retry_after_s=4.2)

    async def main(here: Scene) -> None:
        client = await here.world.connect()
        await listening(client)
        refused = [await listen(client, OTHER)]
        assert (await post(client, WHO.fingerprint, 1)).status == 202
        refused.append(await post(client, WHO.fingerprint, 2))
        for response in refused:
            assert response.status == 429
            assert response.headers[b"retry-after"] == b"5"
        assert here.count("refused_listeners_full") == 1
        assert here.count("refused_invites_of_listener_full") == 1

    run(main, limits)


def test_the_rate_of_one_source() -> None:
    async def main(here: Scene) -> None:
        client, other = await here.world.connect(1000), await here.world.connect(2000)
        assert [(await post(client, "nobody")).status for _ in range(2)] == [404, 404]
        for response in (
            await post(other, "nobody"),  # the same source
            await other.answer("POST", "/v1/challenge"),
            await other.get("/v1/names/nobody"),
        ):
            assert response.status == 429
            assert int(response.headers[b"retry-after"]) >= 1
        assert here.count("refused_rate") == 3
        await asyncio.sleep(1.0)
        assert (await post(client, "nobody")).status == 404

    run(main, rate_limits=RateLimits(per_minute=60.0, burst=2))


def test_invites_die() -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        listener = await listening(client)
        await post(client, WHO.fingerprint, 1)
        await asyncio.sleep(GRACE - 1.0)
        assert numbers(await ask(client, listener)) == [1]
        await asyncio.sleep(GRACE - 1.0)
        assert numbers(await ask(client, listener)) == [1]
        await asyncio.sleep(3.0)
        assert numbers(await ask(client, listener, wait=0)) == []
        assert here.count("refused_invite_expired") == 1

    run(main)


def test_many_wait_at_a_time() -> None:
    """Each over a connection of its own would take long to set up: eight each."""

    async def main(here: Scene) -> None:
        clients = [await here.world.connect(1000 + n) for n in range(8)]
        whos = [Identity.generate() for _ in range(64)]
        ids = [await listening(clients[n // 8], who) for n, who in enumerate(whos)]
        waiting = [ask(clients[n // 8], listener) for n, listener in enumerate(ids)]
        await asyncio.sleep(1.0)
        assert here.count("polls") == 64
        assert (await ask(clients[0], ids[0])).status == 429  # the ninth of its connection
        dialer = await here.world.connect(3000)
        for number, who in enumerate(whos):
            assert (await post(dialer, who.fingerprint, number)).status == 202
        assert [numbers(await each) for each in waiting] == [[n] for n in range(64)]
        assert here.count("polls") == 0

    run(main)


# What no honest client sends.


@pytest.mark.parametrize("path", ["listen", "listeners/wait", "listeners/end", "invites"])
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"\xff",
        b"[" * 4000,
        b'{"id": 1, "to": 1, "certificate": 1, "invite": 1}',
        b'{"to": "a", "invite": {"packet": "", "auth": "invite-key", "key": "AAAA"}}',
    ],
)
def test_malformed(path: str, body: bytes) -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        response = await client.post(f"/v1/{path}", body)
        assert response.status == 400
        assert response.content_type == "application/problem+json"
        assert await challenged(client)

    run(main)


def test_a_secret_is_not_taken() -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        await listening(client)
        invite = {**INVITE, "auth": "invite-key", "key": "c2VjcmV0"}
        body = json.dumps({"to": WHO.fingerprint, "invite": invite}).encode()
        response = await client.post("/v1/invites", body)
        assert response.status == 400
        assert "one-time key" in str(response.json()["detail"])
        assert here.count("invites") == 0

    run(main)


def test_a_body_that_is_too_large() -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        response = await client.post("/v1/invites", b"x" * (MAX_BODY + 1))
        assert response.status == 413

    run(main)


def test_a_listener_that_nobody_has() -> None:
    async def main(here: Scene) -> None:
        client = await here.world.connect()
        assert (await ask(client, "0" * 32)).status == 404
        assert here.count("refused_unknown_listener") == 1

    run(main)
