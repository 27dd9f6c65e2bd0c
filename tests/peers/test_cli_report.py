"""What `--verbose` says of a pipe at its end."""

import asyncio
import re
from dataclasses import replace
from typing import cast

import pytest

from peers.auth import InviteKey
from peers.cli.session import TOLD_AFTER_S, _report, _tell_of_search
from peers.paths.candidate import Kind
from peers.paths.driver import no_paths
from peers.paths.path import Direct
from peers.paths.report import PairReport, PairState, PathReport
from peers.pipe import Pipe
from relay.wire.address import Address
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


class _ToldPipe:
    """Only says where it goes."""

    def __init__(self, report: PathReport) -> None:
        self.report = report

    def paths(self) -> PathReport:
        return self.report


BEGUN = replace(no_paths(True), has_given_up=False)
TRIED = PairReport(
    2, Address("192.0.2.1", 4000), Kind.OUTSIDE, PairState.FAILED, "no answer", None, 0.0, 9, 0
)


def test_why_a_pipe_stays_on_the_relay_is_told_while_it_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main() -> None:
        begun = replace(BEGUN, searching="round 1", pairs=(TRIED,))
        pipe = _ToldPipe(begun)
        telling = asyncio.create_task(_tell_of_search(cast(Pipe, pipe)))
        await asyncio.sleep(TOLD_AFTER_S - 1)
        assert capsys.readouterr().err == ""
        await asyncio.sleep(2)
        said = capsys.readouterr().err
        assert said.startswith("quicpipe: path: by the relay")
        assert "tried: outside 192.0.2.1:4000: failed, no answer" in said
        for _ in range(2):
            pipe.report = replace(begun, searching="it is hopeless", has_given_up=True)
            await asyncio.sleep(60)
            assert capsys.readouterr().err == "quicpipe: search: it is hopeless\n"
            pipe.report = begun
            await asyncio.sleep(60)
            assert capsys.readouterr().err == ""
        telling.cancel()

    run_virtual(main())


def test_a_direct_pipe_is_not_explained_before_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        direct = replace(BEGUN, current=Direct(1, TRIED.remote))
        telling = asyncio.create_task(_tell_of_search(cast(Pipe, _ToldPipe(direct))))
        await asyncio.sleep(100)
        telling.cancel()

    run_virtual(main())
    assert capsys.readouterr().err == ""


def test_one_address_tried_from_two_sockets_is_told_apart() -> None:
    other = replace(TRIED, socket=7, state=PairState.VALID, why="")
    lines = replace(no_paths(True), pairs=(TRIED, other)).lines()
    assert "tried: outside 192.0.2.1:4000 from socket 2: failed, no answer" in lines
    assert "tried: outside 192.0.2.1:4000 from socket 7: valid" in lines
