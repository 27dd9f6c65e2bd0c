"""The certbot hook, as certbot runs it, beside a real relay with traffic through it."""

import grp
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relay.certificate import ServerCertificate
from tests.lab.processes import PATIENCE_S, PROJECT
from tests.lifecycle.living import LivingRelay, two_peers

HOOK = PROJECT / "packaging" / "certbot" / "quicpipe-relay"


class Certbot:
    """What certbot keeps of one certificate, and its call of the hook."""

    def __init__(self, relay: LivingRelay) -> None:
        self.relay = relay
        self.lineage = relay.folder / "live" / "relay.example"
        self.file = relay.folder / "tls" / "relay.pem"

    def renew(self, number: int) -> None:
        """Another certificate."""
        made = self.relay.folder / f"made{number}"
        made.mkdir()
        ServerCertificate.self_signed(made)
        (pair,) = made.iterdir()
        key, mark, chain = pair.read_text().partition("-----BEGIN CERTIFICATE-----")
        assert "PRIVATE KEY" in key
        self.lineage.mkdir(parents=True, exist_ok=True)
        (self.lineage / "privkey.pem").write_text(key)
        (self.lineage / "fullchain.pem").write_text(mark + chain)

    def deploy(self, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run the hook."""
        return subprocess.run(
            ["sh", str(HOOK)],
            env={
                **self.relay.environment,
                "RENEWED_LINEAGE": str(self.lineage),
                "RENEWED_DOMAINS": "relay.example",
                "QUICPIPE_TLS": str(self.file.parent),
                "QUICPIPE_GROUP": grp.getgrgid(os.getgid()).gr_name,
                "QUICPIPE_COMMAND": f"{sys.executable} -m relay",
                **variables,
            },
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )


@pytest.fixture
def certbot(tmp_path: Path) -> Certbot:
    file = tmp_path / "tls" / "relay.pem"
    certbot = Certbot(LivingRelay(tmp_path, f'certificate = "{file}"\nprivate-key = "{file}"\n'))
    certbot.renew(1)
    return certbot


def test_a_renewed_certificate_is_shown_and_no_packet_is_lost(certbot: Certbot) -> None:
    done = certbot.deploy()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # no relay runs yet
    assert stat.S_IMODE(certbot.file.stat().st_mode) == 0o640
    assert stat.S_IMODE(certbot.file.parent.stat().st_mode) == 0o750
    with certbot.relay as relay, two_peers(relay) as traffic:
        before = relay.status()["certificate"]
        certbot.renew(2)
        assert relay.status()["certificate"] == before
        done = certbot.deploy()
        after = relay.status()["certificate"]
        assert (done.returncode, str(after) in done.stdout) == (0, True), done.stderr
        assert after != before
        traffic.wait_for_more()
    assert traffic.lost() == []
    assert [each.name for each in certbot.file.parent.iterdir()] == [certbot.file.name]


def test_one_that_is_no_use_is_said_and_the_relay_keeps_its_own(certbot: Certbot) -> None:
    certbot.deploy()
    with certbot.relay as relay:
        before = relay.status()["certificate"]
        (certbot.lineage / "privkey.pem").write_text("nonsense\n")
        done = certbot.deploy()
        assert done.returncode == 1
        assert "nothing is reloaded" in done.stderr
        assert relay.status()["certificate"] == before


def test_one_that_is_not_whole_changes_nothing(certbot: Certbot) -> None:
    certbot.deploy()
    before = certbot.file.read_bytes()
    (certbot.lineage / "fullchain.pem").unlink()
    assert certbot.deploy().returncode != 0
    assert certbot.file.read_bytes() == before
    assert [each.name for each in certbot.file.parent.iterdir()] == [certbot.file.name]


def test_settings_that_are_wrong_are_said(certbot: Certbot) -> None:
    certbot.relay.write("lisen = 5\n")
    done = certbot.deploy()
    assert done.returncode == 1
    assert "lisen: there is no such setting" in done.stderr


def test_another_lineage_is_left_alone(certbot: Certbot) -> None:
    assert certbot.deploy(QUICPIPE_LINEAGE="other.example").returncode == 0
    assert not certbot.file.exists()
