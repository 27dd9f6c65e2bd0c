"""The web page in a real browser: it shows what the relay says, live, and nothing else gets in."""

import asyncio
from pathlib import Path

import pytest

from relay.admin.guard import Rules
from relay.admin.page import Page
from relay.admin.service import TICK_S
from relay.core.admission import Grant
from relay.core.outcome import Outcome
from tests.admin.chromium import Tab, browser, size_of_png
from tests.admin.fake_relay import TOKEN, FakeRelay, Running, running


def text(id: str) -> str:
    return f"document.getElementById('{id}').textContent"


def busy_relay(listener: Running, registrations: int = 12) -> None:
    """Some registrations that send, at different rates."""
    relay, sight = listener.relay, listener.sight
    for key in range(1, registrations + 1):
        subject = ("alice", "bob", "<img src=x onerror=alert(1)>")[key % 3]
        grant = Grant(subject, f"t{key}", 2e9, 3600.0) if key % 4 else None
        relay.register(f"198.51.100.{key}", 5000 + key, key=key, grant=grant)
    for second in range(40):
        for owner, registration in relay.registry.by_owner.items():
            size = 1200 * (owner + 1) * (10 + second % 7)
            sight.watch.forwarded(registration.path.remote, 10 * (owner + 1), size)
            relay.outcomes[Outcome.FORWARDED] += 10 * (owner + 1)
            relay.bytes_forwarded += size
        relay.outcomes[Outcome.UNKNOWN_CID] += 3 * (second % 5)
        relay.outcomes[Outcome.RATE_LIMITED] += 2
        relay.now += TICK_S
        sight.tick()


async def tick(listener: Running) -> None:
    listener.relay.now += TICK_S
    step = listener.sight.tick()
    assert step is not None
    listener.made.streams.sample(step)


def complaints(tab: Tab) -> list[object]:
    """What the browser did not like: refused by the policy, or a script that failed."""
    bad = [each for each in tab.events if each["method"] == "Runtime.exceptionThrown"]
    bad += [
        each
        for each in tab.events
        if each["method"] == "Log.entryAdded" and each["params"]["entry"]["level"] == "error"
    ]
    return [*bad]


def test_the_page_shows_the_relay_live(tmp_path: Path) -> None:
    shot = tmp_path / "page.png"

    async def main() -> None:
        async with running() as listener, browser() as tab:
            busy_relay(listener)
            relay = listener.relay
            relay.refused["registrations_of_source_full"] = 7
            await tab.go(f"http://127.0.0.1:{listener.port}/")
            await tab.until(f"{text('count')} === '12'")
            assert await tab.evaluate(text("state")) == "running"
            await tab.until("document.querySelectorAll('#rows tr').length === 12")
            for seen in ("unknown cid", "refused: registrations of source full"):
                await tab.until(f"{text('drops')}.includes('{seen}')")
            await tab.until(f"{text('bytes')}.includes('Mbit/s')")
            first = "document.querySelector('#rows tr td:nth-child(2)').textContent"
            assert await tab.evaluate(first) == "198.51.100.12:5012", "the busiest first"
            await tab.until("document.querySelector('#chart-bytes polyline') !== null")
            # Live: an event, then a sample with what changed.
            name = relay.register("203.0.113.9", 4433, key=99)
            await tab.until(f"{text('events')}.includes('203.0.113.9:4433')")
            await tick(listener)
            await tab.until(f"{text('count')} === '13'")
            relay.end(name)
            await tab.until(f"{text('events')}.includes('ended by operator')")
            # What strangers say is text and nothing else.
            assert "<img" in await tab.evaluate(text("rows"))
            assert await tab.evaluate("document.querySelectorAll('img').length") == 0
            assert complaints(tab) == []
            shot.write_bytes(await tab.screenshot())
            assert size_of_png(shot.read_bytes())[0] >= 1200

    asyncio.run(main())


def test_the_page_asks_for_the_token_where_reading_wants_it() -> None:
    async def main() -> None:
        rules = Rules(token=TOKEN, reads_want_token=True)
        async with running(rules=rules) as listener, browser() as tab:
            listener.relay.register()
            await tab.go(f"http://127.0.0.1:{listener.port}/")
            await tab.until("document.getElementById('ask').hidden === false")
            for given, then in (
                ("wrong", f"{text('wrong')} === 'that is not it'"),
                (TOKEN, f"{text('count')} === '1'"),
            ):
                await tab.evaluate(
                    f"document.getElementById('token').value = '{given}';"
                    "document.getElementById('login').requestSubmit()"
                )
                await tab.until(then)
            assert await tab.evaluate("document.getElementById('ask').hidden")
            stored = await tab.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
            assert TOKEN not in stored

    asyncio.run(main())


def test_the_page_tries_again_when_the_relay_comes_back() -> None:
    async def main() -> None:
        async with running() as listener, browser() as tab:
            url = f"http://127.0.0.1:{listener.port}/"
            await tab.go(url)
            await tab.until(f"{text('state')} === 'running'")
            address = listener.server.addresses
            listener.made.streams.close()
            await listener.server.stop()
            await tab.until(f"{text('state')}.includes('trying again')")
            other = FakeRelay()
            async with running(other, listen=address) as second:
                assert second.port
                other.register()
                await tab.until(f"{text('state')} === 'running' && {text('count')} === '1'")

    asyncio.run(main())


def test_no_other_site_can_read_the_page_or_the_api() -> None:
    async def main() -> None:
        async with running() as listener, running() as elsewhere, browser() as tab:
            await tab.go(f"http://127.0.0.1:{elsewhere.port}/openapi.json")
            asked = f"http://127.0.0.1:{listener.port}/v1/overview"
            script = f"fetch('{asked}').then(() => 'read', () => 'refused')"
            assert await tab.evaluate(script) == "refused"

    asyncio.run(main())


def test_the_policy_names_the_page_s_own_script_and_style_and_nothing_else() -> None:
    page = Page.load()
    policy = page.headers["content-security-policy"]
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    for word in ("http:", "https:", "src=", "@import", "url(", " style=", "onclick", "innerHTML"):
        assert word.encode() not in page.html.replace(b"http://www.w3.org/2000/svg", b""), word


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_on_a_small_screen(scheme: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running() as listener, browser(width=500, height=900) as tab:
            busy_relay(listener)
            await tab.call(
                "Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}],
            )
            await tab.go(f"http://127.0.0.1:{listener.port}/")
            await tab.until(f"{text('count')} === '12'")
            page = "document.documentElement"
            assert await tab.evaluate(f"{page}.scrollWidth <= {page}.clientWidth")
            (tmp_path / f"{scheme}.png").write_bytes(await tab.screenshot())

    asyncio.run(main())
