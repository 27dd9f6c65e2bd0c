"""The demonstration, as `make demo` runs it."""

import re
import signal
import subprocess

from example.demo import SIZE
from peers.quic.handshake import SMALLEST_INITIAL
from tests.lab.processes import (
    PATIENCE_S,
    PROJECT,
    PYTHON,
    children_of,
    environment,
    wait_until_gone,
)

COMMAND = (PYTHON, "-m", "example.demo")


def test_all_of_it_goes_through_the_relay() -> None:
    done = subprocess.run(
        COMMAND,
        env=environment(),
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for number in (1, 2, 3):
        assert f"accepter received: hello {number}\n" in done.stdout
    assert "both ways whole" in done.stdout
    forwarded = re.search(r"^  forwarded  (\d+) packets$", done.stdout, re.MULTILINE)
    assert forwarded is not None
    assert int(forwarded[1]) > 2 * SIZE / SMALLEST_INITIAL


def test_ctrl_c_ends_all_that_it_has_started() -> None:
    with subprocess.Popen(
        COMMAND,
        env=environment(),
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "hello 1" in line:
                break
        started = children_of(demo.pid)
        assert len(started) == 3
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE_S) == 130
    wait_until_gone(started)
