"""A peer that sends to another through the relay at a steady rate, and how long that was broken.

    python -m bench.restart_traffic <relay port> <packets a second> <bytes> <seconds>

Says `ready` when both are registered, and at the end one line of JSON: packets sent, lost and seen
twice, the longest way of one, and the longest pause: a time in which nothing arrived, less the time
in which nothing was sent for want of a processor. Arrivals are stamped by the kernel.
"""

import itertools
import json
import os
import secrets
import socket
import struct
import sys
import time

from bench.http3_client import Http3Client, check, registration
from relay.wire.connection_id import Derivation, Towards, derive

_HOST = "127.0.0.1"
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("@qq")
_NUMBER = struct.Struct("=Q")
_HEADER = 13
_SETTLE_S = 3.0
"""For what waits in the relay's sockets while nobody reads them."""


def main(arguments: list[str]) -> int:
    """Run it; returns the exit code."""
    relay = (_HOST, int(arguments[0]))
    rate, size, seconds = (float(each) for each in arguments[1:4])
    sender, receiver = _open(), _open()
    key = secrets.token_bytes(32)
    for sock, own_key in ((sender, secrets.token_bytes(32)), (receiver, key)):
        client = Http3Client(sock, relay)
        check(client.wait(client.request("POST", "/v1/register", registration(own_key, 1))))
        client.close()
    cid = derive(key, 1, Derivation.BLAKE3, Towards.PEER)
    os.nice(-10)  # the load must not be what pauses
    print("ready", flush=True)
    traffic = _Traffic(sender, receiver, relay, b"\x40" + cid, int(size))
    traffic.run(rate, seconds)
    print(json.dumps(traffic.result()), flush=True)
    return 0


class _Traffic:
    def __init__(
        self,
        sender: socket.socket,
        receiver: socket.socket,
        relay: tuple[str, int],
        header: bytes,
        size: int,
    ) -> None:
        self._sender = sender
        self._receiver = receiver
        self._relay = relay
        self._header = header
        self._pad = bytes(size - _HEADER - _NUMBER.size)
        self._sent: list[float] = []
        self._arrived: dict[int, float] = {}
        self._twice = 0
        self._late = 0

    def run(self, rate: float, seconds: float) -> None:
        begin = time.time()
        while (elapsed := time.time() - begin) < seconds:
            while len(self._sent) < elapsed * rate:
                number = _NUMBER.pack(len(self._sent))
                self._sent.append(time.time())
                try:
                    self._sender.sendto(self._header + number + self._pad, self._relay)
                except ConnectionRefusedError:  # told of an earlier one that nobody took
                    continue
            self._drain()
            time.sleep(0.0005)
        end = time.time() + _SETTLE_S
        while time.time() < end and len(self._arrived) < len(self._sent):
            self._drain()
            time.sleep(0.001)

    def result(self) -> dict[str, object]:
        """All times in milliseconds."""
        delivered = [number for number in range(len(self._sent)) if number in self._arrived]
        ways = [self._arrived[number] - self._sent[number] for number in delivered]
        return {
            "sent": len(self._sent),
            "lost": len(self._sent) - len(delivered),
            "twice": self._twice,
            "reordered": sum(
                self._arrived[after] < self._arrived[before]
                for before, after in itertools.pairwise(delivered)
            ),
            "longest_way_ms": round(1e3 * max(ways, default=0.0), 2),
            "median_way_ms": round(1e3 * sorted(ways)[len(ways) // 2], 3) if ways else None,
            "pause_ms": round(1e3 * self._pause(), 2),
        }

    def _pause(self) -> float:
        """The longest time without an arrival, though packets were sent all the time."""
        arrivals = sorted(self._arrived.values())
        longest = 0.0
        position = 0
        for before, after in itertools.pairwise(arrivals):
            if after - before <= longest:
                continue
            while position < len(self._sent) and self._sent[position] < before:
                position += 1
            within = [before]
            within += [at for at in self._sent[position:] if at < after][:200_000]
            within.append(after)
            idle = max(late - early for early, late in itertools.pairwise(within))
            longest = max(longest, after - before - idle)
        return longest

    def _drain(self) -> None:
        try:
            while True:
                datagram, beside, _, _ = self._receiver.recvmsg(2048, 64)
                if len(datagram) <= _HEADER or datagram[0] & 0x80:
                    continue  # HTTP/3's
                (number,) = _NUMBER.unpack_from(datagram, _HEADER)
                if number in self._arrived:
                    self._twice += 1
                    continue
                stamps = [data for _, kind, data in beside if kind == _SO_TIMESTAMPNS]
                seconds, nanoseconds = _STAMP.unpack(stamps[0])
                self._arrived[number] = seconds + nanoseconds / 1e9
        except BlockingIOError:
            return


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 2**26)
    opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    opened.bind((_HOST, 0))
    opened.setblocking(False)
    return opened


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
