"""The relay's UDP sockets: for each address one *listener*, and in it one socket per worker.

The control process makes them and keeps them open, so that a worker which dies loses none of the
datagrams that wait in its socket: its successor inherits it. The kernel spreads the senders over
the sockets of a listener by a hash of their addresses (SO_REUSEPORT).
"""

import errno
import logging
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.core.path import Path
from relay.forwarding import ancillary
from relay.wire.address import Address

logger = logging.getLogger(__name__)

RECEIVE_BUFFER = 8 * 2**20
SEND_BUFFER = 4 * 2**20
"""Bytes that we ask for; the system may give less (net.core.rmem_max). Large buffers decide how
much is lost in a burst, more than code does."""

IN_USE_PATIENCE_S = 2.0
"""How long an address may be in use at start: the workers of a relay that was killed need a moment
to notice, and its successor is often started at once."""
_IN_USE_PAUSE_S = 0.05

_SAME_PORT_TRIES = 16
"""How many ports the system may propose before one is free in both address families."""

BALANCES = sys.platform == "linux"
"""Whether several sockets on one address share the load. Elsewhere, the last one gets it all."""

# linux/in.h, linux/in6.h, asm-generic/socket.h; what Python's socket module does not name.
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("@9I")
_MEMINFO_DROPS = 8

OpenSockets = dict[Address, list[socket.socket]]
"""UDP sockets by the address that they are bound to."""

_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class ListenError(Exception):
    """The relay cannot listen there; the text says why and what to do."""


class AddressInUse(ListenError):
    """Another program, or another relay, has the address and port."""


@dataclass(frozen=True, slots=True)
class ListenRequest:
    """Where to listen; port 0 lets the system choose."""

    address: Address
    optional: bool = False
    """Nobody asked for this address: without its family on the machine, do without."""

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that the relay listens on."""

    index: int
    """What `Path.listener` says."""
    address: Address
    """With the real port."""
    sockets: tuple[socket.socket, ...]
    """Non-blocking; number i is read by worker i. Control sends with the first."""
    asked: Address | None = None
    """As the operator named it: with port 0 if the system was to choose."""

    @property
    def wildcard(self) -> bool:
        """Whether the relay has several addresses here, so that each datagram names its own."""
        return is_wildcard(self.address)

    def send(self, datagram: bytes, path: Path) -> None:
        """Send from the address that `path` names.

        :raises OSError: the system did not take it.
        """
        messages = ancillary.to_send(path.local, ecn=0, choose_source=self.wildcard)
        self.sockets[0].sendmsg([datagram], messages, 0, path.remote.sockaddr)

    def lost(self) -> int:
        """Datagrams that the system dropped since the start because a socket's buffer was full."""
        return sum(map(_lost, self.sockets))

    def close(self) -> None:
        """Close all the sockets."""
        for each in self.sockets:
            each.close()


def is_wildcard(address: Address) -> bool:
    """Whether it stands for all addresses of its family on this machine."""
    return address.host in ("0.0.0.0", "::")


def open_listeners(
    requests: Sequence[ListenRequest],
    sockets_each: int,
    *,
    patience_s: float = IN_USE_PATIENCE_S,
    inherited: OpenSockets | None = None,
) -> list[Listener]:
    """Bind every address, `sockets_each` times. Wildcards that ask for port 0 get one port.

    :param inherited: sockets that are open already, by the address as it is asked for: they are
        taken out of it and used. If there are fewer than `sockets_each` of one and no more can be
        had, all addresses get so few.
    :raises ListenError: and nothing is left open.
    """
    deadline = time.monotonic() + patience_s
    if inherited:
        return _open_all(requests, sockets_each, deadline, inherited)
    asks_common = [is_wildcard(each.address) and each.address.port == 0 for each in requests]
    for _ in range(_SAME_PORT_TRIES if sum(asks_common) > 1 else 0):
        try:
            return _open_all(requests, sockets_each, deadline)
        except AddressInUse:
            continue  # the system proposed a port that is free in one family only
    return _open_all(requests, sockets_each, deadline)


def _open_all(
    requests: Sequence[ListenRequest],
    sockets_each: int,
    deadline: float,
    inherited: OpenSockets | None = None,
) -> list[Listener]:
    listeners: list[Listener] = []
    common_port = 0
    try:
        for request in requests:
            asks_common = is_wildcard(request.address) and request.address.port == 0
            wanted = request.address._replace(port=common_port) if asks_common else request.address
            try:
                given = (inherited or {}).pop(request.address, [])
                if given:
                    sockets = _adopt(given, sockets_each)
                else:
                    sockets = _open(wanted, sockets_each, deadline if request.address.port else 0.0)
            except OSError as error:
                if request.optional and error.errno in _NO_SUCH_FAMILY:
                    logger.warning("not listening on %s: %s", wanted, error.strerror)
                    continue
                raise _explain(error, wanted) from None
            bound = Address.from_sockaddr(sockets[0].getsockname())
            if asks_common:
                common_port = bound.port
            listeners.append(Listener(len(listeners), bound, sockets, request.address))
            _log_opened(listeners[-1])
        if not listeners:
            raise ListenError("there is no address to listen on: this machine has no IP network")
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return _evened(listeners)


