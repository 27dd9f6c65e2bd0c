"""The units, judged by systemd itself; and a relay that is upgraded under a service manager."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config import Chosen
from tests.lab.processes import PROJECT, wait_until_gone
from tests.lifecycle.living import LivingRelay, two_peers
from tests.lifecycle.manager import PATIENCE_S, Manager

SYSTEMD = PROJECT / "packaging" / "systemd"
ANALYZE = shutil.which("systemd-analyze")

needs_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="there is no systemd-analyze: apt-get install systemd"
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies, whose programs are there."""
    for file in SYSTEMD.glob("quicpipe-relay.*"):
        text = file.read_text().replace("/opt/quicpipe/bin/quicpipe-relay", "/bin/true")
        (tmp_path / file.name).write_text(text)
    return tmp_path


def with_kernel_path(units: Path) -> None:
    folder = units / "quicpipe-relay.service.d"
    folder.mkdir()
    shutil.copy(SYSTEMD / "kernel-path.conf", folder)


def analyze(units: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    assert ANALYZE is not None
    return subprocess.run(
        [ANALYZE, *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@needs_systemd
@pytest.mark.parametrize("kernel_path", [False, True])
def test_systemd_finds_nothing_wrong(units: Path, kernel_path: bool) -> None:
    if kernel_path:
        with_kernel_path(units)
    for name in ("quicpipe-relay.service", "quicpipe-relay.socket"):
        done = analyze(units, "verify", "--man=no", str(units / name))
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_systemd_would_find_what_is_wrong(units: Path) -> None:
    unit = units / "quicpipe-relay.service"
    unit.write_text(unit.read_text().replace("NoNewPrivileges", "NoNewPriviliges"))
    done = analyze(units, "verify", "--man=no", str(unit))
    assert "NoNewPriviliges" in done.stderr


@needs_systemd
def test_its_exposure_is_small(units: Path) -> None:
    unit = str(units / "quicpipe-relay.service")
    done = analyze(units, "security", "--offline=yes", "--no-pager", unit)
    (line,) = [line for line in done.stdout.splitlines() if "Overall exposure level" in line]
    assert line.split(":")[1].split()[1] in ("OK", "SAFE", "PERFECT"), line


def assignments(name: str, key: str) -> list[str]:
    lines = (SYSTEMD / name).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(key + "=")]


def test_the_sockets_are_those_of_the_settings() -> None:
    file = PROJECT / "packaging" / "relay.toml"
    listen = Chosen({}, {}, file).load().settings.listen
    sockets = Counter(assignments("quicpipe-relay.socket", "ListenDatagram"))
    assert set(sockets) == {str(each) for each in listen}
    assert len(set(sockets.values())) == 1  # as many of each: one for each worker
    assert assignments("quicpipe-relay.socket", "ReusePort") == ["yes"]


def test_its_folders_are_those_of_the_settings() -> None:
    settings = Chosen({}, {}, PROJECT / "packaging" / "relay.toml").load().settings
    state, runtime = (
        assignments("quicpipe-relay.service", key) for key in ("StateDirectory", "RuntimeDirectory")
    )
    assert [f"/var/lib/{each}" for each in state] == [str(settings.state_directory)]
    assert [f"/run/{each}/control.sock" for each in runtime] == [str(settings.control_socket)]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_an_upgrade_names_its_successor_before_that_speaks(
    manager: Manager, tmp_path: Path
) -> None:
    """By NotifyAccess=main systemd believes the main process only: first the one that leaves,
    from its last word on the other."""
    relay = LivingRelay(tmp_path, NOTIFY_SOCKET=manager.name, WATCHDOG_USEC="100000000")
    with relay, two_peers(relay) as traffic:
        first = int(str(relay.status()["process"]))
        assert "READY" in manager.until(lambda message: "READY" in message)
        assert manager.senders[-1] == first
        assert relay.command("upgrade").returncode == 0
        second = int(str(relay.status()["process"]))
        main = first
        while True:
            message = manager.next()
            if manager.senders[-1] != main:
                continue  # systemd does not hear it
            if "MAINPID" in message:
                assert int(message["MAINPID"]) == second
                main = second
            if "READY" in message and main == second:
                break
        assert message["STATUS"].startswith("listening on ")
        traffic.wait_for_more()
        os.kill(second, signal.SIGTERM)
        manager.until(lambda message: "STOPPING" in message)
        assert manager.senders[-1] == second
        wait_until_gone([second])
