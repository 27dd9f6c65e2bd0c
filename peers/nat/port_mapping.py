"""One port kept mapped by whichever gateway protocol there is, renewed, and removed at the end.

All in the background. The way of RFC 6887 §8.1 (the default router) is the only one that is tried.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ..interfaces import IpInterface
from ..network import Network
from .gateway import Grant, Mapper, NotMapped, NotThere
from .mappers import NatPmpMapper, PcpMapper
from .upnp import UpnpMapper

LIFETIME_S = 600
"""Seconds that are asked for: what we could not remove, because we were killed, ends soon."""
SHORTEST_RENEWAL_S = 15.0
"""Seconds between two renewals at least, whatever a gateway grants."""
UPNP_AFTER_S = 0.1
"""Seconds that the two quick protocols have before UPnP, which takes a dozen requests, begins."""
RETRY_S = (60.0, 300.0, 1800.0)
"""Seconds until a gateway that refused, or lost the mapping, is asked again; the last repeats."""

_log = logging.getLogger(__name__)

OnGrant = Callable[[Grant | None], None]
"""Takes what the gateway forwards to us now; None: nothing any more."""


class PortMapping:
    """For one UDP port. It begins with its construction; `close` ends it."""

    def __init__(self, mappers: "Mappers", port: int, on_grant: OnGrant) -> None:
        self._mappers = mappers
        self._port = port
        self._on_grant = on_grant
        self._held: tuple[Mapper, Grant] | None = None
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Stop, and have the mapping removed: a second or two at most. Never raises."""
        self._task.cancel()
        await asyncio.wait({self._task})
        held, self._held = self._held, None
        if held is not None:
            mapper, grant = held
            await mapper.unmap(grant)

    async def _keep(self) -> None:
        failures, had_one = 0, False
        while True:
            try:
                mapper, grant = await self._obtain()
            except NotMapped as error:
                if isinstance(error, NotThere) and not had_one:
                    return  # the network would have to be another one: then so is this object
                _log.info("no port mapping: %s", error)
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
                continue
            failures, had_one = 0, True
            _log.info("%s maps %s to our port %d", grant.speaks, grant.external, self._port)
            await self._renew(mapper, grant)

    async def _obtain(self) -> tuple[Mapper, Grant]:
        mapper, grant = await self._mappers.first(self._port)
        self._held = mapper, grant
        self._on_grant(grant)
        return mapper, grant

    async def _renew(self, mapper: Mapper, grant: Grant) -> None:
        """Until that fails: a gateway that was restarted has forgotten everything."""
        while True:
            lifetime_s = min(grant.lifetime_s or LIFETIME_S, LIFETIME_S)
            await asyncio.sleep(max(lifetime_s / 2, SHORTEST_RENEWAL_S))
            try:
                renewed = await mapper.map(self._port, grant.external.port, LIFETIME_S)
            except NotMapped as error:
                _log.info("the port mapping was not renewed: %s", error)
                self._held = None
                self._on_grant(None)
                return
            self._held = mapper, renewed
            if renewed.external != grant.external:
                self._on_grant(renewed)
            grant = renewed


class Mappers:
    """The protocols that the default router may speak."""

    def __init__(self, network: Network, gateway: str, client: str) -> None:
        """:param client: our own IPv4 address towards the gateway."""
        self.key = (gateway, client)
        """Two with the same key speak to the same gateway as the same client."""
        self.pcp = PcpMapper(network, gateway, client)
        self.nat_pmp = NatPmpMapper(network, gateway)
        self.upnp = UpnpMapper(network, gateway, client)

    @classmethod
    def of(cls, network: Network) -> "Mappers | None":
        """For the default router; None: it is not known, or is on no network of ours."""
        gateway = network.gateway()
        client = client_towards(gateway, network.interfaces()) if gateway else None
        return cls(network, gateway, client) if gateway and client else None

    async def first(self, port: int) -> tuple[Mapper, Grant]:
        """Have a port mapped by whoever does it first.

        :raises NotThere: nobody speaks any of the protocols.
        :raises NotMapped: somebody does, and refused.
        """
        attempts: list[Coroutine[Any, Any, tuple[Mapper, Grant]]] = [
            self._quick(port),
            self._by_upnp(port),
        ]
        tasks = [asyncio.ensure_future(each) for each in attempts]
        refusal: NotMapped = NotThere("no gateway maps ports here")
        try:
            for each in asyncio.as_completed(tasks):
                try:
                    return await each
                except NotThere:
                    continue
                except NotMapped as error:
                    refusal = error
            raise refusal
        finally:
            for task in tasks:
                task.cancel()
            # Should two have succeeded, the second one's mapping ends with its time.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _quick(self, port: int) -> tuple[Mapper, Grant]:
        try:
            return self.pcp, await self.pcp.map(port, port, LIFETIME_S)
        except NotMapped as error:
            try:
                return self.nat_pmp, await self.nat_pmp.map(port, port, LIFETIME_S)
            except NotThere:
                raise error from None

    async def _by_upnp(self, port: int) -> tuple[Mapper, Grant]:
        await asyncio.sleep(UPNP_AFTER_S)
        return self.upnp, await self.upnp.map(port, port, LIFETIME_S)


def client_towards(gateway: str, interfaces: tuple[IpInterface, ...]) -> str | None:
    """Our own address on the gateway's network; None: there is none."""
    on_link = [each for each in interfaces if each.version == 4 and _holds(each, gateway)]
    longest = max(on_link, key=lambda each: each.network.prefixlen, default=None)
    return str(longest.ip) if longest is not None else None


def _holds(interface: IpInterface, gateway: str) -> bool:
    try:
        return ipaddress.ip_address(gateway) in interface.network
    except ValueError:
        return False
