"""Run in a network namespace of its own: what the relay does where the interface takes 1,300 bytes.

Prints one line of JSON: by the receiver's family and the datagram's size, whether it arrived; and
what was counted.
"""

import contextlib
import fcntl
import json
import socket
import struct
import time

MTU = 1300
_SIOCSIFFLAGS = 0x8914
_SIOCSIFMTU = 0x8922
_IFF_UP = 1


def shrink_loopback() -> None:
    """Bring this namespace's loopback interface up, with the small MTU."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFMTU, struct.pack("16si", b"lo", MTU))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))


def main() -> None:
    """Senders may fragment; only the relay may not."""
    shrink_loopback()
    # Late: only now does this namespace have an IPv6 address, which the import looks for.
    from tests.relay.test_plain_loop import CID, PACKET, V4, V6, Laboratory

    arrived = {}
    with contextlib.ExitStack() as resources:
        laboratory = Laboratory([V4, V6], resources)
        sender = laboratory.peer(V4)
        laboratory.register(sender)
        for listener, host, headers in ((0, V4, 28), (1, V6, 48)):
            receiver = laboratory.peer(host)
            receiver.settimeout(0.2)
            owner = laboratory.register(receiver, CID, listener=listener)
            for size in (MTU - headers, MTU - headers + 1):
                laboratory.send(sender, PACKET.ljust(size))
                laboratory.loop.forward(time.monotonic() + 0.1)
                try:
                    arrived[f"{host} {size}"] = len(receiver.recv(65536)) == size
                except TimeoutError:
                    arrived[f"{host} {size}"] = False
            laboratory.forget(owner, CID)
        print(json.dumps({"arrived": arrived, "counted": laboratory.counted()}))


if __name__ == "__main__":
    main()
