"""What `--verbose` says of a pipe at its end."""

import asyncio
import re
from dataclasses import replace
from typing import cast

import pytest

from peers.auth import InviteKey
from peers.cli.options import Options
from peers.cli.session import TOLD_AFTER_S, _describe, _report, _tell_of_search
from peers.paths.candidate import Kind
from peers.paths.driver import no_paths
from peers.paths.pair import Pair
from peers.paths.path import RELAY, Direct
from peers.paths.report import Change, PairReport, PairState, PathReport
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


def test_a_path_that_has_worked_says_so_when_it_fails_again() -> None:
    pair = Pair(1, TRIED.remote, Kind.OUTSIDE)
    pair.request_came(0.0)
    pair.answer_came(72, 0.0, 0.02)
    pair.answer_came(1200, 0.0, 0.02)
    (valid,) = replace(no_paths(True), pairs=(pair.report(),)).lines()[2:-1]
    assert valid == "tried: outside 192.0.2.1:4000: valid, 20.0 ms, 0% lost"
    pair.fail("worked, then: keepalives are not answered", 1.0)
    assert pair.report().why == "worked, then: keepalives are not answered"
    pair.plan(2.0, (0.0,))
    assert pair.due(2.0) == 72
    assert pair.due(9.0) is None
    (failed,) = replace(no_paths(True), pairs=(pair.report(),)).lines()[2:-1]
    assert failed == (
        "tried: outside 192.0.2.1:4000: failed, 20.0 ms when it answered, worked before; now:"
        " no answer"
    )


def test_without_the_relay_a_lost_path_is_none() -> None:
    change = Change(0.0, RELAY, "its socket is closed")
    options = Options()
    assert _describe(change, options) == "path: by the relay (its socket is closed)"
    options.direct_only = True
    assert _describe(change, options) == (
        "path: none; nothing is sent by the relay (its socket is closed)"
    )


def test_one_address_tried_from_two_sockets_is_told_apart() -> None:
    other = replace(TRIED, socket=7, state=PairState.VALID, why="")
    lines = replace(no_paths(True), pairs=(TRIED, other)).lines()
    assert "tried: outside 192.0.2.1:4000 from socket 2: failed, no answer" in lines
    assert "tried: outside 192.0.2.1:4000 from socket 7: valid" in lines
