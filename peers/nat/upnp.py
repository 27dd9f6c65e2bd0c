"""Port mappings by UPnP-IGD, through the library async-upnp-client.

A device on the local network is as hostile as any other. Only the default router is listened to;
what it names is fetched from itself only, in bounded pieces and a bounded time; its XML is read by
a parser that expands no entities. The library is loaded when it is first needed, in a thread: it
takes a sixth of a second.
"""

import asyncio
import importlib
import ipaddress
import random
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from relay.wire.address import Address

from ..errors import printable
from ..network import Network
from .gateway import Grant, NotMapped, NotThere, Speaks, exchange

if TYPE_CHECKING:
    from async_upnp_client.client import UpnpDevice, UpnpService

SSDP = Address("239.255.255.250", 1900)
SEARCH_TARGET = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
"""A gateway of version 2 answers to this, too (UPnP Device Architecture 1.1 §1.3.2)."""
SEARCH_S = 2.5
"""Seconds for a gateway to answer a search; it may take the one that MX allows it."""
HTTP_TIMEOUT_S = 3.0
"""Seconds for one request of several."""
TIMEOUT_S = 8.0
"""Seconds for all of them."""
MAX_BODY = 256 * 1024
"""Bytes of one description; those of real gateways have up to 30 kB."""
CONFLICTS = 3
"""How many external ports are tried if those that we would like are taken."""

DESCRIPTION = "quicpipe"

_SERVICES = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
_CONFLICT = 718
_ONLY_PERMANENT = 725
_FIRST_PORT, _LAST_PORT = 1024, 65_535


class UpnpMapper:
    """UPnP-IGD with the default router."""

    speaks = Speaks.UPNP

    def __init__(self, network: Network, gateway: str, client: str) -> None:
        """:param client: our own IPv4 address towards the gateway."""
        self._network = network
        self._gateway = gateway
        self._client = client
        self._service: UpnpService | None = None  # None: not found yet
        self.name = ""
        """What the gateway calls itself; empty before it was found."""

    async def is_there(self) -> bool:
        """Whether a gateway answers that can map ports. Nothing is mapped."""
        try:
            await self._find()
        except NotMapped:
            return False
        return True

    async def outside_address(self) -> str | None:
        """The gateway's own outside address; None: it does not say."""
        try:
            answer = await self._call("GetExternalIPAddress")
            found = ipaddress.IPv4Address(str(answer.get("NewExternalIPAddress")).strip())
        except (NotMapped, ValueError):
            return None
        return None if found.is_unspecified else str(found)

    async def map(self, internal_port: int, external_port: int, lifetime_s: int) -> Grant:
        """See `Mapper`. With the same ports it renews."""
        chance = random.SystemRandom()
        for _ in range(CONFLICTS):
            code, lifetime_s = await self._add(internal_port, external_port, lifetime_s)
            if code is None:
                host = await self.outside_address() or "0.0.0.0"
                external = Address(host, external_port)
                return Grant(Speaks.UPNP, internal_port, external, lifetime_s)
            external_port = chance.randint(_FIRST_PORT, _LAST_PORT)
        raise NotMapped("refused by UPnP-IGD: every port that was tried is taken")

    async def unmap(self, grant: Grant) -> None:
        """See `Mapper`."""
        if self._service is None:
            return
        with suppress(NotMapped):  # its time ends it
            await self._call(
                "DeletePortMapping",
                NewRemoteHost="",
                NewExternalPort=grant.external.port,
                NewProtocol="UDP",
            )

    async def _add(
        self, internal_port: int, external_port: int, lifetime_s: int
    ) -> tuple[int | None, int]:
        """Try one external port. None: it is ours, for so many seconds; else another may do."""
        for seconds in (lifetime_s, 0):
            try:
                await self._call(
                    "AddPortMapping",
                    NewRemoteHost="",
                    NewExternalPort=external_port,
                    NewProtocol="UDP",
                    NewInternalPort=internal_port,
                    NewInternalClient=self._client,
                    NewEnabled=True,
                    NewPortMappingDescription=DESCRIPTION,
                    NewLeaseDuration=seconds,
                )
            except ActionRefused as refused:
                if refused.code == _ONLY_PERMANENT and seconds:
                    continue
                if refused.code == _CONFLICT:
                    return refused.code, lifetime_s
                raise
            return None, seconds
        raise NotMapped("refused by UPnP-IGD: neither for a time nor for ever")

    async def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        service = await self._find()
        exceptions = await _load("exceptions")
        if not service.has_action(name):
            raise NotMapped(f"the gateway's UPnP-IGD has no {name}")
        try:
            async with asyncio.timeout(HTTP_TIMEOUT_S):
                return dict(await service.action(name).async_call(**arguments))
        except exceptions.UpnpActionError as error:
            code = error.error_code if isinstance(error.error_code, int) else 0
            raise ActionRefused(code, printable(str(error.error_desc), 80)) from None
        except TimeoutError:
            self._service = None
            raise NotMapped(f"no answer to UPnP-IGD's {name}") from None
        except Exception as error:  # any: the library promises no list for malformed input
            self._service = None  # the gateway may have been restarted, and be found elsewhere
            raise NotMapped(f"UPnP-IGD's {name} failed: {type(error).__name__}") from None

    async def _find(self) -> "UpnpService":
        if self._service is not None:
            return self._service
        location = await search(self._network, self._gateway)
        if location is None:
            raise NotThere("no answer by UPnP")
        factory, fetch = await _load("client_factory"), await _load_requester()
        requester = fetch.BoundedRequester(self._gateway, MAX_BODY, HTTP_TIMEOUT_S)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                make = factory.UpnpFactory(requester, non_strict=True)
                device: UpnpDevice = await make.async_create_device(location)
        except Exception as error:  # any: the library promises no list for malformed input
            raise NotMapped(
                f"the gateway's UPnP description is of no use: {type(error).__name__}"
            ) from None
        self.name = printable(f"{device.manufacturer} {device.model_name}".strip(), 60)
        for service in _services(device):
            self._service = service
            return service
        raise NotMapped("the gateway speaks UPnP, and offers no port mapping")


