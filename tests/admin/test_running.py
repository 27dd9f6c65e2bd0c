"""The admin listener beside a real relay: pipes are seen, limits are hit and seen, reloads work."""

import asyncio
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peers import InviteKey, PathPolicy, Pipe, RelayTrust, accept, dial
from tests.admin.fake_relay import TOKEN
from tests.lab.pairs import exchange
from tests.lab.processes import PATIENCE_S, RelayProcess

SIZE = 300_000


def admin_port(relay: RelayProcess) -> int:
    """Where the relay says that its admin listener is."""
    for line in relay.log():
        if found := re.search(
            r"admin listener on http://127\.0\.0\.1:(\d+)$", str(line["message"])
        ):
            return int(found[1])
    raise AssertionError("the relay has not said where its admin listener is")


def ask(port: int, path: str, method: str = "GET", token: str | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        is_json = "json" in answer.getheader("content-type", "")
        return answer.status, json.loads(body) if is_json else body.decode()
    finally:
        connection.close()


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def metric(port: int, name: str, **labels: str) -> float:
    _, text = ask(port, "/metrics")
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "quicpipe_relay_" + name and sample.labels == labels
    )


def through_a_pipe(relay: RelayProcess, look: Callable[[], None]) -> None:
    """Send something through a pipe, then look at the relay while the pipe is open."""

    async def main() -> None:
        async with (
            asyncio.timeout(4 * PATIENCE_S),
            await dial(
                str(relay.address),
                auth=InviteKey(),
                trust=RelayTrust(),
                path_policy=PathPolicy.RELAY_ONLY,
            ) as dialing,
        ):
            answering = asyncio.create_task(
                accept(dialing.invite, path_policy=PathPolicy.RELAY_ONLY)
            )
            dialer: Pipe = await dialing.pipe()
            async with await answering as accepter:
                await exchange(dialer, accepter, SIZE)
                await asyncio.to_thread(look)
                await dialer.close()
                await accepter.wait_closed()

    asyncio.run(main())


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "admin.token"
    file.write_text(TOKEN + "\n")
    return file


def test_a_pipe_is_seen_with_what_it_sent(tmp_path: Path) -> None:
    options = ["--admin-listen", "127.0.0.1:0"]
    with RelayProcess(tmp_path, options=options) as relay:
        port = admin_port(relay)

        def look() -> None:
            def sent() -> Any:
                _, page = ask(port, "/v1/registrations?order=bytes")
                both = page["registrations"]
                return both if len(both) == 2 and both[1]["bytes"] > SIZE else None

            both = until(sent)
            assert all(each["held"] and each["forwarded_by"] == "userspace" for each in both)
            assert all(each["userspace"]["bytes"] == each["bytes"] for each in both)
            overview = ask(port, "/v1/overview")[1]
            assert overview["registrations"] == 2
            until(lambda: metric(port, "forwarded_bytes_total", by="userspace") > 2 * SIZE)
            _, told = ask(port, "/v1/events?backlog=100&duration=0")
            assert told.count("event: created") == 2

        through_a_pipe(relay, look)
        assert relay.stop() == 0


def test_a_limit_that_is_hit_is_seen_and_an_operator_makes_room(
    tmp_path: Path, token_file: Path
) -> None:
    options = ["--admin-listen", "127.0.0.1:0", "--admin-token-file", str(token_file)]
    options += ["--limits-registrations", "1"]
    with RelayProcess(tmp_path, options=options) as relay:
        port = admin_port(relay)
        reason = "registrations_full"
        assert metric(port, "refused_total", reason=reason) == 0

        async def one_too_many() -> None:
            async with (
                asyncio.timeout(PATIENCE_S),
                await dial(str(relay.address), auth=InviteKey(), trust=RelayTrust()) as dialing,
            ):
                accepting = asyncio.create_task(accept(dialing.invite))
                await asyncio.to_thread(
                    until, lambda: metric(port, "refused_total", reason=reason) >= 1
                )
                accepting.cancel()
                await asyncio.gather(accepting, return_exceptions=True)
                await asyncio.to_thread(make_room)

        def make_room() -> None:
            (one,) = ask(port, "/v1/registrations")[1]["registrations"]
            path = f"/v1/registrations/{one['id']}"
            assert ask(port, path, "DELETE")[0] == 401
            assert ask(port, path, "DELETE", TOKEN)[0] == 204
            assert ask(port, path)[0] == 404
            assert "ended_by_operator" in ask(port, "/v1/events?backlog=99&duration=0")[1]

        asyncio.run(one_too_many())
        assert ask(port, "/v1/overview")[1]["refused"][reason] >= 1
        _, told = ask(port, "/v1/events?kind=refused&backlog=9&duration=0")
        assert f'"reason": "{reason}"' in told
        assert any(line["message"] == "refused a request" for line in relay.log())


def test_a_reload_takes_another_token_and_keeps_the_old_one_if_that_is_none(
    tmp_path: Path, token_file: Path
) -> None:
    options = ["--admin-listen", "127.0.0.1:0", "--admin-token-file", str(token_file)]
    options.append("--admin-protect-reads")
    with RelayProcess(tmp_path, options=options) as relay:
        port = admin_port(relay)
        assert ask(port, "/health")[0] == 200
        assert ask(port, "/v1/overview")[0] == 401
        assert ask(port, "/v1/overview", token=TOKEN)[0] == 200
        token_file.write_text("short")
        os.kill(relay.pid, signal.SIGHUP)
        until(lambda: any("nothing is reloaded" in str(line["message"]) for line in relay.log()))
        assert ask(port, "/v1/overview", token=TOKEN)[0] == 200
        token_file.write_text("another-token-for-operators")
        os.kill(relay.pid, signal.SIGHUP)
        until(lambda: ask(port, "/v1/overview", token="another-token-for-operators")[0] == 200)
        assert ask(port, "/v1/overview", token=TOKEN)[0] == 401


def test_a_port_that_is_taken_ends_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with RelayProcess(tmp_path / "one", options=["--admin-listen", "127.0.0.1:0"]) as relay:
        taken = f"127.0.0.1:{admin_port(relay)}"
        with pytest.raises(RuntimeError, match=f"cannot listen on {taken}"):
            RelayProcess(tmp_path / "two", options=["--admin-listen", taken]).start()


def test_it_ends_in_time_while_somebody_follows_the_events(tmp_path: Path) -> None:
    with RelayProcess(tmp_path, options=["--admin-listen", "127.0.0.1:0"]) as relay:
        connection = http.client.HTTPConnection("127.0.0.1", admin_port(relay), timeout=PATIENCE_S)
        connection.request("GET", "/v1/events")
        answer = connection.getresponse()
        began = time.monotonic()
        assert relay.stop() == 0
        assert time.monotonic() - began < 5.0
        assert answer.read().decode().endswith("event: end\ndata: {}\n\n")
        connection.close()
