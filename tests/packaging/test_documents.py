"""docs/operating.md and the examples: what they name is there, and what is there they name."""

import http.client
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.__main__ import _COMMANDS
from relay.admin.metrics import PREFIX
from relay.admin.source import Totals
from relay.certificate import ServerCertificate
from relay.config import Config
from relay.core.admission import TokenRefusal
from relay.core.destinations import DestinationRefusal
from relay.core.outcome import Outcome
from relay.core.quota import RegistryRefusal
from relay.forwarding.sockets import RECEIVE_BUFFER, SEND_BUFFER
from relay.gate import REQUESTS_FULL, TOO_MANY_REFUSED
from relay.requests import TOO_OFTEN_BY_SOURCE, TOO_OFTEN_BY_TOKEN, TOO_OFTEN_IN_ALL
from relay.settings.declare import sections
from relay.settings.help import EXAMPLES
from relay.tokens import Secrets, Verifier, make_secret
from tests.admin.fake_relay import FakeRelay
from tests.admin.test_metrics import scrape
from tests.lab.processes import PATIENCE_S, PROJECT

PACKAGING = PROJECT / "packaging"
OPERATING = (PROJECT / "docs" / "operating.md").read_text()
KERNEL = (PROJECT / "docs" / "kernel-path.md").read_text()


def spans(text: str) -> set[str]:
    """What stands in code spans; metrics without their labels."""
    return {span.partition("{")[0] for span in re.findall(r"`([^`\n]+)`", text)}


SAID = spans(OPERATING) | spans(KERNEL)


class WithCertificate(FakeRelay):
    def totals(self) -> Totals:
        return replace(super().totals(), certificate_until=2e9)


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """The names of all metrics of the relay's own, without the prefix."""
    samples = scrape(WithCertificate(kernel={"forwarded": 1}))
    return {name.removeprefix(PREFIX) for name, _ in samples if name.startswith(PREFIX)}


def test_every_setting_is_in_the_documents() -> None:
    missing = [
        setting.key
        for group in sections(Config)
        for setting in group.settings
        if setting.key.rpartition(".")[2] not in SAID and setting.key not in SAID
    ]
    assert missing == []


def test_every_command_is_in_help_and_in_the_documents() -> None:
    for command in _COMMANDS:
        assert f"quicpipe-relay {command}" in EXAMPLES
        assert f"quicpipe-relay {command}" in OPERATING + KERNEL


def test_every_metric_is_in_the_documents(metrics: set[str]) -> None:
    assert sorted(metrics - SAID) == []


def test_every_reason_is_in_the_documents() -> None:
    reasons = {*Outcome, *TokenRefusal, *RegistryRefusal, *DestinationRefusal}
    reasons -= {Outcome.FORWARDED, Outcome.HTTP3}
    reasons |= {TOO_OFTEN_BY_SOURCE, TOO_OFTEN_BY_TOKEN, TOO_OFTEN_IN_ALL}
    reasons |= {REQUESTS_FULL, TOO_MANY_REFUSED}
    assert sorted(each for each in reasons if each not in SAID) == []


def test_alerts_are_about_metrics_that_there_are(metrics: set[str]) -> None:
    rules = (PACKAGING / "prometheus" / "quicpipe-alerts.yml").read_text()
    named = set(re.findall(PREFIX + r"(\w+)", rules))
    assert len(named) > 5
    assert named <= metrics
    for reason in re.findall(r'reason=~"([^"]+)"', rules):
        assert set(reason.split("|")) <= SAID


@pytest.mark.parametrize("document", ["docs/operating.md", "README.md"])
def test_links_lead_somewhere(document: str) -> None:
    file = PROJECT / document
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text())
    inside = [each for each in links if "://" not in each]
    assert inside
    assert [each for each in inside if not (file.parent / each).exists()] == []


def test_files_that_it_installs_are_there() -> None:
    named = set(re.findall(r"\bpackaging/[\w./-]+\w", OPERATING))
    assert len(named) > 5
    assert [each for each in named if not (PROJECT / each).exists()] == []


def test_the_example_of_a_backend_makes_good_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", OPERATING, re.DOTALL)
    secret = tmp_path / "token.secret"
    make_secret(secret)
    code = code.replace("/etc/quicpipe/token.secret", str(secret))
    example: dict[str, Any] = {"__name__": "backend"}
    exec(compile(code, "backend.py", "exec"), example)
    backend = example["HTTPServer"](("127.0.0.1", 0), example["Backend"])
    monkeypatch.setattr(example["Backend"], "log_message", lambda *_: None)
    port = backend.server_port
    with backend:
        for user, status in (("alice", 200), (None, 401)):
            thread = threading.Thread(target=backend.handle_request)
            thread.start()
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            client.request("GET", "/", headers={"X-User": user} if user else {})
            answer = client.getresponse()
            text = answer.read().decode()
            client.close()
            thread.join(PATIENCE_S)
            assert answer.status == status
            if user:
                grant = Verifier(Secrets.load(secret)).check(f"Bearer {text}", time.time())
                assert (grant.subject, grant.limits.registrations) == ("alice", 8)


def test_the_example_of_settings_is_right(tmp_path: Path) -> None:
    text = (PACKAGING / "relay.toml").read_text().replace("/etc/quicpipe", str(tmp_path))
    file = tmp_path / "relay.toml"
    file.write_text(text)
    for name in ("token.secret", "admin.token"):
        make_secret(tmp_path / name)
    (tmp_path / "tls").mkdir()
    ServerCertificate.self_signed(tmp_path / "tls")
    (pair,) = (tmp_path / "tls").iterdir()
    pair.rename(tmp_path / "tls" / "relay.pem")
    done = subprocess.run(
        [sys.executable, "-m", "relay", "check-config", "--config", str(file)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    ports = re.findall(r"dport \{ ([^}]+) \}", (PACKAGING / "nftables/quicpipe.nft").read_text())
    listened = {each.rpartition(":")[2] for each in tomllib.loads(text)["listen"]}
    assert [set(each.split(", ")) for each in ports if "443" in each] == [listened] * 2


@pytest.mark.skipif(shutil.which("nft") is None, reason="there is no nft: apt-get install nftables")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask nft")
def test_the_firewall_is_taken() -> None:
    done = subprocess.run(
        ["nft", "--check", "--file", str(PACKAGING / "nftables" / "quicpipe.nft")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_buffers_are_those_that_the_relay_asks_for() -> None:
    text = (PACKAGING / "sysctl" / "quicpipe.conf").read_text()
    said = dict(re.findall(r"^([\w.]+) = (\d+)$", text, re.MULTILINE))
    assert said["net.core.rmem_max"] == str(RECEIVE_BUFFER)
    assert said["net.core.wmem_max"] == str(SEND_BUFFER)
