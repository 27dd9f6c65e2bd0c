"""The example, as it is run by hand: `python -m example.dialer | python -m example.accepter`."""

import base64
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers import Invite
from tests.lab.processes import RelayProcess
from tests.peers.command import TIMEOUT_S, Command, started


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def relay(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with RelayProcess(tmp_path_factory.mktemp("relay"), request.param, workers=1) as process:
        yield str(process.address)


def read_line(command: Command) -> bytes:
    line = command.stdout.readline()
    assert line, command.finish().err
    return line


def test_the_dialer_prints_one_line_and_the_accepter_prints_hello_every_second(
    relay: str, tmp_path: Path
) -> None:
    variables = {"QHOST": relay}
    with (
        started(module="example.dialer", home=tmp_path, variables=variables) as dialer,
        started(module="example.accepter", home=tmp_path, variables=variables) as accepter,
    ):
        line = read_line(dialer)
        assert len(base64.b64decode(json.loads(line)["packet"], validate=True)) >= 1200
        assert str(Invite.decode(line).relay) == relay
        accepter.stdin.write(line)
        accepter.stdin.flush()
        assert [read_line(accepter) for _ in range(3)] == [b"hello\n"] * 3
        # The dialer's end reaches the accepter.
        dialer.process.send_signal(signal.SIGINT)
        ended = accepter.finish()
        interrupted = dialer.finish()
    assert interrupted.out == b""
    assert interrupted.code == 130
    assert ended.code == 0
    assert "connected to whoever has the invite" in interrupted.err
    assert "connected to whoever has the invite" in ended.err


def test_joined_by_a_pipe(relay: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with started(
        module="example.dialer", home=tmp_path, variables={"QHOST": relay}, stdout=writer
    ) as dialer:
        os.close(writer)
        with started(module="example.accepter", home=tmp_path, stdin=reader) as accepter:
            os.close(reader)
            assert read_line(accepter) == b"hello\n"
            accepter.process.send_signal(signal.SIGINT)
            assert accepter.finish().code == 130
            # It says hello to nobody, and notices.
            lost = dialer.finish()
    assert lost.code == 1
    assert lost.err.splitlines()[-1].startswith("dialer: ")


def test_the_server_is_a_relay_at_qhost(tmp_path: Path) -> None:
    with started(
        module="example.server",
        home=tmp_path,
        variables={"QHOST": "127.0.0.1:0", "XDG_STATE_HOME": str(tmp_path)},
    ) as server:
        assert read_line(server).startswith(b"quicpipe-relay listening on 127.0.0.1:")
        server.process.terminate()
        assert server.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("line", [b"", b"hello\n", b"{}\n", b"\xff\n", b"x" * 100_000])
def test_the_accepter_refuses_rubbish_in_one_line(line: bytes, tmp_path: Path) -> None:
    with started(module="example.accepter", home=tmp_path) as accepter:
        result = accepter.finish(line)
    assert result.code == 1
    assert result.complaint.startswith("accepter: ")


def test_the_dialer_says_that_there_is_no_relay(tmp_path: Path) -> None:
    variables = {"QHOST": "no-such-host.invalid"}
    with started(module="example.dialer", home=tmp_path, variables=variables) as dialer:
        result = dialer.finish()
    assert result.code == 1
    assert "no-such-host.invalid" in result.complaint
