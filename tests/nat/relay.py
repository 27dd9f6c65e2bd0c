"""The real relay, in the laboratory."""

import re
import signal
import subprocess
from pathlib import Path

from tests.netns.processes import command, environment

from .world import World, relay_addresses

NAME = "relay.example"
"""What the peers call it; their own resolver knows it."""

_PATIENCE_S = 30.0


class Relay:
    """`python -m relay` on the relay's host, with two ports in both families."""

    def __init__(self, world: World, folder: Path) -> None:
        """Start it; returns when it serves. Its files go to `folder`."""
        options = []
        for address in relay_addresses(world):
            options += ["--listen", str(address)]
        self._log = folder / "relay.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command(world.relay.host, "-m", "relay", "--open", "--workers", "1", *options),
                env=environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("quicpipe-relay listening"):
            self.close()
            raise RuntimeError(f"the relay does not serve: {self.log()}")
        self.fingerprint = str(re.findall(r"sha256:[0-9a-f]{64}", self.log())[-1])

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
