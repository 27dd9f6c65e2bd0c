"""Ten thousand handshakes that nobody finishes: what they cost, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from relay.http3.server import Http3Limits

PEAK_KB = 100 * 1024
AFTER_A_MINUTE_KB = 20 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc/self/statm")
def test_memory_under_a_flood_of_handshakes() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.relay.half_open_flood"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    forged, answered = (json.loads(line) for line in run.stdout.splitlines())
    for result in (forged, answered):
        assert result["peak_kb"] < PEAK_KB
        assert result["after_a_minute_kb"] < AFTER_A_MINUTE_KB
        assert result["half_open_after_a_minute"] == 0
    limits = Http3Limits()
    assert forged["most_half_open"] == limits.retry_above_half_open
    assert forged["retried"] == 10_000 - limits.retry_above_half_open
    assert answered["most_half_open"] == limits.max_half_open
