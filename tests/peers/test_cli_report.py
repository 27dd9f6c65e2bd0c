"""What `--verbose` says of a pipe at its end."""

import asyncio
import re

import pytest

from peers.auth import InviteKey
from peers.cli.session import _report
from tests.lab.virtual_loop import run_virtual
from tests.peers.pipe_pair import Link, joined


def test_a_round_trip_that_was_not_measured_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        link = Link()
        waiting, _ = link.dial(InviteKey(), 60.0)
        _report(waiting)
        link.stop()

    run_virtual(main())
    assert "round trip unknown" in capsys.readouterr().err


def test_a_round_trip_is_told_in_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with joined(Link(latency_s=0.02)) as (dialer, _):
            await asyncio.sleep(0.5)
            _report(dialer)

    run_virtual(main())
    assert re.search(r"round trip 4\d\.\d ms$", capsys.readouterr().err)
