"""A total rate between the tokens of a real relay, whose two workers forward."""

import json
import subprocess
from pathlib import Path

from relay.core.outcome import Outcome
from tests.lab.processes import PROJECT, PYTHON, RelayProcess, environment
from tests.lab.sharing import OPTIONS, check_shares


def test_a_total_rate_is_shared_fairly_between_tokens(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    secret.chmod(0o600)
    options = ["--token-secret-file", str(secret), *OPTIONS]
    with RelayProcess(tmp_path, options=options) as relay:
        host, port = relay.address
        run = subprocess.run(
            [PYTHON, "-m", "tests.lab.senders", host, str(port), str(secret)],
            cwd=PROJECT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        relay.stop()
        counters = relay.counters()
    check_shares(json.loads(run.stdout))
    for outcome in (Outcome.RATE_LIMITED, Outcome.ALLOWANCE_USED):
        assert counters[outcome] != 0
