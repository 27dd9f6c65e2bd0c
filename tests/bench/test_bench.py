"""The bench measures what it says, stays within its bounds, and its reports can be read."""

import json
import os
import socket
from pathlib import Path as FilePath
from xml.etree import ElementTree

import pytest

from bench import publish
from bench.forwarders import CannotStart, ends, missing, running
from bench.load import Burst, Receiver, Sender, closed_loop, open_loop, quantiles
from bench.measure import Result, Sample, Scenario
from bench.plot import bars, lines
from bench.report import Measured, Ratio, ratios, regressions, to_json, to_markdown
from bench.scenarios import Part, curve, parts
from relay.forwarding.batch_calls import BatchUnavailable, load_calls
from tests.bpf.lab import skip_without_rights
from tests.netns.lab import Lab

try:
    load_calls()
except BatchUnavailable as reason:
    pytest.skip(f"no batched calls: {reason}", allow_module_level=True)

CORE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


@pytest.mark.parametrize("name", ["none", "c", "c-gro", "coturn", "plain", "batch"])
def test_what_is_sent_arrives_both_ways(name: str) -> None:
    if name in missing():
        pytest.skip(missing()[name])
    _send_both_ways(name)


def test_what_the_kernel_forwards_arrives_both_ways() -> None:
    skip_without_rights()
    lab = Lab()
    try:
        with lab.host().entered():
            _send_both_ways("xdp")
    finally:
        lab.close()


def _send_both_ways(name: str) -> None:
    with ends(30) as between, running(name, between, CORE) as forwarder:
        prefix = b"\x40\0\0\x64" if forwarder.is_turn else b""
        flows = [
            (
                Sender(between.a, forwarder.to_b, Burst(100, prefix=prefix), between.ids_b),
                Receiver(between.b, timed=True),
            ),
            (
                Sender(between.b, forwarder.to_a, Burst(100), between.ids_a),
                Receiver(between.a, timed=True, prefix=len(prefix)),
            ),
        ]
        counts = open_loop(flows, 2000, 0.1, linger=5.0)
        assert counts.sent > 100
        assert counts.received == counts.sent
        times = quantiles([receiver for _, receiver in flows])
        assert 0 < times["p50"] <= times["p99"] <= times["p999"] <= times["max"] < 10e6


@pytest.mark.parametrize("gro", [False, True])
def test_the_datagrams_of_a_gso_message_are_counted(gro: bool) -> None:
    with ends(5) as between, running("batch", between, CORE) as forwarder:
        sender = Sender(between.a, forwarder.to_b, Burst(100, 16), between.ids_b)
        counts = closed_loop([(sender, Receiver(between.b, gro=gro))], 256, 0.1, 0.0)
        assert counts.sent % 16 == 0
        # On a busy machine some may count as lost before they come.
        assert counts.sent - 512 - counts.lost <= counts.received <= counts.sent
        assert counts.received > 16


def test_the_load_stays_on_this_machine_and_ends() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="loopback"):
            Sender(sock, ("192.0.2.1", 9), Burst(100), [bytes(12)])
        with pytest.raises(ValueError, match="30"):
            closed_loop([], 1, 31.0)
        with pytest.raises(ValueError, match="packets/s"):
            open_loop([], 1e9, 1.0)


def test_a_forwarder_that_does_not_come_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.forwarders.shutil.which", lambda name: None)
    assert "coturn is not installed" in missing()["coturn"]
    with ends(1) as between, pytest.raises(CannotStart), running("coturn", between, CORE):
        pass


def result(forwarder: str, scenario: Scenario, per_second: float, delay: float = 30.0) -> Result:
    latency = {"p50": delay, "p99": 2 * delay, "p999": 3 * delay, "max": 9 * delay}
    latency = latency if scenario.rate is not None else {}
    samples = [Sample(per_second * x, 0.01, 2.0, 0.9, latency, 0.0) for x in (0.9, 1.0, 1.2)]
    return Result(scenario, forwarder, samples)


@pytest.fixture
def measured() -> list[Measured]:
    made = []
    for part in (*parts(quick=False), curve(500_000, quick=False)):
        results = [
            result(name, scenario, 1000.0 * (index + 1), 30 - index)
            for scenario in part.scenarios
            for index, name in enumerate(scenario.forwarders)
        ]
        made.append(Measured(part, tuple(results)))
    return made


def test_every_demand_is_compared(measured: list[Measured]) -> None:
    assert len(ratios(measured)) == 10
    found = {each.name: each for each in ratios(measured)}
    assert found["batch loop / C loop, 100 bytes, 1,000 IDs"].value == pytest.approx(5 / 2)
    assert found["p50 of the batch loop / of the C loop, 10,000 packets/s"].value < 1


def test_reports_can_be_read(measured: list[Measured]) -> None:
    kept = json.loads(to_json(measured, {"kernel": "6"}, ["a note"]))
    assert len(kept["parts"]) == len(measured)
    assert kept["parts"][0]["results"][0]["samples"][0]["per_second"] == 900
    table = to_markdown(measured)
    assert "Quicpipe, batch loop" in table
    assert "5,000 (4,500 to 6,000)" in table
    for each in measured:
        timed = each.results[0].scenario.rate is not None
        svg = lines("t", each.results) if timed else bars("t <&>", each.results)
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    ("ratio", "before", "is_worse"),
    [
        (Ratio("x", 0.90, at_least=0.85), 0.95, False),
        (Ratio("x", 0.80, at_least=0.85), 0.95, True),
        (Ratio("x", 1.20, at_least=0.85), 0.95, False),
        (Ratio("x", 1.25, at_most=1.3), 1.2, False),
        (Ratio("x", 1.70, at_most=2.0), 1.2, True),
        (Ratio("y", 0.01, at_least=0.85), 0.95, False),
    ],
)
def test_only_ratios_that_fell_are_regressions(ratio: Ratio, before: float, is_worse: bool) -> None:
    assert bool(regressions([ratio], {"x": before})) is is_worse


def test_a_part_without_scenarios_is_left_out() -> None:
    assert to_markdown([Measured(Part("Nothing", "", ()), ())]) == "### Ratios\n\n\n"


def test_results_are_put_into_the_page(
    measured: list[Measured], tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert publish.main() == 1
    publish.RESULTS.mkdir(parents=True)
    publish.PAGE.parent.mkdir()
    publish.PAGE.write_text("before\n<!-- the run -->\nold\n<!-- end of the run -->\nafter\n")
    (publish.RESULTS / "benchmarks.json").write_text(to_json(measured, {}, []))
    (publish.RESULTS / "benchmarks.md").write_text(to_markdown(measured))
    (publish.RESULTS / "capacity-both-directions.svg").write_text("<svg/>")
    assert publish.main() == 0
    page = publish.PAGE.read_text()
    assert page.startswith("before\n<!-- the run -->\n### Capacity\n")
    assert page.endswith("<!-- end of the run -->\nafter\n")
    assert "old" not in page
    assert "![Capacity, both directions](benchmarks-capacity-both-directions.svg)" in page
    assert (tmp_path / "docs" / "benchmarks-capacity-both-directions.svg").exists()
    kept = json.loads(publish.KEPT.read_text())
    assert len(kept["ratios"]) == 10
    assert "samples" not in kept["parts"][0]["results"][0]
