"""Sockets that are open already: the service manager's (sd_listen_fds(3)), or a predecessor's."""

import logging
import os
import socket
from collections.abc import Iterable, MutableMapping

from relay.forwarding.sockets import OpenSockets
from relay.wire.address import Address

logger = logging.getLogger(__name__)

FIRST_DESCRIPTOR = 3
_MAX_DESCRIPTORS = 4096


class UnfitSocket(Exception):
    """A socket that was passed cannot be used; the text is one line for the operator."""


def take_listen_descriptors(environment: MutableMapping[str, str]) -> OpenSockets:
    """The UDP sockets that the service manager passed to this process, if it did.

    The variables are removed, so that no process that this one starts takes them for its own.
    Sockets of other kinds are left alone.

    :raises UnfitSocket: a UDP socket is bound to nothing, or takes both families.
    """
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdecimal()):
        return {}
    last = FIRST_DESCRIPTOR + min(int(count[:6]), _MAX_DESCRIPTORS)
    sockets = []
    for descriptor in range(FIRST_DESCRIPTOR, last):
        passed = _udp_socket(descriptor)
        if passed is None:
            logger.warning("descriptor %d that was passed is no UDP socket; ignored", descriptor)
        else:
            sockets.append(passed)
    return by_address(sockets)


def by_address(sockets: Iterable[socket.socket]) -> OpenSockets:
    """Sort UDP sockets by their addresses; in the order in which they come.

    :raises UnfitSocket: one is bound to nothing, or takes both families; all are closed then.
    """
    sockets = list(sockets)
    found: OpenSockets = {}
    try:
        for each in sockets:
            each.setblocking(False)
            os.set_inheritable(each.fileno(), False)
            found.setdefault(_address(each), []).append(each)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return found


def close_all(sockets: OpenSockets) -> None:
    """Close what nobody wants."""
    for group in sockets.values():
        for each in group:
            each.close()
    sockets.clear()


def _udp_socket(descriptor: int) -> socket.socket | None:
    try:
        found = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    is_ip = found.family in (socket.AF_INET, socket.AF_INET6)
    if not is_ip or found.type != socket.SOCK_DGRAM:
        found.close()
        return None
    os.close(descriptor)
    return found


def _address(found: socket.socket) -> Address:
    address = Address.from_sockaddr(found.getsockname())
    if not address.port:
        raise UnfitSocket("a UDP socket that was passed is bound to no port")
    is_ipv6 = found.family is socket.AF_INET6
    if is_ipv6 and not found.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise UnfitSocket(
            f"the socket on {address} that was passed takes IPv4, too: set "
            "BindIPv6Only=ipv6-only in the socket unit, and pass one for IPv4 besides"
        )
    return address
