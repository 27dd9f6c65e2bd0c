"""What the service manager is told, by the code and by a whole relay."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.lifecycle.notify import ServiceManager, without_manager
from tests.lab.processes import PROJECT, environment
from tests.lifecycle.manager import PATIENCE_S, Manager


@pytest.fixture(params=[False, True], ids=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify", abstract=request.param)
    yield made
    made.close()


def test_each_message_is_one_datagram(manager: Manager) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": manager.name})
    before = time.monotonic_ns() // 1000
    told.ready("listening\non 127.0.0.1:1")
    told.reloading()
    told.stopping()
    told.status("x" * 5000)
    told.alive()
    told.main_process(42)
    assert manager.next() == {"READY": "1", "STATUS": "listening on 127.0.0.1:1"}
    reloading = manager.next()
    assert before <= int(reloading.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert reloading == {"RELOADING": "1"}
    assert manager.next() == {"STOPPING": "1"}
    assert len(manager.next()["STATUS"]) == 1000
    assert manager.next() == {"WATCHDOG": "1"}
    assert manager.next() == {"MAINPID": "42"}


@pytest.mark.parametrize("name", ["", "relative", "/nonexistent/socket", "@", "@nobody-listens"])
def test_without_a_manager_nothing_happens(name: str) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": name} if name else {})
    told.ready()
    told.status("")
    told.alive()


def test_a_manager_that_reads_nothing_holds_nobody_up(tmp_path: Path) -> None:
    silent = Manager(tmp_path / "notify")
    told = ServiceManager({"NOTIFY_SOCKET": silent.name})
    began = time.monotonic()
    for _ in range(10_000):
        told.alive()
    assert time.monotonic() - began < PATIENCE_S
    silent.close()


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 30}, None),
    ],
)
def test_how_often_the_manager_wants_to_hear(
    variables: dict[str, str], interval_s: float | None
) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": "/run/notify", **variables})
    assert told.watchdog_interval_s == interval_s
    assert ServiceManager(variables).watchdog_interval_s is None  # nobody would hear


def test_what_was_passed_to_one_process_is_not_for_another() -> None:
    variables = {"LISTEN_FDS": "1", "LISTEN_PID": "2", "LISTEN_FDNAMES": "x", "WATCHDOG_PID": "3"}
    kept = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "5", "HOME": "/root"}
    assert without_manager({**variables, **kept}) == kept


def test_a_relay_tells_its_manager_of_its_whole_life(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('listen = ["127.0.0.1:0"]\nworkers = 1\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "--config", str(file)],
        env=environment(
            STATE_DIRECTORY=str(tmp_path), NOTIFY_SOCKET=manager.name, WATCHDOG_USEC="200000"
        ),
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready = manager.until(lambda message: "READY" in message)
        assert ready["STATUS"].startswith("listening on 127.0.0.1:")
        for _ in range(3):
            assert manager.next(5.0) == {"WATCHDOG": "1"}
        process.send_signal(signal.SIGHUP)
        manager.until(lambda message: "RELOADING" in message)
        assert manager.until(lambda message: "READY" in message) == ready
        file.write_text("lisen = 5\n")
        process.send_signal(signal.SIGHUP)
        manager.until(lambda message: "RELOADING" in message)
        failed = manager.until(lambda message: "READY" in message)  # it serves on
        assert failed["STATUS"].startswith(f"nothing is reloaded: {file}: lisen: there is no such")
        process.terminate()
        assert manager.until(lambda message: "STOPPING" in message)["STATUS"] == "ending"
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
