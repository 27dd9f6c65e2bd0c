"""The examination itself: all that can be asked at the same time is."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from socket import AddressFamily
from typing import Any

from relay.wire.address import Address
from relay.wire.body import MalformedRequest
from relay.wire.outside import ADDRESS_PATH, AddressAnswer

from ..endpoint import Endpoint, Way
from ..errors import RelayError, RelayUnreachable, RelayUntrusted
from ..identity import fingerprint_of
from ..link.connection import RelayConnection
from ..link.outside import read
from ..nat.discovery import is_loopback
from ..nat.outlook import Mapping
from ..nat.port_mapping import Mappers
from ..nat.question import Questioner
from ..nat.socket_state import is_own
from ..network import Network
from ..relay_name import RelayName
from ..trust import RelayTrust
from .hairpin import hairpins
from .knock import Knock, Knocker, system_knock
from .path_mtu import path_mtu
from .report import FamilyReport, GatewayReport, Reach, Report
from .taps import TappedNetwork

CONNECT_S = 5.0
"""Seconds for the relay to answer at one of its addresses."""
REFUSED_GRACE_S = 1.0
"""Seconds that it still has when the system says that nobody listens: that could be forged."""
MAX_TRIED = 2
"""How many of the relay's addresses of one family are tried."""
PINGS = 5
ANSWER_S = 3.0
"""Seconds for a ping or a request."""


async def examine(
    network: Network,
    relay: RelayName | None,
    trust: RelayTrust,
    *,
    knock: Knocker = system_knock,
) -> Report:
    """Find out what there is to know, in about ten seconds at most. Maps no port.

    What the network does is in the report, and raises nothing.

    :param relay: None: what needs no relay is found out.
    """
    report = Report(None if relay is None else str(relay))
    report.interfaces = tuple(map(str, network.interfaces()))
    if relay is None:
        report.gateway = await examine_gateway(network)
        return report
    try:
        addresses = await network.resolve(relay.host, relay.port)
    except RelayUnreachable as error:
        report.problem = str(error)
        return report
    examination = Examination(network, relay, trust, knock)
    # What is on this very machine leads by no gateway: nobody on the network is asked then.
    report.is_near = all(map(is_loopback, addresses))
    try:
        report.ipv4, report.ipv6, report.gateway = await asyncio.gather(
            examination.family(AddressFamily.AF_INET, addresses),
            examination.family(AddressFamily.AF_INET6, addresses),
            asyncio.sleep(0, None) if report.is_near else examine_gateway(network),
        )
    finally:
        examination.close()
    report.fingerprint = examination.fingerprint
    if not report.is_reached:
        report.problem = problem(relay, report)
    return report


