"""Real relays that are reloaded, drained and ended, with traffic through them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.http3_client import RequestFailed, registration
from relay.certificate import ServerCertificate
from tests.lab.processes import PATIENCE_S, wait_until_gone
from tests.lifecycle.living import LivingRelay, Peer, two_peers

TEN_MINUTES = "10m"


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[LivingRelay]:
    with LivingRelay(tmp_path) as running:
        yield running


@contextmanager
def registered(relay: LivingRelay, token: str | None = None) -> Iterator[tuple[Peer, str]]:
    """A peer with a registration, and its id."""
    peer = Peer(relay.address, token)
    try:
        status, body = register(peer)
        assert status == 200, body
        yield peer, json.loads(body)["id"]
    finally:
        peer.close()


def register(peer: Peer, count: int = 1) -> tuple[int, bytes]:
    return peer.ask("POST", "/v1/register", registration(peer.key, count))


def newcomer(relay: LivingRelay, token: str | None = None) -> tuple[int, str]:
    """What somebody new is told: the status, and why."""
    peer = Peer(relay.address, token)
    try:
        status, body = register(peer)
        return status, str(json.loads(body).get("detail"))
    finally:
        peer.close()


def certificate(folder: Path) -> bytes:
    """A new one with its key, PEM."""
    folder.mkdir()
    ServerCertificate.self_signed(folder)
    (file,) = folder.iterdir()
    return file.read_bytes()


def draining(relay: LivingRelay, *arguments: str) -> "subprocess.Popen[str]":
    """`quicpipe-relay drain`, once the relay drains."""
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "drain", *arguments],
        env=relay.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "the relay drains; registrations left: 1\n"
    return process


def test_drained_it_takes_nothing_new_and_ends_with_the_last(relay: LivingRelay) -> None:
    pid = int(str(relay.status()["process"]))
    with registered(relay) as (peer, registration_id):
        drain = draining(relay)
        assert relay.status()["state"] == "draining"
        assert newcomer(relay) == (
            503,
            "this relay is about to end, and takes no new registrations",
        )
        assert register(peer, count=5)[0] == 200  # who is there may have more connection IDs
        assert peer.ask("GET", "/health")[0] == 503
        assert peer.ask("DELETE", f"/v1/registrations/{registration_id}")[0] == 204
        assert drain.communicate(timeout=PATIENCE_S)[0].endswith("registrations left: 0\n")
    assert drain.returncode == 0
    wait_until_gone([pid])


def test_drained_it_ends_at_the_deadline(relay: LivingRelay) -> None:
    pid = int(str(relay.status()["process"]))
    with registered(relay) as (peer, _):
        drain = draining(relay, "--deadline", "300ms")
        said = drain.communicate(timeout=PATIENCE_S)[0]
        assert said.endswith("the relay ends; registrations left: 1\n")
        wait_until_gone([pid])
        with pytest.raises(RequestFailed, match="the relay ended the connection"):
            peer.ask("GET", "/health")


def test_draining_can_be_taken_back(relay: LivingRelay) -> None:
    with registered(relay):
        assert relay.command("drain", "--no-wait", "--deadline", TEN_MINUTES).returncode == 0
        assert newcomer(relay)[0] == 503
        done = relay.command("drain", "--cancel")
        assert (done.returncode, done.stdout) == (0, "the relay takes new registrations again\n")
        assert newcomer(relay)[0] == 200
        assert relay.status()["state"] == "serving"


def test_at_its_end_it_tells_its_clients(relay: LivingRelay) -> None:
    with registered(relay) as (peer, _):
        pid = int(str(relay.status()["process"]))
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_until_gone([pid])
        assert time.monotonic() - began < 2.0  # what is promised; it takes a tenth of that
        with pytest.raises(RequestFailed, match="the relay ended the connection"):
            peer.ask("GET", "/health")


def test_a_reload_changes_limits_and_no_packet_is_lost(relay: LivingRelay) -> None:
    with two_peers(relay) as traffic:
        relay.write('[limits]\nregistrations = 2\n[xdp]\nmode = "generic"\n')
        done = relay.command("reload")
        assert done.stdout == (
            "reloaded; changed: limits.registrations; only a restart or upgrade changes xdp.mode\n"
        )
        traffic.wait_for_more()
        assert newcomer(relay)[0] == 429
        relay.write("[limits]\nregistrations = 3\n")
        os.kill(int(str(relay.status()["process"])), signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while newcomer(relay)[0] != 200:
            assert time.monotonic() < deadline, "it is not reloaded"
    assert traffic.lost() == []


def test_a_reload_is_all_or_nothing(relay: LivingRelay) -> None:
    relay.write("[limits]\nregistrations = 1\nbyte-per-s = 5\n")
    named = ("--control-socket", str(relay.folder / "state" / "control.sock"))
    done = relay.command("reload", *named)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing is reloaded" in done.stderr
    assert "did you mean 'bytes-per-s'?" in done.stderr
    with registered(relay):
        assert newcomer(relay)[0] == 200


def test_another_certificate_is_shown_and_no_packet_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "pair.pem"
    file.write_bytes(certificate(tmp_path / "first"))
    names = f'certificate = "{file}"\nprivate-key = "{file}"\n'
    with LivingRelay(tmp_path, names) as relay, two_peers(relay) as traffic:
        before = relay.status()["certificate"]
        file.write_bytes(certificate(tmp_path / "second"))
        done = relay.command("reload")
        after = relay.status()["certificate"]
        assert after != before
        assert f"the certificate is another one, {after}" in done.stdout
        file.write_text("-----BEGIN CERTIFICATE-----\nhalf of one")
        assert "nothing is reloaded" in relay.command("reload").stderr
        assert relay.status()["certificate"] == after
        traffic.wait_for_more()
    assert traffic.lost() == []


def test_a_revoked_token_ends_what_it_has_begun_and_nothing_else(tmp_path: Path) -> None:
    secret, revoked = tmp_path / "secret", tmp_path / "revoked"
    secret.write_text("s" * 40)
    revoked.write_text("")
    files = f'token-secret-file = "{secret}"\nrevoked-file = "{revoked}"\n'
    with LivingRelay(tmp_path, files) as relay:
        good, bad = (relay.command("token", "--subject", name) for name in ("good", "bad"))
        with (
            two_peers(relay, token=good.stdout.strip()) as traffic,
            registered(relay, bad.stdout.strip()),
        ):
            assert relay.status()["registrations"] == 3
            revoked.write_text(f"{bad.stderr.split()[1]}  # bad\n")
            assert relay.command("reload").stdout.endswith("; revoked tokens: 1\n")
            assert relay.status()["registrations"] == 2
            assert newcomer(relay, bad.stdout.strip())[0] == 401
            assert newcomer(relay, good.stdout.strip())[0] == 200
            traffic.wait_for_more()
        assert traffic.lost() == []


def test_whoever_does_not_read_on_is_no_error(relay: LivingRelay) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    done = subprocess.run(
        [sys.executable, "-m", "relay", "status"],
        env=relay.environment,
        stdout=writable,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
    )
    os.close(writable)
    assert (done.returncode, done.stderr) == (1, "")
