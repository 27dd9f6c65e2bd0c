"""The dialer moves to another local address, under its real socket and the real kernel."""

import json
import shutil
import subprocess

import pytest

from ..lab.processes import PATIENCE_S, PROJECT, PYTHON, environment
from .conftest import Note

PROMISE_S = 3.0


def _namespaces_are_to_be_had() -> bool:
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    probe = ["unshare", "-rn", "ip", "link", "set", "lo", "up"]
    return subprocess.run(probe, capture_output=True, timeout=PATIENCE_S).returncode == 0


@pytest.mark.skipif(
    not _namespaces_are_to_be_had(), reason="no network namespace of one's own is permitted here"
)
@pytest.mark.parametrize("direction", ["dialer-sends", "dialer-receives"])
def test_transfer_completes_whole(note: Note, direction: str) -> None:
    run = subprocess.run(
        ["unshare", "-rn", PYTHON, "-m", "tests.lab.moving_device", direction],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    note(f"longest pause {result['pause_s']:.2f} s")
    assert result["received"] == result["sent"]
    assert result["pause_s"] < PROMISE_S
