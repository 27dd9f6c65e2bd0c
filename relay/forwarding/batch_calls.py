"""recvmmsg(2) and sendmmsg(2) through cffi in ABI mode: many datagrams a call, and no compiler.

The messages are numpy arrays in the kernel's own layout, made once and used again. cffi takes
their addresses as plain numbers. Only 64-bit Linux with little-endian bytes has this layout here;
everywhere else `load_calls` says why not, and the plain loop does the work.
"""

import contextlib
import socket
import struct
import sys
from typing import Protocol

HEADER_WORDS = 8
"""`struct mmsghdr` in 64-bit words: 56 bytes of `struct msghdr`, then the length and padding."""
NAME, NAME_LENGTH, PARTS, PART_COUNT, CONTROL, CONTROL_LENGTH, FLAGS, LENGTH = range(HEADER_WORDS)
"""Columns of a message array: what each 64-bit word of `struct mmsghdr` holds.

The 32-bit fields (NAME_LENGTH, FLAGS, LENGTH) have padding or another field in their upper half."""
PART_WORDS = 2
"""`struct iovec` in 64-bit words: base address, length."""

MAX_MESSAGES = 1024
"""What the kernel takes in one call at most (UIO_MAXIOV)."""

SOL_UDP = 17
UDP_SEGMENT = 103
"""linux/udp.h: the kernel cuts the message into datagrams of this size, the last may be shorter."""
UDP_GRO = 104
"""linux/udp.h: the kernel may give several datagrams of one sender as one, and says their size."""

_DECLARATIONS = """
int recvmmsg(int, uintptr_t, unsigned int, int, uintptr_t);
int sendmmsg(int, uintptr_t, unsigned int, int);
"""


class BatchUnavailable(Exception):
    """This system has no batched calls that we can use; the text says what is missing."""


class BatchCalls(Protocol):
    """The two calls. Both give the number of messages, or the negative errno."""

    def receive(self, fd: int, headers: int, count: int, flags: int) -> int:
        """Fill up to `count` messages at address `headers`."""

    def send(self, fd: int, headers: int, count: int, flags: int) -> int:
        """Send messages from address `headers` on; a failure ends the call before that message."""


def load_calls() -> BatchCalls:
    """Find the calls in the C library.

    :raises BatchUnavailable: if cffi, numpy, the platform or the C library lacks something.
    """
    if not sys.platform.startswith("linux"):
        raise BatchUnavailable(f"no recvmmsg on {sys.platform}")
    if sys.byteorder != "little" or struct.calcsize("P") != 8:
        raise BatchUnavailable("only little-endian 64-bit systems have the layout that we fill")
    try:
        import cffi
        import numpy  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise BatchUnavailable(f"{error.name} is not installed") from None
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    try:
        library = ffi.dlopen(None)
        recvmmsg, sendmmsg = library.recvmmsg, library.sendmmsg
    except (OSError, AttributeError) as error:
        raise BatchUnavailable(f"the C library lacks the calls: {error}") from None

    class Calls:
        def receive(self, fd: int, headers: int, count: int, flags: int) -> int:
            done: int = recvmmsg(fd, headers, count, flags, 0)
            return done if done >= 0 else -ffi.errno

        def send(self, fd: int, headers: int, count: int, flags: int) -> int:
            done: int = sendmmsg(fd, headers, count, flags)
            return done if done >= 0 else -ffi.errno

    return Calls()


def set_gro(sock: socket.socket, *, on: bool) -> None:
    """Let the kernel give several datagrams of one sender as one message, if it can.

    The setting belongs to the socket, which outlives its worker: each loop says what it wants.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            sock.setsockopt(SOL_UDP, UDP_GRO, int(on))
