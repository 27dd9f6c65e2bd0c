"""A network of our own, and cores of our own, for the time of a run.

In a network namespace there is no other traffic, no firewall, and a loopback interface whose GSO we
may switch off. Then a burst that the load sends with one call still reaches the forwarder as single
packets, as from a wire: the load costs a third of what it would with one call per packet, and the
forwarder alone is what is measured.
"""

import array
import contextlib
import fcntl
import os
import socket
import struct

import cffi

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

# linux/sockios.h, linux/if.h, linux/ethtool.h
_SIOCSIFFLAGS = 0x8914
_SIOCETHTOOL = 0x8946
_IFF_UP_RUNNING = 0x1 | 0x40
_ETHTOOL_GSTRINGS = 0x1B
_ETHTOOL_GSSET_INFO = 0x37
_ETHTOOL_SFEATURES = 0x3B
_ETH_SS_FEATURES = 4
_STRING_SIZE = 32
_UDP_SEGMENTATION = "tx-udp-segmentation"
_LOOPBACK = b"lo"


class NotIsolated(Exception):
    """The system does not let us have a network of our own."""


def enter_network() -> None:
    """Move this process, and what it starts from now on, to an empty network with loopback.

    :raises NotIsolated: neither as root nor in a user namespace.
    """
    ffi = cffi.FFI()
    ffi.cdef("int unshare(int);")
    library = ffi.dlopen(None)
    ids = os.getuid(), os.getgid()
    if library.unshare(_CLONE_NEWNET):
        if library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
            raise NotIsolated(f"unshare: {os.strerror(ffi.errno)}")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {ids[0]} 1"),
            ("gid_map", f"0 {ids[1]} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    with _control() as control:
        request = struct.pack("16sH14x", _LOOPBACK, _IFF_UP_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def set_segmentation(on: bool) -> bool:
    """Whether GSO messages of UDP cross loopback whole. Returns whether the system obeyed."""
    with contextlib.suppress(OSError, ValueError), _control() as control:
        names = _feature_names(control)
        bit = names.index(_UDP_SEGMENTATION)
        blocks = -(-len(names) // 32)
        words = array.array("I", bytes(8 + 8 * blocks))
        words[0], words[1] = _ETHTOOL_SFEATURES, blocks
        words[2 + 2 * (bit // 32)] = 1 << bit % 32
        words[3 + 2 * (bit // 32)] = int(on) << bit % 32
        _ethtool(control, words)
        return True
    return False


def pick_cores() -> tuple[int, int]:
    """One core for the forwarder, one for the load.

    :raises NotIsolated: there is only one.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise NotIsolated("two cores are needed: one for the forwarder, one for the load")
    return cores[0], cores[1]


def isolate() -> tuple[int, int]:
    """Enter a network of our own, on the load's core; returns the forwarder's core and that.

    :raises NotIsolated: the system does not let us.
    """
    forwarder_core, load_core = pick_cores()
    enter_network()
    os.sched_setaffinity(0, {load_core})
    return forwarder_core, load_core


def _control() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _feature_names(control: socket.socket) -> list[str]:
    info = array.array("I", bytes(20))
    info[0] = _ETHTOOL_GSSET_INFO
    info[2] = 1 << _ETH_SS_FEATURES
    _ethtool(control, info)
    count = info[4]
    strings = array.array("I", bytes(12 + count * _STRING_SIZE))
    strings[0], strings[1], strings[2] = _ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count
    _ethtool(control, strings)
    text = strings.tobytes()[12:]
    return [
        text[at : at + _STRING_SIZE].split(b"\0")[0].decode()
        for at in range(0, count * _STRING_SIZE, _STRING_SIZE)
    ]


def _ethtool(control: socket.socket, words: "array.array[int]") -> None:
    fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", _LOOPBACK, words.buffer_info()[0]))
