"""What goes on beside the pipe that is measured: honest traffic, or a flood. See flood.py.

A process of its own, with its kind, the relay's address and the rate as arguments. It begins at
once, prints one line when it does, and ends when its standard input does; then it prints how many
datagrams it sent.
"""

import os
import random
import secrets
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from bench.forwarders import big_socket
from bench.http3_client import Http3Client, RequestFailed, check, registration
from bench.load import BATCH, Burst, Receiver, Sender
from relay.wire.connection_id import Derivation, Towards, derive

SIZE = 100
"""Bytes of a packet of honest traffic, and of one with an unknown connection ID."""
INITIAL = 1_200
_IDS = 1_000
_SPOOFED = 50_000
_SLICE_S = 0.002

Send = Callable[[int], int]
"""Sends up to so many datagrams; returns how many it sent."""


def honest(relay: tuple[str, int]) -> Send:
    """From one registered peer to another, who reads them."""
    a, b = big_socket(), big_socket()
    key = secrets.token_bytes(32)
    for sock, own, number in ((a, secrets.token_bytes(32), 1), (b, key, _IDS)):
        client = Http3Client(sock, relay)
        check(client.wait(client.request("POST", "/v1/register", registration(own, number))))
    ids = [derive(key, number, Derivation.BLAKE3, Towards.PEER) for number in range(1, _IDS + 1)]
    sender, receiver = Sender(a, relay, Burst(SIZE), ids), Receiver(b)

    def send(wanted: int) -> int:
        while b.fileno() >= 0 and receiver.receive():
            pass
        return sender.send(min(wanted, BATCH)) if a.fileno() >= 0 else 0

    return send


def unknown(relay: tuple[str, int]) -> Send:
    """Short headers with connection IDs that nobody has registered, from nobody who is."""
    rng = random.Random(1)
    ids = [bytes([rng.randrange(128)]) + rng.randbytes(11) for _ in range(_IDS)]
    return _senders(relay, ids)


def initials(relay: tuple[str, int]) -> Send:
    """One good Initial packet, from as many addresses as there are."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"])
    configuration.verify_mode = ssl.CERT_NONE
    quic = QuicConnection(configuration=configuration)
    quic.connect(relay, now=0.0)
    packet = quic.datagrams_to_send(0.0)[0][0]
    return spoofed(relay, [packet])


def garbage(relay: tuple[str, int]) -> Send:
    """What looks like Initial packets, and is none, from as many addresses as there are."""
    rng = random.Random(1)
    head = b"\xc3\0\0\0\1"
    packets = []
    for _ in range(64):
        ids = bytes([8]) + rng.randbytes(8) + bytes([8]) + rng.randbytes(8)
        length = INITIAL - len(head) - len(ids) - 3
        body = b"\0" + struct.pack("!H", 0x4000 | length) + rng.randbytes(length)
        packets.append(head + ids + body)
    return spoofed(relay, packets)


def http3(relay: tuple[str, int]) -> Send:
    """Short headers that look like those of HTTP/3 connections, from nobody who has one."""
    rng = random.Random(1)
    ids = [bytes([128 | rng.randrange(128)]) + rng.randbytes(11) for _ in range(_IDS)]
    return _senders(relay, ids)


def _senders(relay: tuple[str, int], ids: Sequence[bytes]) -> Send:
    sock = big_socket()
    sender = Sender(sock, relay, Burst(SIZE), ids)

    def send(wanted: int) -> int:
        return sender.send(min(wanted, BATCH)) if sock.fileno() >= 0 else 0

    return send


def spoofed(relay: tuple[str, int], payloads: Sequence[bytes]) -> Send:
    """Each from another address of 127.0.0.0/8: nothing that is answered comes back."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 2**20)
    to = socket.inet_aton(relay[0])
    rng = random.Random(2)
    frames = []
    for number in range(_SPOOFED):
        payload = payloads[number % len(payloads)]
        source = bytes([127, rng.randrange(2, 250), rng.randrange(256), rng.randrange(1, 255)])
        udp = struct.pack("!4H", rng.randrange(1024, 65536), relay[1], 8 + len(payload), 0)
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, source, to)
        frames.append(ip + udp)
    numbers = count()

    def send(wanted: int) -> int:
        for _ in range(wanted):
            number = next(numbers) % _SPOOFED
            raw.sendto(frames[number] + payloads[number % len(payloads)], (relay[0], 0))
        return wanted

    return send


def registrations(relay: tuple[str, int]) -> Send:
    """Whole handshakes and registrations, each from another address, as many as this core makes."""
    active: list[tuple[Http3Client, int, socket.socket]] = []
    numbers = count()

    def send(wanted: int) -> int:
        sent = 0
        while len(active) < 16:
            number = next(numbers)
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((f"127.2.{number // 250 % 250}.{number % 250 + 1}", 0))
            client = Http3Client(sock, relay)
            body = registration(secrets.token_bytes(32), 10)
            active.append((client, client.request("POST", "/v1/register", body), sock))
            sent += 3
        for entry in tuple(active):
            client, request, sock = entry
            client.step()
            try:
                done = client.answer(request) is not None
            except RequestFailed:
                done = True
            if done:
                client.close()
                sock.close()
                active.remove(entry)
                sent += 3
        return sent

    return send


KINDS: dict[str, Callable[[tuple[str, int]], Send]] = {
    each.__name__: each for each in (honest, unknown, initials, garbage, http3, registrations)
}


def main(arguments: Sequence[str]) -> int:
    """Kind, host, port, datagrams per second."""
    kind, host, port, rate = arguments
    send = KINDS[kind]((host, int(port)))
    print("begun", flush=True)
    start, sent = time.perf_counter(), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        due = int((time.perf_counter() - start) * float(rate)) - sent
        if due > 0:
            sent += send(due)
        if due <= 0 or kind == "registrations":
            time.sleep(_SLICE_S)
    print(sent, time.perf_counter() - start, flush=True)
    os._exit(0)  # sockets need no farewell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
