"""Real relays that are upgraded, restarted, killed and ended, with traffic through them."""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.http3_client import RequestFailed, registration
from tests.lab.processes import PATIENCE_S, is_running, wait_until_gone
from tests.lifecycle.living import (
    HOST,
    LivingRelay,
    Peer,
    Traffic,
    free_port,
    two_peers,
)

SETTLE_S = 0.3
"""For the state file to be written."""
LATER_S = 0.06
"""A start takes about ten times as long."""


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[LivingRelay]:
    with LivingRelay(tmp_path) as running:
        yield running


def ended(process: "subprocess.Popen[str]") -> int:
    return process.wait(PATIENCE_S)


def test_an_upgrade_loses_nothing(relay: LivingRelay) -> None:
    before = relay.status()
    with two_peers(relay) as traffic:
        for _ in range(2):
            done = relay.command("upgrade")
            assert done.returncode == 0, done.stderr
            traffic.wait_for_more()
    assert traffic.lost() == []
    assert traffic.twice() == []
    after = relay.status()
    assert f"process {after['process']} goes on" in done.stdout
    assert after["process"] != before["process"]
    assert after["registrations"] == 2
    assert after["certificate"] == before["certificate"]
    wait_until_gone([int(str(before["process"]))])


def test_a_relay_started_with_the_same_settings_takes_over(relay: LivingRelay) -> None:
    first = int(str(relay.status()["process"]))
    with two_peers(relay) as traffic:
        second = relay.start()
        wait_until_gone([first])
        traffic.wait_for_more()
        assert relay.status()["process"] == second.pid
    assert traffic.lost() == []
    socket_file = relay.folder / "state" / "control.sock"
    assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
    second.terminate()
    assert ended(second) == 0
    assert not socket_file.exists()


def test_the_one_that_leaves_tells_its_clients(relay: LivingRelay) -> None:
    """They come back at once, and find their registrations with the next one."""
    peer = Peer(relay.address)
    peer.register(count=3)
    client = peer.client
    assert client is not None
    relay.start()
    with pytest.raises(RequestFailed, match="ended the connection"):
        client.wait(client.request("GET", "/health"))
    peer.connect()
    status, body = peer.ask("POST", "/v1/register", body_of(peer, 4))
    assert (status, b'"connection_ids": 4' in body) == (200, True)
    assert relay.status()["registrations"] == 1
    peer.close()


def body_of(peer: Peer, count: int) -> bytes:
    return registration(peer.key, count)


def test_addresses_may_come_and_go_at_a_take_over(relay: LivingRelay) -> None:
    port = free_port()
    first = int(str(relay.status()["process"]))
    with two_peers(relay) as traffic:
        relay.write("")
        text = relay.file.read_text()
        relay.file.write_text(text.replace("[", f'["{HOST}:{port}", ').replace("= 2", "= 3"))
        relay.start()
        wait_until_gone([first])
        traffic.wait_for_more()
        status = relay.status()
        assert status["listeners"] == [f"{HOST}:{port}", f"{HOST}:{relay.port}"]
        workers = status["workers"]
        assert isinstance(workers, list)
        assert len(workers) == 3
    assert traffic.twice() == []


def test_a_successor_with_wrong_settings_changes_nothing(relay: LivingRelay) -> None:
    before = relay.status()["process"]
    with two_peers(relay) as traffic:
        relay.write("worker = 3\n")
        done = relay.command("upgrade")
        assert done.returncode == 2  # the command reads them, too
        assert "did you mean 'workers'?" in done.stderr
        named = ("--control-socket", str(relay.folder / "state" / "control.sock"))
        done = relay.command("upgrade", *named)
        assert done.returncode == 1
        assert "the new process ended with code 2" in done.stderr
        assert "this relay goes on as before" in done.stderr
        relay.write(f'certificate = "{relay.file}"\nprivate-key = "{relay.file}"\n')
        assert "ended with code 1" in relay.command("upgrade").stderr
        relay.write("")
        traffic.wait_for_more()
        assert relay.status()["process"] == before
    assert traffic.lost() == []
    assert any("did you mean 'workers'?" in message for message in relay.messages())


