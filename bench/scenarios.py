"""What is measured: the full run takes about six minutes, the quick one about one."""

from dataclasses import dataclass

from bench.measure import Scenario

SINGLE = ("c", "coturn", "plain", "batch")
GSO = ("c-gro", "plain", "batch")
KERNEL = ("xdp",)
"""Alone: attached to loopback, the program would look at everybody's packets."""
LATENCY_RATE = 10_000.0
SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Of the C loop's capacity: the load of the latency curve."""
BURST = 16
"""Packets in a GSO message: what quiche, quinn, msquic and quic-go send at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """Scenarios that stand together in the report."""

    title: str
    conditions: str
    scenarios: tuple[Scenario, ...]
    rounds: int = 1
    """Times as many samples: one in a hundred packets depends on what else the machine does."""


def parts(quick: bool) -> list[Part]:
    """What to measure, but for the latency curve, whose rates depend on the capacity."""
    counts = (1000,) if quick else (1, 1000, 100_000)
    return [
        Part(
            "Capacity",
            "closed loop, single packets, one direction",
            tuple(
                Scenario(forwarders, ids, size)
                for size in (100, 1200)
                for ids in counts
                for forwarders in (
                    ("none", *SINGLE) if ids == 1000 else ("c", "plain", "batch"),
                    KERNEL,
                )
            ),
        ),
        Part(
            "Capacity, both directions",
            "closed loop, single packets, as many each way",
            () if quick else tuple(Scenario(each, both_ways=True) for each in (SINGLE, KERNEL)),
        ),
        Part(
            "Capacity with senders that use GSO",
            f"closed loop, {BURST} packets of one connection in each message",
            tuple(
                Scenario(GSO, 1000, size, BURST, receiver_gro=gro)
                for size in ((1200,) if quick else (100, 1200))
                for gro in (False, True)
            ),
        ),
        Part(
            "Latency",
            f"open loop, {LATENCY_RATE:,.0f} packets/s of 100 bytes, one direction",
            tuple(Scenario(each, rate=LATENCY_RATE) for each in (("none", *SINGLE), KERNEL)),
            rounds=1 if quick else 4,
        ),
    ]


def curve(capacity: float, quick: bool) -> Part:
    """Latency and loss against load, in shares of the C loop's capacity (packets/s)."""
    shares = (0.25, 0.9) if quick else SHARES
    return Part(
        "Latency and loss against load",
        "open loop, packets of 100 bytes, one direction",
        tuple(Scenario(SINGLE, rate=round(share * capacity, -3)) for share in shares),
    )
