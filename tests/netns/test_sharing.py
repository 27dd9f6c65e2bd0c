"""A total rate between the tokens of a relay whose kernel forwards."""

import json
import subprocess
from pathlib import Path

from relay.wire.address import Address
from tests.lab.sharing import OPTIONS, check_shares

from .lab import Lab
from .processes import RelayProcess, command, environment

RELAY = Address("127.0.0.1", 4433)


def test_the_kernel_shares_a_total_rate_as_the_workers_do(
    lab: Lab, pins: Path, tmp_path: Path
) -> None:
    host = lab.host()
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    secret.chmod(0o600)
    options = ["--token-secret-file", str(secret), *OPTIONS]
    relay = RelayProcess(host, tmp_path, pins / host.name, RELAY, "lo", options=options)
    relay.start()
    try:
        run = subprocess.run(
            command(host, "-m", "tests.lab.senders", RELAY.host, str(RELAY.port), str(secret)),
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
    finally:
        relay.stop()
    check_shares(json.loads(run.stdout))
    counters = relay.last_counters()
    assert counters["kernel_forwarded"] > 10 * counters["forwarded"]
    assert counters["kernel_rate_limited"] > 0
    assert counters["kernel_allowance_used"] > 0
