"""What an examination found: values, and the same as JSON (docs/protocol.md §12.4)."""

from dataclasses import dataclass, field
from enum import StrEnum

from relay.wire.address import Address

from ..nat.outlook import Mapping
from .path_mtu import LARGEST_IP


class Reach(StrEnum):
    """Whether the relay is reached by one address family."""

    REACHED = "reached"
    NO_ADDRESS = "no_address"
    """The relay has no address of this family."""
    NO_ROUTE = "no_route"
    """This machine has no way there."""
    REFUSED = "refused"
    """The host says that nobody listens on that port."""
    SILENT = "silent"
    """Nothing came back."""
    UNTRUSTED = "untrusted"
    """Somebody answered whose certificate we have no reason to trust."""


@dataclass(slots=True)
class FamilyReport:
    """One address family."""

    reach: Reach
    relay: Address | None = None
    """Which of the relay's addresses was asked, or would have been."""
    problem: str = ""
    """Why it was not reached, or does not say where it sees us."""
    round_trip_s: float | None = None
    outside: Address | None = None
    behind_nat: bool | None = None
    """None: not known."""
    mapping: Mapping = Mapping.UNKNOWN
    hairpins: bool | None = None
    """None: not examined: there is no NAT, or we are not seen."""
    path_mtu: int | None = None
    """Bytes of the largest IP packet that gets to the relay; `LARGEST_IP` or more if that does."""

    def to_json(self) -> dict[str, object]:
        """The object of one family."""
        round_trip_ms = None if self.round_trip_s is None else round(self.round_trip_s * 1000, 1)
        return {
            "reach": self.reach.value,
            "problem": self.problem or None,
            "relay": _text(self.relay),
            "round_trip_ms": round_trip_ms,
            "outside": _text(self.outside),
            "behind_nat": self.behind_nat,
            "mapping": self.mapping.value,
            "hairpinning": self.hairpins,
            "path_mtu": self.path_mtu,
            "path_mtu_is_limit_of_test": self.path_mtu == LARGEST_IP,
        }


@dataclass(slots=True)
class GatewayReport:
    """What the default router does for us."""

    address: str
    pcp: bool = False
    nat_pmp: bool = False
    upnp: bool = False
    name: str = ""
    """What it calls itself by UPnP: not to be trusted."""
    outside: str | None = None
    """The outside address that it says it has."""

    @property
    def maps_ports(self) -> bool:
        """Whether it answers to any of the protocols."""
        return self.pcp or self.nat_pmp or self.upnp

    def to_json(self) -> dict[str, object]:
        """The object of the gateway."""
        return {
            "address": self.address,
            "pcp": self.pcp,
            "nat_pmp": self.nat_pmp,
            "upnp_igd": self.upnp,
            "name": self.name or None,
            "outside": self.outside,
        }


@dataclass(slots=True)
class Report:
    """All of it."""

    relay: str | None
    """The relay's name and port; None: none was asked."""
    is_near: bool = False
    """Whether the relay is on this very machine, so that the network is not examined."""
    fingerprint: str = ""
    """Of the certificate that the relay showed, if it was reached."""
    interfaces: tuple[str, ...] = ()
    """Our own addresses with their networks' lengths."""
    ipv4: FamilyReport = field(default_factory=lambda: FamilyReport(Reach.NO_ADDRESS))
    ipv6: FamilyReport = field(default_factory=lambda: FamilyReport(Reach.NO_ADDRESS))
    gateway: GatewayReport | None = None
    """None: the system names no default router, or it was not asked."""
    problem: str = ""
    """Why the relay was not reached, in one line; empty: it was, or none was to be."""

    @property
    def families(self) -> tuple[FamilyReport, FamilyReport]:
        """Both."""
        return self.ipv4, self.ipv6

    @property
    def is_reached(self) -> bool:
        """Whether the relay is, by any family."""
        return any(each.reach is Reach.REACHED for each in self.families)

    @property
    def udp_passes(self) -> bool | None:
        """Whether UDP does; None: not known, for only an answer proves anything."""
        return True if self.is_reached else None

    def to_json(self) -> dict[str, object]:
        """The whole document, as docs/protocol.md §12.4 has it."""
        asked = self.relay is not None
        relay = {
            "name": self.relay,
            "fingerprint": self.fingerprint or None,
            "reached": self.is_reached,
            "on_this_machine": self.is_near,
        }
        return {
            "version": 1,
            "relay": relay if asked else None,
            "problem": self.problem or None,
            "udp_passes": self.udp_passes,
            "interfaces": list(self.interfaces),
            "ipv4": self.ipv4.to_json() if asked else None,
            "ipv6": self.ipv6.to_json() if asked else None,
            "gateway": self.gateway.to_json() if self.gateway is not None else None,
        }


def _text(address: Address | None) -> str | None:
    return None if address is None else str(address)
