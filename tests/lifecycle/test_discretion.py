"""What a real relay does not say: secrets, anywhere; each of many hostile packets, in its log."""

import http.client
import os
import secrets
import signal
import socket
import time
from pathlib import Path

from bench.http3_client import registration
from relay.wire.connection_id import Derivation, Towards, derive
from tests.lab.processes import PATIENCE_S, wait_until_gone
from tests.lifecycle.living import HOST, LivingRelay, Peer

SECRET = secrets.token_urlsafe(32)
ADMIN_TOKEN = secrets.token_urlsafe(32)

DATAGRAMS, REQUESTS = 3_000, 150
MAX_LINES = 60
"""Of each kind 20 at once, and then one in 5 s."""


def admin_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def admin_answer(port: int, path: str) -> str:
    """What the admin listener says, once it is there again."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "the admin listener does not come back"
            time.sleep(0.05)
        finally:
            connection.close()


def command_lines(relay: LivingRelay) -> list[str]:
    """Of the relay and its workers."""
    status = relay.status()
    workers = status["workers"]
    assert isinstance(workers, list)
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in (status["process"], *workers)]


def test_no_secret_is_in_logs_command_lines_answers_or_files(tmp_path: Path) -> None:
    port = admin_port()
    relay = LivingRelay(
        tmp_path,
        f'log-level = "debug"\n[admin]\nlisten = ["{HOST}:{port}"]\n',
        QUICPIPE_RELAY_TOKEN_SECRET=SECRET,
        QUICPIPE_RELAY_ADMIN_TOKEN=ADMIN_TOKEN,
    )
    with relay:
        token = relay.command("token", "--subject", "alice").stdout.strip()
        assert token.count(".") == 2
        peer = Peer(relay.address, token)
        peer.register(count=3)
        said = command_lines(relay)
        done = [relay.command(*each) for each in (("reload",), ("upgrade",), ("status", "--json"))]
        assert [each.returncode for each in done] == [0, 0, 0]
        done.append(relay.command("check-config", "--all"))
        peer.connect()
        registered = peer.ask("POST", "/v1/register", registration(peer.key, 3))[1].decode()
        registration_id = registered.split('"id": "')[1][:32]
        os.kill(int(str(relay.status()["process"])), signal.SIGUSR1)
        said += command_lines(relay)
        for path in ("/metrics", "/v1/registrations", "/v1/overview", "/v1/events?duration=0"):
            said.append(admin_answer(port, path))
        peer.close()
    said += [each.stdout + each.stderr for each in done]
    said.append((tmp_path / "log").read_text())
    said.append((tmp_path / "state" / "registrations").read_text())
    assert "alice" in said[-1]  # it is the state of this relay
    for secret in (SECRET, ADMIN_TOKEN, token, token.split(".")[2], peer.key.hex()):
        assert not [text for text in said if secret in text]
    assert not [text for text in said if registration_id in text]


def test_hostile_packets_and_requests_are_counted_and_not_each_logged(tmp_path: Path) -> None:
    relay = LivingRelay(tmp_path, QUICPIPE_RELAY_TOKEN_SECRET=SECRET)
    with relay:
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        kinds = [
            b"\x40" + derive(bytes(32), 1, Derivation.BLAKE3, Towards.PEER) + bytes(50),
            b"\x00",
            b"\xc0\x00\x00\x00\x01\x08" + bytes(1_200),  # an Initial that nobody can read
            b"\xc0\xff\x00\x00\x99\x08" + bytes(1_200),
        ]
        for number in range(DATAGRAMS):
            stranger.sendto(kinds[number % len(kinds)], relay.address)
            if number % 100 == 99:
                time.sleep(0.005)  # so that the socket's buffer takes them
        stranger.close()
        peer = Peer(relay.address)
        statuses = [peer.ask("POST", "/v1/register", b"{}")[0] for _ in range(REQUESTS)]
        peer.close()
        assert set(statuses) == {401, 429}
        pid = int(str(relay.status()["process"]))
        os.kill(pid, signal.SIGTERM)
        wait_until_gone([pid])
    (counters,) = (line for line in relay.log() if line["message"] == "counters at the end")
    assert int(str(counters["unknown_cid"])) > DATAGRAMS / 5
    assert int(str(counters["malformed"])) > DATAGRAMS / 5
    assert (
        int(str(counters["refused_token_missing"]))
        + int(str(counters["refused_refused_too_often"]))
        == REQUESTS
    )
    lines = relay.log()
    assert len(lines) < MAX_LINES, lines
    assert any("not_logged_before" in line or "times" in line for line in lines)
