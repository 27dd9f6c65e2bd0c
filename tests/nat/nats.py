"""What each kind of NAT is in nftables' language. Terms of RFC 4787, sections 4.1, 5 and 6.

The interface `wan` of a gateway is outside; every other one is inside.

The kernel's own NAT is endpoint-dependent: it finds a mapping by the packet's five-tuple. So
endpoint-independent mapping is made of its static form: outgoing packets get the outside address
and keep their port; incoming ones go where a table says that the port belongs to. Before and after
it one bit of the outside port is flipped, without any state, so that inside and outside ports
differ and no test passes by their being the same. What is unsolicited is dropped before the kernel
tracks connections: a tracked packet could take the five-tuple that an outgoing packet needs.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

MAPPING_LIFETIME_S = 60
"""Of endpoint-independent mappings; the kernel's own live 30 s, or 120 s once answered."""

_HAIRPIN_MARK = 1
PORT_BIT = 0x4000
"""Flipped between inside and outside ports; the system's ephemeral ports stay above 32,767."""


class Nat(StrEnum):
    """How a gateway maps and filters."""

    NONE = "none"
    """Public addresses, no filter."""
    INDEPENDENT = "EIM, EIF"
    """Endpoint-independent mapping, endpoint-independent filtering."""
    ADDRESS_FILTER = "EIM, ADF"
    """Endpoint-independent mapping, address-dependent filtering."""
    PORT_FILTER = "EIM, APDF"
    """Endpoint-independent mapping, address-and-port-dependent filtering."""
    MASQUERADE = "masquerade"
    """Endpoint-dependent by the rules, but it keeps the port wherever it can."""
    RANDOM = "EDM, APDF"
    """Endpoint-dependent mapping, each to a random port (masquerade fully-random)."""


class Udp(Enum):
    """What UDP a gateway lets out."""

    ALL = "all"
    TO_RELAY = "to the relay only"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a gateway does to packets."""

    nat: Nat
    outside: str
    """The gateway's own IPv4 address outside."""
    hairpin: bool = False
    """RFC 4787 section 6: whether two hosts inside reach each other by their outside addresses."""
    udp: Udp = Udp.ALL
    relay_ports: tuple[int, ...] = ()

    def text(self) -> str:
        """For `nft -f`."""
        parts = [_firewall(self)]
        if self.nat in _KEYS:
            parts.append(_independent(self))
        elif self.nat is not Nat.NONE:
            flags = " fully-random" if self.nat is Nat.RANDOM else ""
            parts.append(_MASQUERADE.format(flags=flags))
        return "\n".join(parts)


_KEYS = {
    # What a packet from inside opens the filter for, and what one from outside is looked up by.
    Nat.INDEPENDENT: ("inet_service", "udp sport", "udp dport"),
    Nat.ADDRESS_FILTER: (
        "inet_service . ipv4_addr",
        "udp sport . ip daddr",
        "udp dport . ip saddr",
    ),
    Nat.PORT_FILTER: (
        "inet_service . ipv4_addr . inet_service",
        "udp sport . ip daddr . udp dport",
        "udp dport . ip saddr . udp sport",
    ),
}

_MASQUERADE = """
table ip nat {{
  chain to_outside {{
    type nat hook postrouting priority srcnat;
    oifname "wan" masquerade{flags}
  }}
}}
"""

_INDEPENDENT = """
table ip nat {{
  map inside {{ type inet_service : ipv4_addr; {dynamic} }}
  set allowed {{ type {key}; {dynamic} }}
  set hairpins {{ type inet_service . inet_service; {dynamic} }}
  chain first {{
    type filter hook prerouting priority -310;
    meta l4proto != udp accept
    iifname "wan" jump from_outside
    iifname != "wan" jump from_inside
  }}
  chain from_outside {{
    udp dport set udp dport ^ {bit}
    {arriving} != @allowed drop
  }}
  chain from_inside {{
    fib daddr type local ip daddr != {outside} accept
    ip daddr {outside} jump hairpin
    update @inside {{ udp sport : ip saddr }}
    update @allowed {{ {leaving} }}
  }}
  chain hairpin {{
    {hairpin}
  }}
  chain to_inside {{
    type nat hook prerouting priority dstnat;
    ip daddr {outside} dnat to udp dport map @inside
  }}
  chain to_outside {{
    type nat hook postrouting priority srcnat;
    oifname "wan" snat to {outside}
    meta mark {mark} snat to {outside}
  }}
  chain last {{
    type filter hook postrouting priority srcnat + 10;
    ip saddr {outside} meta l4proto udp udp sport set udp sport ^ {bit}
  }}
}}
"""

_HAIRPIN = """
    meta mark set {mark}
    udp dport set udp dport ^ {bit}
    update @hairpins {{ udp sport . udp dport }}
    {check}
"""


def _independent(rules: Rules) -> str:
    key, leaving, arriving = _KEYS[rules.nat]
    # The ports inside stand for the outside ones here: both ends are ours.
    check = "" if rules.nat is Nat.INDEPENDENT else "udp dport . udp sport != @hairpins drop"
    hairpin = _HAIRPIN.format(bit=f"{PORT_BIT:#x}", mark=_HAIRPIN_MARK, check=check)
    return _INDEPENDENT.format(
        key=key,
        leaving=leaving,
        arriving=arriving,
        outside=rules.outside,
        bit=f"{PORT_BIT:#x}",
        mark=_HAIRPIN_MARK,
        dynamic=f"flags dynamic,timeout; timeout {MAPPING_LIFETIME_S}s; size 65535;",
        hairpin=hairpin if rules.hairpin else "drop",
    )


_FIREWALL = """
table inet firewall {{
  chain input {{
    type filter hook input priority filter;
    iifname "wan" meta l4proto udp drop
    {inside}
  }}
  chain forward {{
    type filter hook forward priority filter;
    iifname != "wan" oifname != "wan" ct status dnat accept
    iifname != "wan" oifname != "wan" drop
    {udp}
    meta nfproto ipv6 iifname "wan" ct state established,related accept
    meta nfproto ipv6 iifname "wan" meta l4proto udp drop
  }}
}}
"""

_UDP = {
    Udp.ALL: "",
    Udp.TO_RELAY: 'oifname "wan" udp dport != {{ {ports} }} drop',
    Udp.BLOCKED: "meta l4proto udp drop",
}


def _firewall(rules: Rules) -> str:
    """The gateway itself takes nothing from outside; IPv6 gets in only in answer."""
    udp = _UDP[rules.udp].format(ports=", ".join(map(str, rules.relay_ports)))
    # A home's own outside address is no service to those inside: no hairpin, no answer.
    inside = f'iifname != "wan" ip daddr {rules.outside} drop'
    return _FIREWALL.format(udp=udp, inside=inside)
