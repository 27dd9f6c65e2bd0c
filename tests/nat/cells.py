"""The cells of the matrix: two places, and what is promised for peers there."""

from dataclasses import dataclass
from enum import Enum

from .nats import Nat, Udp
from .port_mapping import PortMapping


@dataclass(frozen=True, slots=True)
class Place:
    """A home, and what stands between it and the internet."""

    nat: Nat
    carrier: Nat | None = None
    """A second layer (carrier-grade NAT)."""
    ipv6: bool = False
    """It has that, too, behind a filter that lets in what answers."""
    udp: Udp = Udp.ALL
    mapping: PortMapping | None = None

    def __str__(self) -> str:
        words = [str(self.nat)]
        if self.nat is Nat.NONE:
            words = ["public"]
        if self.carrier is not None:
            words.append(f"carrier {self.carrier}")
        if self.ipv6:
            words.append("IPv6")
        if self.udp is not Udp.ALL:
            words.append(f"UDP {self.udp.value}")
        if self.mapping is not None:
            words.append(self.mapping.value)
        return "; ".join(words)


class Together(Enum):
    """What two places have in common."""

    NOTHING = ""
    HOME = "same home"
    CARRIER = "same carrier, no hairpin"
    HAIRPIN = "same carrier, hairpin"


@dataclass(frozen=True, slots=True)
class Promise:
    """What is to be seen in a cell."""

    direct: float
    """The least share of runs that become direct in time; 0: none can."""
    within_s: float = 1.0
    """Seconds from the pipe's opening at each end."""
    most_probes: int | None = None
    """Of both ends together."""
    patience_s: float = 5.0
    """Seconds that the run waits for the direct path."""
    opens: bool = True
    """Whether there is a pipe at all."""
    silent: bool = False
    """Whether nothing more is tried after `patience_s`."""

    def __str__(self) -> str:
        if not self.opens:
            return "one clear line"
        if not self.direct:
            return "relay, silence after 30 s" if self.silent else "relay"
        text = f"{self.direct:.0%} in {self.within_s:g} s"
        return text if self.most_probes is None else f"{text}, {self.most_probes:,} probes"


DIRECT = Promise(1.0)
PUNCHED = Promise(0.95, 3.0)
BIRTHDAY = Promise(0.9, 15.0, 1500, 17.0)
RELAYED = Promise(0.0, patience_s=12.0)
"""There is none now; it is looked for again, ever more seldom."""
SILENT = Promise(0.0, patience_s=31.0, silent=True)
"""There can be none, and both ends know it."""
NO_PIPE = Promise(0.0, opens=False)


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the matrix."""

    dialer: Place
    accepter: Place
    promise: Promise = DIRECT
    together: Together = Together.NOTHING

    def __str__(self) -> str:
        text = f"{self.dialer} / {self.accepter}"
        return f"{text} ({self.together.value})" if self.together.value else text


EIF, ADF, APDF, RANDOM, PUBLIC, MASQUERADE = (
    Place(each)
    for each in (
        Nat.INDEPENDENT,
        Nat.ADDRESS_FILTER,
        Nat.PORT_FILTER,
        Nat.RANDOM,
        Nat.NONE,
        Nat.MASQUERADE,
    )
)
_SIX = Place(Nat.RANDOM, ipv6=True)
_MAPPED = Place(Nat.RANDOM, mapping=PortMapping.ALL)
_CARRIED = Place(Nat.PORT_FILTER, carrier=Nat.PORT_FILTER)

CELLS = (
    # Endpoint-independent mapping on both sides.
    Cell(EIF, EIF),
    Cell(EIF, ADF),
    Cell(EIF, APDF),
    Cell(ADF, ADF),
    Cell(ADF, APDF),
    Cell(APDF, APDF),
    Cell(APDF, MASQUERADE),
    Cell(MASQUERADE, MASQUERADE),
    # One side public.
    Cell(PUBLIC, PUBLIC),
    Cell(PUBLIC, APDF),
    Cell(PUBLIC, RANDOM),
    Cell(RANDOM, PUBLIC),
    # IPv6 on both sides; on one only.
    Cell(_SIX, _SIX),
    Cell(_SIX, RANDOM, SILENT),
    Cell(Place(Nat.PORT_FILTER, ipv6=True), APDF),
    # A gateway that maps ports.
    Cell(_MAPPED, RANDOM),
    Cell(RANDOM, _MAPPED),
    Cell(_MAPPED, APDF),
    Cell(Place(Nat.RANDOM, mapping=PortMapping.UPNP), RANDOM),
    Cell(Place(Nat.RANDOM, mapping=PortMapping.NAT_PMP), RANDOM),
    # Two layers.
    Cell(_CARRIED, APDF),
    Cell(_CARRIED, _CARRIED),
    Cell(Place(Nat.PORT_FILTER, carrier=Nat.RANDOM), EIF, PUNCHED),
    Cell(_CARRIED, _CARRIED, DIRECT, Together.HAIRPIN),
    Cell(_CARRIED, _CARRIED, RELAYED, Together.CARRIER),
    Cell(RANDOM, RANDOM, DIRECT, Together.HOME),
    # Endpoint-independent against endpoint-dependent mapping.
    Cell(EIF, RANDOM, PUNCHED),
    Cell(RANDOM, EIF, PUNCHED),
    Cell(ADF, RANDOM, PUNCHED),
    Cell(RANDOM, ADF, PUNCHED),
    Cell(APDF, RANDOM, BIRTHDAY),
    Cell(RANDOM, APDF, BIRTHDAY),
    Cell(MASQUERADE, RANDOM, BIRTHDAY),
    # Nothing can be done, or little.
    Cell(RANDOM, RANDOM, SILENT),
    Cell(Place(Nat.PORT_FILTER, udp=Udp.TO_RELAY), APDF, RELAYED),
    Cell(Place(Nat.PORT_FILTER, udp=Udp.BLOCKED), APDF, NO_PIPE),
)
