"""What Prometheus scrapes."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.admin.metrics import MAX_VALUES, bounded
from relay.core.admission import Grant, TokenRefusal
from relay.core.destinations import DestinationRefusal
from relay.core.events import EventKind
from relay.core.outcome import Outcome
from relay.core.quota import RegistryRefusal
from relay.http3.report import Failure, Refused
from tests.admin.fake_relay import FakeRelay, running

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(relay: FakeRelay, registrations: int = 0) -> Samples:
    async def main() -> str:
        async with running(relay) as listener:
            for key in range(1, registrations + 1):
                grant = Grant(f"subject-{key}", f"t{key}", 2e9, 3600.0)
                relay.register(port=key, key=key, grant=grant)
            answer = await listener.ask("/metrics")
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            return answer.text

    text = asyncio.run(main())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples["quicpipe_relay_" + name, tuple(sorted(labels.items()))]


def test_counters_have_what_the_relay_counted() -> None:
    relay = FakeRelay(kernel={"forwarded": 40, "rate_limited": 3}, bytes_forwarded=12_000)
    relay.outcomes[Outcome.FORWARDED] = 10
    relay.outcomes[Outcome.UNKNOWN_CID] = 4
    relay.refused["registrations_of_source_full"] = 2
    samples = scrape(relay, registrations=3)
    assert value(samples, "datagrams_total", outcome="forwarded") == 10
    assert value(samples, "kernel_frames_total", outcome="forwarded") == 40
    assert value(samples, "drops_total", reason="unknown_cid") == 4
    assert value(samples, "drops_total", reason="kernel_rate_limited") == 3
    assert value(samples, "forwarded_bytes_total", by="userspace") == 12_000
    assert value(samples, "refused_total", reason="registrations_of_source_full") == 2
    assert value(samples, "registrations") == 3
    assert value(samples, "http3_pauses_total") == 0
    assert value(samples, "connection_ids") == 6
    assert value(samples, "limit", of="registrations") == 100_000
    assert value(samples, "events_total", kind="created") == 3


def test_every_reason_is_there_before_it_happens() -> None:
    samples = scrape(FakeRelay())
    for outcome in Outcome:
        assert value(samples, "datagrams_total", outcome=outcome) == 0
    for reason in (*TokenRefusal, *RegistryRefusal, *DestinationRefusal):
        assert value(samples, "refused_total", reason=reason) == 0
    for refused in Refused:
        assert value(samples, "http3_refused_total", reason=refused) == 0
    for failure in Failure:
        assert value(samples, "http3_failed_total", reason=failure) == 0
    for kind in EventKind:
        assert value(samples, "events_total", kind=kind) == 0


def test_registrations_make_no_time_series() -> None:
    few, many = scrape(FakeRelay()), scrape(FakeRelay(), registrations=50)
    assert few.keys() == many.keys()


def test_a_label_has_a_bounded_number_of_values() -> None:
    values = {f"reason-{number}": 1 for number in range(MAX_VALUES + 30)}
    kept = bounded(values)
    assert len(kept) == MAX_VALUES + 1
    assert kept["other"] == 30
    assert len(bounded(dict(list(values.items())[:MAX_VALUES]))) == MAX_VALUES


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics"),
        ("application/openmetrics-text; escaping=evil", "application/openmetrics"),
        ("text/plain", "text/plain"),
        ("*/*", "text/plain"),
        ("nonsense;;==,", "text/plain"),
    ],
)
def test_the_format_is_what_the_client_accepts(accept: str, given: str) -> None:
    async def main() -> None:
        async with running() as listener:
            answer = await listener.ask("/metrics", headers=[("Accept", accept)])
            assert answer.status == 200
            assert answer.headers["content-type"].startswith(given)
            assert "evil" not in answer.headers["content-type"]
            assert answer.text.endswith("# EOF\n") == (given != "text/plain")

    asyncio.run(main())