class ActionRefused(NotMapped):
    """The gateway answered with an error."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"refused by UPnP-IGD: {words or 'no reason given'} ({code})")
        self.code = code


async def search(network: Network, gateway: str) -> str | None:
    """Find the URL of the gateway's description by SSDP; None: it does not answer.

    Asked are the multicast group, and the gateway itself, which then need not wait.
    """
    ssdp = await _load("ssdp")
    answers = Address(gateway, SSDP.port)

    def read(datagram: bytes) -> str | None:
        try:
            if not ssdp.is_valid_ssdp_packet(datagram):
                return None
            _, headers = ssdp.decode_ssdp_packet(datagram, None, tuple(answers))
            location = str(headers.get_lower("location") or "")
        except Exception:  # any: the library promises no list for malformed input
            return None
        return location if is_of_gateway(location, gateway) else None

    async def ask(destination: Address) -> str | None:
        request = ssdp.build_ssdp_search_packet(tuple(destination), 1, SEARCH_TARGET)
        return await exchange(network, destination, request, read, answers_from=gateway)

    asking = [asyncio.ensure_future(ask(each)) for each in (answers, SSDP)]
    try:
        for each in asyncio.as_completed(asking, timeout=SEARCH_S):
            if (location := await each) is not None:
                return location
    except TimeoutError:
        pass
    finally:
        for task in asking:
            task.cancel()
    return None


def is_of_gateway(url: str, gateway: str) -> bool:
    """Whether a URL is plain HTTP at the gateway's own address: nothing else is fetched."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname == gateway and port != 0


def _services(device: "UpnpDevice") -> "Iterator[UpnpService]":
    for kind in _SERVICES:
        for service in device.all_services:
            if service.service_type == kind and service.has_action("AddPortMapping"):
                yield service


async def _load(name: str) -> ModuleType:
    """A module of the library.

    :raises NotThere: it is not installed.
    """
    return await _imported(f"async_upnp_client.{name}")


async def _load_requester() -> ModuleType:
    return await _imported("peers.nat.upnp_http")


async def _imported(name: str) -> ModuleType:
    try:
        return await asyncio.to_thread(importlib.import_module, name)
    except ImportError:
        raise NotThere("UPnP is not asked: the package async-upnp-client is missing") from None