def test_a_successor_that_is_killed_on_its_way_changes_nothing(relay: LivingRelay) -> None:
    first = relay.status()["process"]
    with two_peers(relay) as traffic:
        delay_s = 0.0
        while True:  # ever later, until one is killed when it has taken over, and that is a crash
            sent_before = traffic.sent
            successor = relay.launch()
            time.sleep(delay_s)
            successor.kill()
            successor.wait()
            if not goes_on(relay, traffic):
                break
            status = relay.status()
            assert (status["process"], status["registrations"]) == (first, 2)
            delay_s += LATER_S
    assert delay_s > 2 * LATER_S
    assert [number for number in traffic.lost() if number < sent_before] == []


def goes_on(relay: LivingRelay, traffic: Traffic) -> bool:
    """Whether the relay that was there forwards on; else it has left to its successor."""
    wanted = traffic.arrived + 20
    deadline = time.monotonic() + PATIENCE_S
    while traffic.arrived < wanted:
        if any("this one ends" in message for message in relay.messages()):
            return False
        assert time.monotonic() < deadline, "nothing is forwarded"
        time.sleep(0.01)
    return True


def test_another_relays_control_socket_is_left_alone(relay: LivingRelay, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    socket_file = relay.folder / "state" / "control.sock"
    with LivingRelay(other, f'state-directory = "{socket_file.parent}"\n') as second:
        said = " ".join(second.messages())
        assert f"{socket_file}: another relay (process " in said
        assert "another relay keeps its state there; this one keeps none" in said
        assert relay.status()["listeners"] == [f"{HOST}:{relay.port}"]
    for setting, said in (
        (f'control-socket = "{socket_file}"\n', "choose another --control-socket"),
        (f'state-file = "{socket_file.parent}/registrations"\n', "another relay keeps its state"),
    ):
        named = LivingRelay(other, setting)
        process = named.launch()
        assert ended(process) == 1
        assert process.communicate()[0] == ""
        assert said in " ".join(named.messages()[-3:])


def test_after_a_crash_the_registrations_are_back(relay: LivingRelay) -> None:
    with two_peers(relay) as traffic:
        time.sleep(SETTLE_S)
        os.kill(int(str(relay.status()["process"])), signal.SIGKILL)
        relay.start()
        traffic.wait_for_more()
        assert relay.status()["registrations"] == 2
    assert any("the state file has 2 registrations" in each for each in relay.messages())


def test_a_restart_has_them_too(relay: LivingRelay) -> None:
    with two_peers(relay) as traffic:
        for number in (signal.SIGTERM, signal.SIGINT):
            pid = int(str(relay.status()["process"]))
            began = time.monotonic()
            os.kill(pid, number)
            wait_until_gone([pid])
            assert time.monotonic() - began < 2.0
            relay.start()
            traffic.wait_for_more()
    state = relay.folder / "state" / "registrations"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600


def test_no_secret_is_in_the_state_file(relay: LivingRelay) -> None:
    peer = Peer(relay.address)
    _, body = peer.ask("POST", "/v1/register", body_of(peer, 2))
    peer.close()
    time.sleep(SETTLE_S)
    state = (relay.folder / "state" / "registrations").read_text()
    assert peer.key.hex() not in state
    registration_id = body.split(b'"id": "')[1][:32].decode()
    assert registration_id not in state
    assert '"id_hash"' in state


def test_a_damaged_state_file_is_said_and_ignored(relay: LivingRelay) -> None:
    os.kill(int(str(relay.status()["process"])), signal.SIGKILL)
    state = relay.folder / "state" / "registrations"
    state.write_bytes(b"\x00" * 5000)
    relay.start()
    assert f"the state file {state} is ignored: it does not begin like a state file" in " ".join(
        relay.messages()
    )
    assert relay.status()["registrations"] == 0


def test_workers_end_with_a_relay_that_hands_over(relay: LivingRelay) -> None:
    workers = relay.status()["workers"]
    assert isinstance(workers, list)
    relay.start()
    wait_until_gone(workers)
    later = relay.status()["workers"]
    assert isinstance(later, list)
    assert all(map(is_running, later))


def test_commands_without_a_relay_say_so(tmp_path: Path) -> None:
    relay = LivingRelay(tmp_path)
    for command in ("status", "reload", "drain", "upgrade"):
        done = relay.command(command)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"quicpipe-relay: no relay runs here: nobody listens on {tmp_path}/state/control.sock\n"
        )
        assert relay.command(command, "--help").returncode == 0
        assert relay.command(command, "--nonsense").returncode == 2
