"""`quicpipe-relay check-config`: what is set, and what is wrong."""

import functools
from pathlib import Path

from relay.config import Config
from relay.settings.declare import sections
from tests.lab.processes import relay_command

check_config = functools.partial(relay_command, "check-config")


def test_check_config_says_what_is_set(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(
        'listen = ["127.0.0.1:1", "[::1]:1"]\n[admin]\nlisten = ["[::1]:2"]\n'
        '[xdp]\nmode = "generic"\n'
    )
    done = check_config("--config", str(file), QUICPIPE_RELAY_LEASE="1h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"settings are right ({file})",
        f"  listen = 127.0.0.1:1, [::1]:1  ({file}: listen)",
        "  lease = 3600  (QUICPIPE_RELAY_LEASE)",
        f"  admin.listen = [::1]:2  ({file}: admin.listen)",
        f"  xdp.mode = generic  ({file}: xdp.mode)",
    ]
    everything = check_config("--all", "--open").stdout.splitlines()
    assert len(everything) == 1 + sum(len(group.settings) for group in sections(Config))


def test_check_config_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('open = true\ncertificate = "c.pem"\nprivate-key = "c.pem"\n')
    for arguments, expected in (
        (("--config", str(file)), f"{tmp_path}/c.pem: there is no such file"),
        (("--config", "/nonexistent"), "/nonexistent: there is no such file"),
        (("--lease", "0"), "argument --lease: '0' is not a number of seconds"),
    ):
        done = check_config(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("quicpipe-relay check-config: error: ")
        assert expected in line
