"""Asking a gateway to map a port: what the three protocols have in common, and one exchange."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from relay.wire.address import Address

from ..network import Network

ATTEMPTS_S = (0.25, 0.5, 1.0)
"""Seconds after which a request is sent again, and after the last given up (RFC 6886 §3.1: it
doubles from 250 ms on; we stop sooner, for a gateway that is there answers within milliseconds)."""

Answer = TypeVar("Answer")


class Speaks(StrEnum):
    """By which protocol a gateway maps ports."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP-IGD"


class NotMapped(Exception):
    """There is no mapping; the text says why, in one line."""


class NotThere(NotMapped):
    """Nobody speaks that protocol there."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A port that a gateway forwards to us."""

    speaks: Speaks
    internal_port: int
    external: Address
    """The host is the gateway's own outside address; `0.0.0.0` if it does not know it."""
    lifetime_s: float
    """Seconds; 0: until it is removed."""


class Mapper(Protocol):
    """Speaks one protocol with one gateway."""

    @property
    def speaks(self) -> Speaks:
        """Which."""

    async def map(self, internal_port: int, external_port: int, lifetime_s: int) -> Grant:
        """Map a UDP port, or renew its mapping. Takes some seconds at most.

        :param external_port: the one that we would like.
        :raises NotMapped: it was refused, or failed.
        """

    async def unmap(self, grant: Grant) -> None:
        """Remove a mapping: best effort, at most a second or two. Never raises."""


async def exchange(
    network: Network,
    gateway: Address,
    request: bytes,
    read: Callable[[bytes], Answer | None],
    *,
    answers_from: str | None = None,
) -> Answer | None:
    """Send a request until something comes back that `read` takes for its answer; None: nothing.

    Only datagrams from that very address and port are looked at (RFC 6887 §8.3).

    :param answers_from: an IP address; those from any of its ports are looked at, and no others.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()

    def receive(batch: list[tuple[bytes, Address]]) -> None:
        for datagram, source in batch:
            ours = source == gateway if answers_from is None else source.host == answers_from
            found = read(datagram) if ours else None
            if found is not None and not answer.done():
                answer.set_result(found)

    try:
        socket = network.open_socket(gateway.family)
    except OSError:
        return None
    try:
        socket.start(receive)
        for wait_s in ATTEMPTS_S:
            socket.send([request], gateway)
            await asyncio.wait({answer}, timeout=wait_s)
            if answer.done():
                return answer.result()
        return None
    finally:
        socket.close()
