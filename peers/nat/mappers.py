"""Port mappings by PCP (RFC 6887) and by NAT-PMP (RFC 6886)."""

import os

from relay.wire.address import Address

from ..network import Network
from . import natpmp, pcp
from .gateway import Grant, NotMapped, NotThere, Speaks, exchange

ANY = Address("0.0.0.0", 0)

Read = pcp.Mapped | NotMapped | None

_NO_MAPPINGS = (pcp.ResultCode.UNSUPPORTED_VERSION, pcp.ResultCode.UNSUPPORTED_OPCODE)


class PcpMapper:
    """PCP with the default router (RFC 6887 §8.1)."""

    speaks = Speaks.PCP

    def __init__(self, network: Network, gateway: str, client: str) -> None:
        """:param client: our own IPv4 address towards the gateway."""
        self._network = network
        self._gateway = Address(gateway, natpmp.PORT)
        self._client = client
        self._nonce = os.urandom(pcp.NONCE_LENGTH)

    async def is_there(self) -> bool:
        """Whether a server answers, without having anything mapped."""

        def read(datagram: bytes) -> bool | None:
            if pcp.is_older_version(datagram):
                return False
            return None if pcp.decode_answer(datagram) is None else True

        request = pcp.encode_announce(self._client)
        return await exchange(self._network, self._gateway, request, read) or False

    async def map(self, internal_port: int, external_port: int, lifetime_s: int) -> Grant:
        """See `Mapper`. With the same port it renews (§11.2.1)."""

        def read(datagram: bytes) -> Read:
            if pcp.is_older_version(datagram):
                return NotThere("the gateway speaks NAT-PMP only")
            return self._read(datagram, internal_port)

        request = self._request(internal_port, external_port, lifetime_s)
        answer: Read = await exchange(self._network, self._gateway, request, read)
        if answer is None:
            raise NotThere("no answer by PCP")
        if not isinstance(answer, pcp.Mapped):
            raise answer
        if answer.lifetime_s == 0 or answer.external.port == 0:
            raise NotMapped("the gateway granted no time")
        return Grant(Speaks.PCP, internal_port, answer.external, answer.lifetime_s)

    async def unmap(self, grant: Grant) -> None:
        """See `Mapper` (§15.1)."""
        request = self._request(grant.internal_port, 0, 0)
        await exchange(
            self._network,
            self._gateway,
            request,
            lambda datagram: self._read(datagram, grant.internal_port),
        )

    def _request(self, internal_port: int, external_port: int, lifetime_s: int) -> bytes:
        wanted = Address(ANY.host, external_port)
        return pcp.encode_map_request(self._client, self._nonce, internal_port, wanted, lifetime_s)

    def _read(self, datagram: bytes, internal_port: int) -> Read:
        match pcp.decode_answer(datagram):
            case pcp.Mapped(nonce, port) as mapped if (nonce, port) == (self._nonce, internal_port):
                return mapped
            case pcp.Refused(code) if code in _NO_MAPPINGS:
                return NotThere("the gateway does not map ports by PCP")
            case pcp.Refused(code, True, nonce) if nonce in (self._nonce, b""):
                return NotMapped(f"refused by PCP: {_in_words(pcp.ResultCode, code)}")
        return None


class NatPmpMapper:
    """NAT-PMP with the default router (RFC 6886 §3)."""

    speaks = Speaks.NAT_PMP

    def __init__(self, network: Network, gateway: str) -> None:
        self._network = network
        self._gateway = Address(gateway, natpmp.PORT)

    async def outside_address(self) -> str | None:
        """The gateway's own outside address (§3.2); None: nobody answers, or it has none.

        Nothing is mapped.
        """

        def read(datagram: bytes) -> natpmp.OutsideAddress | natpmp.Refused | None:
            match natpmp.decode_answer(datagram):
                case natpmp.OutsideAddress() as found:
                    return found
                case natpmp.Refused(False) as refused:
                    return refused
            return None

        request = natpmp.encode_outside_request()
        answer = await exchange(self._network, self._gateway, request, read)
        return answer.host if isinstance(answer, natpmp.OutsideAddress) else None

    async def map(self, internal_port: int, external_port: int, lifetime_s: int) -> Grant:
        """See `Mapper`. With the same port it renews (§3.3)."""
        request = natpmp.encode_map_request(internal_port, external_port, lifetime_s)
        answer = await self._exchange_map(request, internal_port)
        if answer is None:
            raise NotThere("no answer by NAT-PMP")
        if isinstance(answer, natpmp.Refused):
            words = _in_words(natpmp.ResultCode, answer.code)
            raise NotMapped(f"refused by NAT-PMP: {words}")
        if answer.lifetime_s == 0 or answer.external_port == 0:
            raise NotMapped("the gateway granted no time")
        host = await self.outside_address() or ANY.host
        external = Address(host, answer.external_port)
        return Grant(Speaks.NAT_PMP, internal_port, external, answer.lifetime_s)

    async def unmap(self, grant: Grant) -> None:
        """See `Mapper` (§3.4)."""
        request = natpmp.encode_map_request(grant.internal_port, 0, 0)
        await self._exchange_map(request, grant.internal_port)

    async def _exchange_map(
        self, request: bytes, internal_port: int
    ) -> natpmp.Mapped | natpmp.Refused | None:
        def read(datagram: bytes) -> natpmp.Mapped | natpmp.Refused | None:
            match natpmp.decode_answer(datagram):
                case natpmp.Mapped(port) as mapped if port == internal_port:
                    return mapped
                case natpmp.Refused(True) as refused:
                    return refused
            return None

        return await exchange(self._network, self._gateway, request, read)


def _in_words(codes: type[pcp.ResultCode] | type[natpmp.ResultCode], code: int) -> str:
    try:
        return codes(code).name.lower().replace("_", " ")
    except ValueError:
        return f"result {code}"
