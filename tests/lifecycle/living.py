"""A real relay on a port of its own, two peers that talk through it, and commands for it."""

import contextlib
import json
import os
import random
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from bench.http3_client import Http3Client, check, registration
from relay.lifecycle.ask import Asking, NoRelay, RelayGone
from relay.wire.connection_id import Derivation, Towards, derive
from tests.lab.processes import PATIENCE_S, PROJECT, environment

HOST = "127.0.0.1"
_NUMBER = struct.Struct("=Q")
_HEADER = 13


class LivingRelay:
    """`python -m relay` with a settings file; started again and again. A context manager."""

    def __init__(self, folder: Path, settings: str = "", **variables: str) -> None:
        """`settings` are further lines of the file."""
        self.folder = folder
        self.port = free_port()
        self.file = folder / "relay.toml"
        self.write(settings)
        self._variables = variables
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        pid = self._recorded_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return HOST, self.port

    @property
    def environment(self) -> dict[str, str]:
        """Of the relay and its commands."""
        return environment(
            STATE_DIRECTORY=str(self.folder / "state"),
            QUICPIPE_RELAY_CONFIG=str(self.file),
            **self._variables,
        )

    def write(self, settings: str) -> None:
        """Another settings file."""
        head = f'listen = ["{HOST}:{self.port}"]\nworkers = 2\nlog-format = "json"\n'
        self.file.write_text(head + settings)

    def start(self) -> "subprocess.Popen[str]":
        """Start one, and wait until it is ready."""
        process = self.launch()
        if process.stdout is None:
            raise RuntimeError("no pipe")
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        line = process.stdout.readline() if ready else ""
        if "listening" not in line:
            raise RuntimeError(f"{line!r}; {self.log()[-5:]}")
        return process

    def launch(self) -> "subprocess.Popen[str]":
        """Start one."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "relay"],
                env=self.environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._processes.append(process)
        return process

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `quicpipe-relay …` beside it."""
        return subprocess.run(
            [sys.executable, "-m", "relay", *arguments],
            env=self.environment,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def status(self) -> dict[str, object]:
        """What the command of this name says, asked without its process."""
        with Asking(self.folder / "state" / "control.sock", PATIENCE_S) as asking:
            asking.send({"command": "status"})
            status: dict[str, object] = asking.receive()["status"]
        return status

    def log(self) -> list[dict[str, object]]:
        """All that was logged."""
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) if line.startswith("{") else {"message": line} for line in lines]

    def messages(self) -> list[str]:
        """What was said, without the fields."""
        return [str(line["message"]) for line in self.log()]

    def _recorded_pid(self) -> int | None:
        """Of a relay that the last one started itself."""
        with contextlib.suppress(NoRelay, RelayGone):
            status = self.status()
            if f"{HOST}:{self.port}" in str(status["listeners"]):
                return int(str(status["process"]))
        return None


class Peer:
    """A UDP socket that registers."""

    def __init__(self, relay: tuple[str, int], token: str | None = None) -> None:
        self.relay = relay
        self.token = token
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self.socket.bind((HOST, 0))
        self.socket.setblocking(False)
        self.key = secrets.token_bytes(32)
        self.client: Http3Client | None = None

    def connect(self) -> Http3Client:
        """A new HTTP/3 connection."""
        self.client = Http3Client(self.socket, self.relay)
        return self.client

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """On the connection that there is."""
        client = self.client or self.connect()
        return client.wait(client.request(method, path, body, self.token))

    def register(self, count: int = 1, first: int = 1) -> None:
        """Register connection IDs."""
        check(self.ask("POST", "/v1/register", registration(self.key, count, first)))

    @property
    def header(self) -> bytes:
        """Of a packet towards this peer."""
        return b"\x40" + derive(self.key, 1, Derivation.BLAKE3, Towards.PEER)

    def close(self) -> None:
        """Be gone."""
        self.socket.close()


class Traffic:
    """One peer sends numbered packets to another, in a thread of its own."""

    def __init__(self, sender: Peer, receiver: Peer, rate: float) -> None:
        self._sender = sender
        self._receiver = receiver
        self._rate = rate
        self._sent = 0
        self._seen: dict[int, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(PATIENCE_S)

    @property
    def arrived(self) -> int:
        """How many have arrived by now."""
        return len(self._seen)

    @property
    def sent(self) -> int:
        """How many have been sent by now."""
        return self._sent

    def lost(self) -> list[int]:
        """The numbers of those that have not arrived, once it has ended."""
        return [number for number in range(self._sent) if number not in self._seen]

    def twice(self) -> list[int]:
        """The numbers of those that have arrived more than once."""
        return [number for number, count in self._seen.items() if count > 1]

    def wait_for_more(self, count: int = 20) -> None:
        """Until so many more have arrived.

        :raises TimeoutError: they do not.
        """
        wanted = self.arrived + count
        deadline = time.monotonic() + PATIENCE_S
        while self.arrived < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.arrived} of {wanted} packets have arrived")
            time.sleep(0.01)

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._end.is_set():
            while self._sent < (time.monotonic() - begin) * self._rate:
                self._send()
            self._drain()
            time.sleep(0.002)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and len(self._seen) < self._sent:
            self._drain()
            time.sleep(0.005)

    def _send(self) -> None:
        packet = self._receiver.header + _NUMBER.pack(self._sent) + bytes(100)
        try:
            self._sender.socket.sendto(packet, self._sender.relay)
        except ConnectionRefusedError:  # told of an earlier one that nobody took
            return
        except BlockingIOError:
            return
        self._sent += 1

    def _drain(self) -> None:
        try:
            while True:
                packet = self._receiver.socket.recv(2048)
                if packet.startswith(self._receiver.header):
                    (number,) = _NUMBER.unpack_from(packet, _HEADER)
                    self._seen[number] = self._seen.get(number, 0) + 1
        except BlockingIOError:
            return


@contextlib.contextmanager
def two_peers(
    relay: LivingRelay, rate: float = 500.0, token: str | None = None
) -> Iterator[Traffic]:
    """Both registered, and packets on their way."""
    sender, receiver = Peer(relay.address, token), Peer(relay.address, token)
    try:
        sender.register()
        receiver.register()
        with Traffic(sender, receiver, rate) as traffic:
            traffic.wait_for_more()
            yield traffic
    finally:
        sender.close()
        receiver.close()


def free_port() -> int:
    """A UDP port that nobody has, and that the system gives to nobody who asks for any."""
    while True:
        port = random.randrange(20_000, 30_000)
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        ):
            probe.bind((HOST, port))
            return port
