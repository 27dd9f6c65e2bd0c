"""A report in plain words."""

from ..nat.outlook import Mapping
from .path_mtu import LARGEST_IP
from .report import FamilyReport, GatewayReport, Reach, Report

_WIDTH = 10

_MAPPINGS = {
    Mapping.INDEPENDENT: "its mapping is endpoint-independent: it gives this machine the same"
    " outside port towards everybody",
    Mapping.DEPENDENT: "its mapping is endpoint-dependent: another outside port towards each other"
    " machine, so that a peer cannot know where to send",
    Mapping.UNKNOWN: "how it maps is unknown: the relay has no second address or port that answers,"
    " to compare with",
}

_NOT_REACHED = {
    Reach.NO_ADDRESS: "not used: the relay has no such address",
    Reach.NO_ROUTE: "not used: this machine has no way out by it",
    Reach.REFUSED: "no relay there: the host says that nobody listens on that port",
    Reach.SILENT: "nothing comes back",
    Reach.UNTRUSTED: "somebody answers whom there is no reason to trust",
}


def in_words(report: Report) -> list[str]:
    """Lines, each of at most a sentence or two."""
    lines = [_entry("addresses", ", ".join(report.interfaces) or "none but loopback")]
    if report.relay is not None:
        relay = report.relay + (f" ({report.fingerprint})" if report.fingerprint else "")
        lines.append(_entry("relay", relay))
        if report.udp_passes:
            lines.append(_entry("UDP", "passes"))
        if any(each.relay is not None for each in report.families):
            lines += [*_family("IPv4", report.ipv4), *_family("IPv6", report.ipv6)]
    if report.gateway is not None:
        lines += _gateway(report.gateway, report.ipv4)
    if report.is_reached:
        lines.append(_entry("in short", in_short(report)))
    return lines


def in_short(report: Report) -> str:
    """What all that means for direct paths."""
    if report.is_near:
        return "the relay is on this very machine: that says nothing of the network"
    reached = [each for each in report.families if each.reach is Reach.REACHED]
    if any(each.behind_nat is False for each in reached):
        return "no NAT in the way: a direct path should be found to nearly every peer"
    if any(each.mapping is Mapping.INDEPENDENT for each in reached):
        return "a direct path should be found to most peers"
    if report.gateway is not None and report.gateway.maps_ports and not _is_nested(report):
        return "the router maps a port for us: a direct path should be found to most peers"
    if any(each.mapping is Mapping.DEPENDENT for each in reached):
        return (
            "a direct path should be found to peers behind no NAT, or one whose mapping is"
            " endpoint-independent; to the others the relay carries everything"
        )
    return "it works through the relay; whether directly, only trying will tell"


def _family(name: str, family: FamilyReport) -> list[str]:
    if family.reach is not Reach.REACHED:
        asked = f" ({family.relay})" if family.relay is not None else ""
        return [_entry(name, _NOT_REACHED[family.reach] + asked)]
    distance = f", {family.round_trip_s * 1000:.1f} ms" if family.round_trip_s is not None else ""
    lines = [_entry(name, f"reaches the relay at {family.relay}{distance} there and back")]
    if family.outside is None:
        lines.append(_entry("", f"the relay does not say where it sees us: {family.problem}"))
    else:
        nat = "behind a NAT" if family.behind_nat else "no NAT is between"
        lines.append(_entry("", f"seen from outside as {family.outside}: {nat}"))
    if family.behind_nat:
        lines.append(_entry("", _MAPPINGS[family.mapping]))
    if family.hairpins is not None:
        can = "can" if family.hairpins else "cannot"
        lines.append(
            _entry("", f"those behind it {can} reach each other from outside (hairpinning)")
        )
    lines.append(_entry("", _path_mtu(family.path_mtu)))
    return lines


def _path_mtu(mtu: int | None) -> str:
    if mtu is None:
        return "path MTU unknown: the relay does not answer probes"
    return f"path MTU {mtu} bytes" + (", or more" if mtu == LARGEST_IP else "")


def _gateway(gateway: GatewayReport, ipv4: FamilyReport) -> list[str]:
    spoken = [
        name
        for name, speaks in (
            ("PCP", gateway.pcp),
            ("NAT-PMP", gateway.nat_pmp),
            ("UPnP-IGD", gateway.upnp),
        )
        if speaks
    ]
    if not spoken:
        words = f"{gateway.address} maps no ports: it answers neither PCP nor NAT-PMP nor UPnP-IGD"
        return [_entry("router", words)]
    called = f" ('{gateway.name}')" if gateway.name else ""
    lines = [_entry("router", f"{gateway.address}{called} maps ports: {', '.join(spoken)}")]
    if _says_otherwise(gateway, ipv4):
        words = f"its outside address is {gateway.outside}: another NAT stands behind it"
        lines.append(_entry("", words))
    return lines


def _is_nested(report: Report) -> bool:
    return report.gateway is not None and _says_otherwise(report.gateway, report.ipv4)


def _says_otherwise(gateway: GatewayReport, ipv4: FamilyReport) -> bool:
    """Whether the router's own outside address is not where the relay sees us."""
    if gateway.outside is None or ipv4.outside is None:
        return False
    return gateway.outside != ipv4.outside.host


def _entry(name: str, words: str) -> str:
    return f"{name:{_WIDTH}}{words}"
