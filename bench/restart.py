"""What pipes see of a restart, an upgrade and a crash of the relay: `python -m bench.restart`.

One peer sends to another at a steady rate through a real relay, which meanwhile

- runs on (`nothing`: what the machine does by itself);
- hands over to a successor (`upgrade`);
- is ended by SIGTERM and started again (`restart`);
- is killed and started again (`crash`);
- both of these while somebody keeps its sockets, as a systemd socket unit does (`… held`).

Prints a line of JSON for each run. It needs root, for large socket buffers and priority.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from relay.core.leases import Record
from relay.core.path import Path as PeerPath
from relay.lifecycle import journal, records
from relay.lifecycle.state_file import now
from relay.wire.address import Address

_ROOT = Path(__file__).resolve().parents[1]
_HOST = "127.0.0.1"
_WARM_UP_S = 1.5
_PATIENCE_S = 30.0


class Relay:
    """A relay's process, and the sockets that somebody keeps for it, if anybody does."""

    def __init__(self, state: Path, workers: int, *, held: bool) -> None:
        self._state = state
        self._workers = workers
        self._held = [_bound(0)] if held else []
        for _ in range(workers - 1 if held else 0):
            self._held.append(_bound(self._held[0].getsockname()[1]))
        self.port = self._held[0].getsockname()[1] if held else _free_port()
        self._process: subprocess.Popen[str] | None = None
        self._log = (state / "log").open("ab")

    def start(self) -> float:
        """Start it; returns how many seconds it took until it was ready."""
        began = time.monotonic()
        listen = f"{_HOST}:{self.port}"
        command = [sys.executable, "-m", "relay", "--listen", listen]
        command += ["--workers", str(self._workers)]
        if self._held:
            command = [sys.executable, "-m", "bench.restart", "--hold", *command[1:]]
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, "STATE_DIRECTORY": str(self._state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[each.fileno() for each in self._held],
            text=True,
        )
        if process.stdout is None or "listening" not in process.stdout.readline():
            raise RuntimeError((self._state / "log").read_text()[-2000:])
        self._process = process
        return time.monotonic() - began

    def end(self, number: int) -> None:
        """Signal it, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_PATIENCE_S)

    def upgrade(self) -> None:
        """Hand over to a successor, which this is told of by its own start."""
        before = self._process
        self.start()
        if before is not None:
            before.wait(_PATIENCE_S)

    def close(self) -> None:
        """End it for good."""
        self.end(signal.SIGTERM)
        for each in self._held:
            each.close()
        self._log.close()


def _again(number: int) -> Callable[[Relay], None]:
    def act(relay: Relay) -> None:
        relay.end(number)
        relay.start()

    return act


EVENTS: dict[str, tuple[Callable[[Relay], None], bool]] = {
    "nothing": (lambda relay: None, False),
    "upgrade": (Relay.upgrade, False),
    "restart": (_again(signal.SIGTERM), False),
    "restart, held": (_again(signal.SIGTERM), True),
    "crash": (_again(signal.SIGKILL), False),
    "crash, held": (_again(signal.SIGKILL), True),
}
"""What happens, and whether somebody keeps the sockets."""


def run(event: str, *, rate: int, size: int, workers: int, registrations: int) -> dict[str, object]:
    """One run."""
    act, held = EVENTS[event]
    with ExitStack() as undo:
        state = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        relay = Relay(state, workers, held=held)
        _leave_registrations(state / "registrations", relay.port, registrations)
        relay.start()
        undo.callback(relay.close)
        seconds = _WARM_UP_S + 3.0 + registrations / 10_000
        traffic = subprocess.Popen(
            [sys.executable, "-m", "bench.restart_traffic"]
            + [str(each) for each in (relay.port, rate, size, seconds)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        undo.callback(traffic.kill)
        if traffic.stdout is None or traffic.stdout.readline() != "ready\n":
            raise RuntimeError("the peers cannot register")
        time.sleep(_WARM_UP_S)
        began = time.monotonic()
        act(relay)
        took = time.monotonic() - began
        result = json.loads(traffic.stdout.readline())
        traffic.wait(_PATIENCE_S)
    return {"event": event, "rate": rate, "workers": workers, "others": registrations} | {
        **result,
        "took_ms": round(1e3 * took),
    }


def _leave_registrations(path: Path, port: int, count: int) -> None:
    """Write a state file as a relay leaves it, so that it has other registrations, too."""
    clock = now()
    lines = [journal.first_line(clock)]
    listeners = [Address(_HOST, port)]
    for owner in range(count):
        number = owner.to_bytes(4, "big")
        record = Record(
            owner,
            os.urandom(16).hex(),
            os.urandom(16),
            PeerPath(Address(f"127.{number[1]}.{number[2]}.{number[3]}", 5000), 0, _HOST),
            clock.monotonic + 180.0,
            frozenset(b"\x00" + os.urandom(11) for _ in range(10)),
        )
        lines.append(journal.set_line(records.encode(record, listeners)))
    path.write_bytes(b"".join(lines))
    path.chmod(0o600)


def _free_port() -> int:
    """One that the system gives to nobody while the relay is away."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), _bound(port):
            return port


def _bound(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind((_HOST, port))
    return opened


def _hold(command: Sequence[str]) -> None:
    """Become the relay, with the sockets that were passed where systemd puts them."""
    numbers = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    passed = [number for number in numbers if number > 2 and _is_udp(number)]
    for place, number in enumerate(passed, 3):
        if place != number:
            os.dup2(number, place)
        os.set_inheritable(place, True)
    variables = {"LISTEN_FDS": str(len(passed)), "LISTEN_PID": str(os.getpid())}
    os.execve(sys.executable, [sys.executable, *command], {**os.environ, **variables})


def _is_udp(number: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(number)) as opened:
            return opened.type == socket.SOCK_DGRAM
    except OSError:
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--hold"]:
        _hold(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m bench.restart", description=__doc__)
    parser.add_argument("--rate", type=int, default=10_000, help="packets a second")
    parser.add_argument("--size", type=int, default=1_200, help="bytes of each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--registrations", type=int, default=0, help="of others, besides")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("events", nargs="*", default=list(EVENTS), metavar="EVENT")
    options = parser.parse_args(arguments)
    for _ in range(options.runs):
        for event in options.events:
            result = run(
                event,
                rate=options.rate,
                size=options.size,
                workers=options.workers,
                registrations=options.registrations,
            )
            print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
