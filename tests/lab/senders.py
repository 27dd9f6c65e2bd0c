"""Peers of three tokens that send through a relay at rates of their own, all in one process.

    python -m tests.lab.senders <relay host> <relay port> <file with the token secret>

Prints one line of JSON: see `main`.
"""

import json
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bench.http3_client import Http3Client, check, registration
from relay.core.admission import TokenLimits
from relay.tokens import Secrets, new_claims
from relay.wire.connection_id import Derivation, Towards, derive

TOTAL = 200_000
"""Bytes a second that the relay is to forward in all."""
GREEDY, MODEST = 2 * TOTAL, TOTAL // 10
ALLOWANCE = 100_000
"""Bytes that the third token permits."""

_SIZE = 600
_TICK_S = 0.001
_SETTLE_S = 1.5
_WINDOWS, _WINDOW_S = 5, 1.0
"""Each is judged by itself: a machine that is busy with something else for a moment spoils one."""


@dataclass
class Rate:
    """What a subject is to send, and has."""

    bytes_per_s: float
    due: float = 0.0
    sent: int = 0
    got: int = 0


class Subject:
    """One peer sends to another, both registered by one token."""

    def __init__(
        self, relay: tuple[str, int], secret: Secrets, name: str, limits: TokenLimits
    ) -> None:
        token = secret.sign(new_claims(name, 600.0, limits, time.time()))
        key = secrets.token_bytes(32)
        self._relay = relay
        self._sender, self._receiver = (_bound(relay[0]) for _ in range(2))
        for sock, own in ((self._sender, secrets.token_bytes(32)), (self._receiver, key)):
            client = Http3Client(sock, relay)
            body = registration(own, 1)
            check(client.wait(client.request("POST", "/v1/register", body, token)))
        self._head = b"\x40" + derive(key, 1, Derivation.BLAKE3, Towards.PEER)
        # A long header, as every pipe begins: so the kernel learns where the peers are.
        for sock in (self._sender, self._receiver):
            sock.sendto(b"\xc0", relay)

    def step(self, rate: Rate, now: float) -> None:
        """Send what is due, but make up for nothing: a burst would be no rate."""
        if rate.due <= now:
            count = max(1, int(_TICK_S * rate.bytes_per_s / _SIZE))
            for _ in range(count):
                self._sender.sendto(self._head.ljust(_SIZE, b"."), self._relay)
            rate.sent += count * _SIZE
            rate.due = max(rate.due, now - _TICK_S) + count * _SIZE / rate.bytes_per_s
        try:
            while True:
                datagram = self._receiver.recv(2048)
                rate.got += len(datagram) if datagram.startswith(self._head) else 0
        except BlockingIOError:
            return


def _bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


def send(rates: Mapping[Subject, float], seconds: float) -> tuple[list[Rate], float]:
    """All of them at once; returns what came of it, in the same order, and how long it took."""
    start = now = time.monotonic()
    found = {subject: Rate(rate, start) for subject, rate in rates.items()}
    while now < start + seconds:
        for subject, rate in found.items():
            subject.step(rate, now)
        time.sleep(_TICK_S)
        now = time.monotonic()
    return list(found.values()), now - start


def main(arguments: list[str]) -> None:
    """Bytes sent and received, window by window with their seconds: `uneven` (greedy, modest) and
    `even` (two greedy ones); and `used`, of the token that permits no more than `ALLOWANCE`."""
    relay, secret = (arguments[0], int(arguments[1])), Secrets.parse(_read(arguments[2]), "there")
    one, other = (Subject(relay, secret, name, TokenLimits()) for name in ("one", "other"))
    third = Subject(relay, secret, "third", TokenLimits(bytes=ALLOWANCE))
    found: dict[str, object] = {}
    demands: dict[str, dict[Subject, float]] = {
        "uneven": {one: GREEDY, other: MODEST},
        "even": {one: GREEDY, other: GREEDY},
    }
    for name, rates in demands.items():
        send(rates, _SETTLE_S)
        found[name] = [_window(rates) for _ in range(_WINDOWS)]
    (used,), _ = send({third: ALLOWANCE}, 3.0)  # three times as much
    found["used"] = (used.sent, used.got)
    print(json.dumps(found), flush=True)


def _window(rates: Mapping[Subject, float]) -> dict[str, object]:
    measured, seconds = send(rates, _WINDOW_S)
    return {"seconds": seconds, "ends": [(each.sent, each.got) for each in measured]}


def _read(file: str) -> str:
    with open(file) as opened:
        return opened.read()


if __name__ == "__main__":
    main(sys.argv[1:])