class Examination:
    """Of the way to one relay."""

    def __init__(
        self, network: Network, relay: RelayName, trust: RelayTrust, knock: Knocker
    ) -> None:
        self._network = TappedNetwork(network)
        self._endpoint = Endpoint(self._network)
        self._relay = relay
        self._trust = trust
        self._knock = knock
        self._loop = asyncio.get_running_loop()
        self.fingerprint = ""
        """Of the relay's certificate, once it was reached."""

    def close(self) -> None:
        """Close all sockets."""
        self._endpoint.close()

    async def family(self, family: AddressFamily, addresses: Sequence[Address]) -> FamilyReport:
        """Examine one address family, by the first of the relay's addresses that answers."""
        report = FamilyReport(Reach.NO_ADDRESS)
        for address in [each for each in addresses if each.family == family][:MAX_TRIED]:
            report = await self._address(address)
            if report.reach in (Reach.REACHED, Reach.NO_ROUTE):
                break
        return report

    async def _address(self, address: Address) -> FamilyReport:
        try:
            way = self._endpoint.open(address)
        except OSError as error:
            problem = str(error.strerror or error)
            return FamilyReport(Reach.NO_ROUTE, address, problem)

        def check(chain: list[bytes]) -> None:
            self._trust.check(chain, self._relay.host, address, datetime.now(UTC))

        connection = RelayConnection(
            self._endpoint, way, self._relay.host, check, self._trust.token
        )
        report = FamilyReport(Reach.SILENT, address)
        try:
            report.reach, report.problem = await self._await_ready(connection, address)
            if report.reach is Reach.REACHED:
                self.fingerprint = fingerprint_of(connection.chain[0])
                await self._measure(report, connection, way)
        finally:
            connection.close()
            self._endpoint.release(way)
        return report

    async def _await_ready(
        self, connection: RelayConnection, address: Address
    ) -> tuple[Reach, str]:
        knocking = asyncio.ensure_future(self._knock(address))
        try:
            both: set[asyncio.Future[Any]] = {connection.ready, knocking}
            await asyncio.wait(both, timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            knock = knocking.result() if knocking.done() else Knock.SILENT
            if not connection.ready.done() and knock is not Knock.NO_ROUTE:
                patience_s = REFUSED_GRACE_S if knock is Knock.REFUSED else CONNECT_S
                await asyncio.wait({connection.ready}, timeout=patience_s)
        finally:
            knocking.cancel()
        if not connection.ready.done():
            return Reach(knock.value), ""
        match connection.ready.exception():
            case None:
                return Reach.REACHED, ""
            case RelayUntrusted() as error:
                return Reach.UNTRUSTED, str(error)
            case error:
                return Reach.SILENT, str(error)

    async def _measure(self, report: FamilyReport, connection: RelayConnection, way: Way) -> None:
        answer = await self._ask(report, connection)
        report.round_trip_s = await self._round_trip(connection)
        measuring = [self._path_mtu(report, way)]
        if answer is not None:
            report.outside = answer.address
            report.behind_nat = not is_own(
                answer.address, way.socket.local, self._network.interfaces()
            )
            if report.behind_nat:
                measuring.append(self._mapping(report, way, answer))
                measuring.append(self._hairpinning(report, way, answer.address))
            else:
                report.mapping = Mapping.INDEPENDENT
        await asyncio.gather(*measuring)

    async def _ask(self, report: FamilyReport, connection: RelayConnection) -> AddressAnswer | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await connection.request("GET", str(self._relay), ADDRESS_PATH)
            answer = read(response)
            report.problem = response.problem() if answer is None else ""
            return answer
        except (RelayError, MalformedRequest) as error:
            report.problem = str(error)
        except TimeoutError:
            report.problem = f"no answer within {ANSWER_S:.0f} s"
        return None

    async def _round_trip(self, connection: RelayConnection) -> float | None:
        """The shortest of some: what is longer waited somewhere."""
        shortest: float | None = None
        for _ in range(PINGS):
            answered: asyncio.Future[float] = self._loop.create_future()

            def acknowledged(now: float, answered: asyncio.Future[float] = answered) -> None:
                if not answered.done():
                    answered.set_result(now)

            connection.on_ping_acknowledged = acknowledged
            begin = self._loop.time()
            connection.ping()
            try:
                async with asyncio.timeout(ANSWER_S):
                    took_s = await answered - begin
            except TimeoutError:
                break
            shortest = took_s if shortest is None else min(shortest, took_s)
        connection.on_ping_acknowledged = None
        return shortest

    async def _path_mtu(self, report: FamilyReport, way: Way) -> None:
        round_trip_s = report.round_trip_s or 0.0
        report.path_mtu = await path_mtu(self._network, way.socket, way.relay, round_trip_s)

    async def _mapping(self, report: FamilyReport, way: Way, answer: AddressAnswer) -> None:
        report.mapping = await self._questioner.mapping(
            way.socket, way.relay, answer.address, answer.listeners
        )

    async def _hairpinning(self, report: FamilyReport, way: Way, outside: Address) -> None:
        try:
            second = self._endpoint.open(way.relay)
        except OSError:
            return
        try:
            answer = await self._questioner.ask(second.socket, way.relay)
            if answer is not None:
                first = (way.socket, outside)
                report.hairpins = await hairpins(
                    self._network, first, (second.socket, answer.address)
                )
        finally:
            self._endpoint.release(second)

    @property
    def _questioner(self) -> Questioner:
        return Questioner(self._endpoint, self._relay, self.fingerprint, self._trust.token)


async def examine_gateway(network: Network) -> GatewayReport | None:
    """Which protocols the default router answers to; None: it is not known."""
    gateway = network.gateway()
    if gateway is None:
        return None
    report = GatewayReport(gateway)
    mappers = Mappers.of(network)
    if mappers is None:
        return report
    report.pcp, by_nat_pmp, report.upnp = await asyncio.gather(
        mappers.pcp.is_there(), mappers.nat_pmp.outside_address(), mappers.upnp.is_there()
    )
    report.nat_pmp = by_nat_pmp is not None
    report.name = mappers.upnp.name
    by_upnp = await mappers.upnp.outside_address() if report.upnp else None
    report.outside = by_nat_pmp or by_upnp
    return report


def problem(relay: RelayName, report: Report) -> str:
    """Why the relay is not reached, what that means, and what to do: in one line."""
    reaches = {each.reach for each in report.families}
    for each in report.families:
        if each.reach is Reach.UNTRUSTED:
            return each.problem
    if Reach.SILENT in reaches:
        return (
            f"nothing comes back from the relay {relay}: either it is down, or something on the way"
            f" blocks UDP to port {relay.port}; if it can be reached from another network, this one"
            " blocks UDP, and Quicpipe cannot work here"
        )
    if Reach.REFUSED in reaches:
        return (
            f"no relay runs at {relay}: the host answers that nobody listens on UDP port"
            f" {relay.port}; is the port right?"
        )
    return f"this machine has no way to the relay {relay}: is it connected to a network?"
