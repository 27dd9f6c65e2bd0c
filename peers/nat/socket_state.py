"""What is being found out of one socket. docs/protocol.md §12.2, §12.3."""

import asyncio
import ipaddress
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from socket import AddressFamily
from typing import Any

from relay.wire.address import Address

from ..interfaces import IpInterface
from ..network import DatagramSocket
from .gateway import Grant
from .outlook import Mapping, SocketOutlook
from .port_mapping import Mappers, PortMapping
from .question import Questioner

ANY_HOST = "0.0.0.0"


class SocketState:
    """Asks, compares, has its port mapped; calls `on_change` for everything that is learnt."""

    def __init__(
        self, socket: DatagramSocket, questioner: Questioner, on_change: Callable[[], None]
    ) -> None:
        self._socket = socket
        self._questioner = questioner
        self._on_change = on_change
        self._outside: Address | None = None
        self._mapping = Mapping.UNKNOWN
        self._grant: Grant | None = None
        self._task: asyncio.Task[None] | None = None
        self._port_mapping: PortMapping | None = None
        self._gateway: tuple[str, str] | None = None  # of `_port_mapping`
        self._closing: set[asyncio.Task[None]] = set()  # former ones of these

    @property
    def outside(self) -> Address | None:
        """As the relay sees it."""
        return self._outside

    @property
    def family(self) -> AddressFamily:
        """The socket's."""
        return self._socket.local.family

    @property
    def outlook(self) -> SocketOutlook:
        """What is known now."""
        return SocketOutlook(self._socket, self._outside, self._mapping, self._mapped())

    def seen_at(
        self,
        outside: Address,
        reached: Address,
        listeners: Sequence[Address],
        interfaces: Sequence[IpInterface],
    ) -> None:
        """The relay has seen the socket at `outside`: check the mapping anew."""
        self._outside = outside
        self._mapping = Mapping.UNKNOWN
        if is_own(outside, self._socket.local, interfaces):
            self._mapping = Mapping.INDEPENDENT
        elif listeners:
            self._run(self._check(outside, reached, listeners))
        self._on_change()

    def ask_first(self, reached: Sequence[Address], interfaces: Sequence[IpInterface]) -> None:
        """Nobody has seen the socket yet: ask the relay at the first of these that answers."""
        self._run(self._ask_first(reached, interfaces))

    def forget(self) -> None:
        """Where it is seen is not known any more."""
        self._outside = None
        self._mapping = Mapping.UNKNOWN
        self._stop()
        self._on_change()

    def map_port(self, mappers: Mappers | None) -> None:
        """Have its port mapped by this gateway; None: by nobody. Doing so again does nothing."""
        gateway = mappers.key if mappers is not None else None
        if gateway == self._gateway:
            return
        former, self._port_mapping = self._port_mapping, None
        if former is not None:
            closing = asyncio.get_running_loop().create_task(former.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._gateway = gateway
        self._granted(None)
        if mappers is not None:
            self._port_mapping = PortMapping(mappers, self._socket.local.port, self._granted)

    async def close(self) -> None:
        """Stop, and have the port mapping removed."""
        self._stop()
        port_mapping, self._port_mapping = self._port_mapping, None
        if port_mapping is not None:
            await port_mapping.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._stop()
        self._task = asyncio.get_running_loop().create_task(work)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _check(
        self, outside: Address, reached: Address, listeners: Sequence[Address]
    ) -> None:
        found = await self._questioner.mapping(self._socket, reached, outside, listeners)
        if found is not self._mapping:
            self._mapping = found
            self._on_change()

    async def _ask_first(
        self, reached: Sequence[Address], interfaces: Sequence[IpInterface]
    ) -> None:
        for each in reached:
            answer = await self._questioner.ask(self._socket, each)
            if answer is not None:
                self._task = None  # which is this one: it must not be cancelled by the next
                self.seen_at(answer.address, each, answer.listeners, interfaces)
                return

    def _granted(self, grant: Grant | None) -> None:
        if grant is not self._grant:
            self._grant = grant
            self._on_change()

    def _mapped(self) -> Address | None:
        """Where the gateway forwards from. One that does not know itself is where we are seen."""
        if self._grant is None:
            return None
        external = self._grant.external
        if external.host != ANY_HOST:
            return external
        return Address(self._outside.host, external.port) if self._outside is not None else None


def is_own(outside: Address, local: Address, interfaces: Sequence[IpInterface]) -> bool:
    """Whether the relay sees one of our own addresses: then no NAT is between."""
    if outside.port != local.port:
        return False
    with suppress(ValueError):
        ip = ipaddress.ip_address(outside.host)
        return ip.is_loopback or any(each.ip == ip for each in interfaces)
    return False
