"""A peer that sends to another through the relay at a given rate, both in one process on `lo`.

    python -m tests.netns.traffic <relay port> <sender port> <receiver port> <rate> <seconds> <cid>…

Prints at the end one line of JSON: how many were sent, when those were that were lost (by
`time.monotonic`), and how many came a second time.
"""

import json
import socket
import struct
import sys
import time

HOST = "127.0.0.1"
_TICK_S = 0.002
_SETTLE_S = 0.3
_SO_RCVBUFFORCE = 33


def main(arguments: list[str]) -> None:
    relay_port, sender_port, receiver_port = (int(each) for each in arguments[:3])
    rate, seconds = float(arguments[3]), float(arguments[4])
    cids = [bytes.fromhex(each) for each in arguments[5:]]
    sender, receiver = (open_socket(port) for port in (sender_port, receiver_port))
    sender.connect((HOST, relay_port))
    pad = bytes(100 - 13 - 8)
    times: list[float] = []
    seen: set[int] = set()
    twice = 0
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        while len(times) < elapsed * rate:
            number = len(times)
            packet = b"\x40" + cids[number % len(cids)] + struct.pack("=Q", number) + pad
            try:
                sender.send(packet)
            except ConnectionRefusedError:  # told of an earlier one that nobody took
                sender.send(packet)
            times.append(time.monotonic())
        twice += drain(receiver, seen)
        time.sleep(_TICK_S)
    time.sleep(_SETTLE_S)
    twice += drain(receiver, seen)
    lost = [times[number] for number in range(len(times)) if number not in seen]
    print(json.dumps({"sent": len(times), "lost_at": lost, "twice": twice}), flush=True)


def open_socket(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 2**25)
    opened.bind((HOST, port))
    opened.setblocking(False)
    return opened


def drain(receiver: socket.socket, seen: set[int]) -> int:
    """Read all that waits; returns how many had been seen before."""
    twice = 0
    try:
        while True:
            (number,) = struct.unpack_from("=Q", receiver.recv(2048), 13)
            twice += number in seen
            seen.add(number)
    except BlockingIOError:
        return twice


if __name__ == "__main__":
    main(sys.argv[1:])
