"""What the system itself says of an address that does not answer."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from enum import Enum

from relay.wire.address import Address

PATIENCE_S = 1.0
"""Seconds for an ICMP message to come back."""

_NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)


class Knock(Enum):
    """How an address takes a datagram."""

    NO_ROUTE = "no_route"
    """This machine has no way there: no address of that family, no network."""
    REFUSED = "refused"
    """The host is there and says that nobody listens on that port (ICMP port unreachable)."""
    SILENT = "silent"
    """Nothing came back, which with UDP means anything."""


Knocker = Callable[[Address], Awaitable[Knock]]


async def system_knock(address: Address) -> Knock:
    """Send one short datagram, which no QUIC server answers, from a connected socket."""
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as knocking:
            knocking.setblocking(False)
            knocking.connect(address.sockaddr)
            knocking.send(b"\0")
            async with asyncio.timeout(PATIENCE_S):
                await loop.sock_recv(knocking, 1)
    except ConnectionRefusedError:
        return Knock.REFUSED
    except TimeoutError:
        return Knock.SILENT
    except OSError as error:
        return Knock.NO_ROUTE if error.errno in _NO_ROUTE else Knock.SILENT
    return Knock.SILENT
