"""Asking the relay where one of our sockets is, at any of its addresses. docs/protocol.md §12.2."""

import asyncio
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime

from relay.wire.address import Address
from relay.wire.body import MalformedRequest
from relay.wire.outside import AddressAnswer

from ..endpoint import Endpoint
from ..errors import RelayError
from ..link.connection import RelayConnection
from ..link.outside import ask_address
from ..network import DatagramSocket
from ..relay_name import RelayName
from ..token import TokenSource
from ..trust import RelayTrust
from .outlook import Mapping

PATIENCE_S = 3.0
"""Seconds for the answer: a handshake and a request are two round trips."""

MAX_ASKED = 2
"""How many other addresses one check goes to. The relay names them, and must not make us flood
somebody: each gets a dozen datagrams at most."""


class Questioner:
    """Knows the endpoint, the relay's name, and which certificate it must show."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: RelayName,
        fingerprint: str,
        token: TokenSource | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._trust = RelayTrust(fingerprint, token=token)

    async def ask(self, socket: DatagramSocket, relay: Address) -> AddressAnswer | None:
        """Ask at one address of the relay's, over a connection of its own, from that socket.

        None: no answer within `PATIENCE_S`, another relay's, or none that makes sense.
        """

        def check(chain: list[bytes]) -> None:
            self._trust.check(chain, self._name.host, relay, datetime.now(UTC))

        try:
            way = self._endpoint.beside(socket, relay)
        except KeyError:  # it was closed meanwhile
            return None
        connection = RelayConnection(self._endpoint, way, self._name.host, check, self._trust.token)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await connection.ready
                return await ask_address(connection, str(self._name))
        except (RelayError, MalformedRequest, TimeoutError):
            return None
        finally:
            connection.close()
            self._endpoint.release(way)

    async def mapping(
        self,
        socket: DatagramSocket,
        reached: Address,
        outside: Address,
        listeners: Sequence[Address],
    ) -> Mapping:
        """Compare `outside`, which the relay sees at `reached`, with what it sees elsewhere.

        At another IP address of the relay's if there is one, because a NAT may tell those apart and
        not the ports.
        """
        for other in elsewhere(reached, listeners)[:MAX_ASKED]:
            answer = await self.ask(socket, other)
            if answer is not None:
                is_same = answer.address == outside
                return Mapping.INDEPENDENT if is_same else Mapping.DEPENDENT
        return Mapping.UNKNOWN


def elsewhere(reached: Address, listeners: Sequence[Address]) -> list[Address]:
    """The relay's other addresses of the same family: those with another IP address first.

    Those that are of its own network or machine only, and we are not, are left out.
    """
    found = []
    for each in listeners:
        host = reached.host if ipaddress.ip_address(each.host).is_unspecified else each.host
        other = Address(host, each.port)
        if other.family == reached.family and other != reached and _reach(host, reached.host):
            found.append(other)
    return sorted(dict.fromkeys(found), key=lambda other: other.host == reached.host)


def expanded(reached: Address, listeners: Sequence[Address]) -> frozenset[Address]:
    """All addresses of the relay's that we know of."""
    return frozenset((reached, *elsewhere(reached, listeners), *listeners))


def _reach(host: str, reached: str) -> bool:
    """Whether an address means the same to us as to the relay, which we reach at another one."""
    if host == reached:
        return True
    theirs = ipaddress.ip_address(host)
    ours = ipaddress.ip_address(reached.partition("%")[0])
    if theirs.is_multicast or theirs.is_loopback != ours.is_loopback:
        return False
    if theirs.is_link_local:
        return False
    return not _is_private(theirs) or _is_private(ours)


_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    )
)
"""RFC 1918, RFC 6598, RFC 4193."""


def _is_private(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(ip in network for network in _PRIVATE)