def _evened(listeners: list[Listener]) -> list[Listener]:
    """Worker i reads socket i of every listener: so all must have as many."""
    fewest = min(len(each.sockets) for each in listeners)
    for each in listeners:
        for surplus in each.sockets[fewest:]:
            logger.warning("%s: there are sockets for %d workers only", each.address, fewest)
            surplus.close()
    return [replace(each, sockets=each.sockets[:fewest]) for each in listeners]


def _log_opened(listener: Listener) -> None:
    receive, send = (
        listener.sockets[0].getsockopt(socket.SOL_SOCKET, option)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF)
    )
    logger.info(
        "%s: %d sockets, buffers of %d bytes to receive and %d to send",
        listener.address,
        len(listener.sockets),
        receive,
        send,
    )


def _open(address: Address, count: int, deadline: float) -> tuple[socket.socket, ...]:
    """Bind to `address`; while it is in use, try again until `deadline` (monotonic).

    The first socket binds alone, so that it fails if anybody else is there already. Were
    SO_REUSEPORT set before, a second relay started by mistake would quietly take half of the
    traffic. Set after, it lets our other sockets join, and no other relay's first.
    """
    sockets = [_bound_patiently(address, deadline)]
    try:
        if count > 1:
            sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            actual = Address.from_sockaddr(sockets[0].getsockname())
            sockets.extend(_bound(actual, shared=True) for _ in range(count - 1))
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return tuple(sockets)


def _adopt(given: Sequence[socket.socket], count: int) -> tuple[socket.socket, ...]:
    """Make sockets that are bound already what ours are; have more of them, or fewer."""
    sockets = list(given[:count])
    for surplus in given[count:]:
        surplus.close()
    address = Address.from_sockaddr(sockets[0].getsockname())
    try:
        for each in sockets:
            each.setblocking(False)
            _set_up(each, address)
            if count > len(sockets):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        for each in sockets:
            each.close()
        raise
    try:
        while len(sockets) < count:
            sockets.append(_bound(address, shared=True))
    except OSError as error:  # such as: they belong to another user
        logger.warning(
            "%s: %d sockets were passed, and there can be no more: %s",
            address,
            len(sockets),
            error.strerror or error,
        )
    return tuple(sockets)


def _bound_patiently(address: Address, deadline: float) -> socket.socket:
    while True:
        try:
            return _bound(address, shared=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
        time.sleep(_IN_USE_PAUSE_S)


def _bound(address: Address, *, shared: bool) -> socket.socket:
    opened = socket.socket(address.family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family is socket.AF_INET6:
            # Families stay apart, so that an address has one spelling.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address.sockaddr)
        _set_up(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened


def _set_up(opened: socket.socket, address: Address) -> None:
    _never_fragment(opened)
    _tell_beside(opened, is_wildcard(address))
    _enlarge(opened)


def _never_fragment(opened: socket.socket) -> None:
    """Set DF (IPv4), send no fragment header (IPv6).

    PROBE (3), not DO (2): both set DF, but DO believes every ICMP message that claims a smaller
    path MTU, and whoever can forge one could shrink a peer's path below the 1,200 bytes that QUIC
    needs. With PROBE the system refuses (EMSGSIZE) only what its own interface cannot take; what
    is too big further on is lost, and a QUIC that sends larger packets probes for that itself.
    """
    if sys.platform != "linux":
        return
    if opened.family is socket.AF_INET:
        opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, 1)


def _tell_beside(opened: socket.socket, wildcard: bool) -> None:
    """Ask for the ECN bits of each datagram and, on a wildcard, for the address it was sent to."""
    if opened.family is socket.AF_INET:
        level = socket.IPPROTO_IP
        options = [ancillary.IP_RECVTOS, ancillary.IP_PKTINFO if wildcard else None]
    else:
        level = socket.IPPROTO_IPV6
        options = [ancillary.IPV6_RECVTCLASS, ancillary.IPV6_RECVPKTINFO if wildcard else None]
    for option in options:
        if option is not None:
            opened.setsockopt(level, option, 1)


def _enlarge(opened: socket.socket) -> None:
    for force, option, size in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER),
    ):
        try:
            if sys.platform != "linux":
                raise PermissionError
            opened.setsockopt(socket.SOL_SOCKET, force, size)  # needs CAP_NET_ADMIN
        except PermissionError:
            try:
                opened.setsockopt(socket.SOL_SOCKET, option, size)
            except OSError:  # some systems refuse what is over their limit: keep theirs
                continue


def _lost(opened: socket.socket) -> int:
    if sys.platform != "linux":
        return 0
    memory = opened.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(memory)[_MEMINFO_DROPS]) if len(memory) == _MEMINFO.size else 0


def _explain(error: OSError, address: Address) -> ListenError:
    where = f"cannot listen on {address}"
    match error.errno:
        case errno.EADDRINUSE:
            return AddressInUse(
                f"{where}: the address is in use; is another relay running? "
                "Stop it, or choose another port with --listen"
            )
        case errno.EACCES | errno.EPERM:
            return ListenError(
                f"{where}: no permission; ports below 1024 need a privilege "
                "(CAP_NET_BIND_SERVICE), others do not"
            )
        case errno.EADDRNOTAVAIL:
            return ListenError(f"{where}: this machine has no such address")
        case errno.EAFNOSUPPORT | errno.EPROTONOSUPPORT:
            family = "IPv6" if address.family is socket.AF_INET6 else "IPv4"
            return ListenError(f"{where}: this machine has no {family}")
        case _:
            return ListenError(f"{where}: {error.strerror or error}")
