"""The other side of `peer.py`: start a peer in a home, ask it, and hear its answers."""

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.netns.lab import Host
from tests.netns.processes import command, environment

PATIENCE_S = 60.0
"""Real seconds for anything that should take a few, on a machine that is busy."""


class PeerFailed(Exception):
    """The peer reported a typed error; the text is its line."""


class Home:
    """A peer's process on a device. Several requests may be under way."""

    def __init__(self, device: Host, hosts: list[str], folder: Path) -> None:
        """`hosts` are the relay's addresses, as the device's resolver gives them."""
        self.device = device
        self._hosts = hosts
        self._errors = (folder / f"{device.name}.err").open("w+")
        self._process = subprocess.Popen(
            command(device, "-m", "tests.nat.peer"),
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._answers: dict[int, dict[str, Any]] = {}
        self._waiting = b""
        self._number = 0

    def dial(self, relay: str, fingerprint: str, policy: str = "any") -> str:
        """Returns the invite.

        :raises PeerFailed: it says why.
        """
        number = self.start(
            "dial", relay=relay, hosts=self._hosts, fingerprint=fingerprint, policy=policy
        )
        return str(self.answer(number)["invite"])

    def start_accept(self, invite: str, policy: str = "any") -> int:
        """Begin to answer an invite."""
        return self.start("accept", invite=invite, hosts=self._hosts, policy=policy)

    def start(self, do: str, **values: object) -> int:
        """Begin something; returns its number."""
        assert self._process.stdin is not None
        self._number += 1
        request = {"number": self._number, "do": do, **values}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._number

    def answer(self, number: int, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for the answer to a request.

        :raises PeerFailed: it says why.
        :raises TimeoutError: none came.
        """
        deadline = time.monotonic() + patience_s
        while number not in self._answers:
            self._read(deadline)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def ask(self, do: str, **values: object) -> dict[str, Any]:
        """Both at once."""
        return self.answer(self.start(do, **values))

    def close(self) -> None:
        """End the process."""
        for each in (self._process.stdin, self._process.stdout):
            assert each is not None
            each.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _read(self, deadline: float) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"a peer does not answer: {self.errors()}")
        chunk = os.read(descriptor, 65_536)
        if not chunk:
            raise RuntimeError(f"a peer has ended: {self.errors()}")
        *lines, self._waiting = (self._waiting + chunk).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._answers[answer.pop("number")] = answer

    def errors(self) -> str:
        """What it said on stderr."""
        self._errors.flush()
        return Path(self._errors.name).read_text()[-2000:]


def ask_both(a: tuple[Home, str], b: tuple[Home, str], **values: object) -> list[dict[str, Any]]:
    """Ask two homes at the same moment; returns both answers."""
    numbers = [home.start(do, **values) for home, do in (a, b)]
    return [home.answer(number) for (home, _), number in zip((a, b), numbers, strict=True)]
