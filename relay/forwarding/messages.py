"""What the control process and its workers say to each other; channel.py has it as bytes."""

from dataclasses import dataclass
from typing import NamedTuple

from relay.core.bucket import Charge, Used
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import Change
from relay.wire.address import Address


@dataclass(frozen=True, slots=True)
class ConnectionIdsRemoved:
    """These connection IDs of `owner` are gone; `OwnerRemoved`, with the rest, follows."""

    owner: int
    connection_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """Answer `Synced` with the same number once all commands before this one are followed.

    The first one also says that the table is complete: only then may the worker read datagrams.
    """

    number: int


@dataclass(frozen=True, slots=True)
class RatesSet:
    """Fill these buckets so from now on."""

    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class SendersCounted:
    """From now on report `Forwarded`."""


Command = Change | ConnectionIdsRemoved | Sync | RatesSet | SendersCounted


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to `Sync`: the counters that were reported before it are up to date."""

    number: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What a worker has done since it started: totals, so that a lost report loses nothing."""

    outcomes: tuple[int, ...]
    """How many datagrams, in the order of `Outcome`'s members."""
    bytes_forwarded: int

    @classmethod
    def zero(cls) -> "Counters":
        """Of a worker that has done nothing."""
        return cls((0,) * len(Outcome), 0)

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(
            tuple(map(sum, zip(self.outcomes, other.outcomes, strict=True))),
            self.bytes_forwarded + other.bytes_forwarded,
        )

    def of(self, outcome: Outcome) -> int:
        """How many datagrams ended so."""
        return self.outcomes[tuple(Outcome).index(outcome)]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker has all that it needs but its table: from now on it only waits for that."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Registered addresses from which datagrams came since the last report, forwarded or not."""

    sources: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from buckets since the last report."""

    used: tuple[Used, ...]


class Sent(NamedTuple):
    """What a sender has had forwarded since that was last reported."""

    source: Address
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What some senders have had forwarded."""

    sent: tuple[Sent, ...]


Report = Synced | Counters | Heard | Loaded | Taken | Forwarded


@dataclass(frozen=True, slots=True)
class UpMessage:
    """A datagram that may be HTTP/3, and how it came."""

    path: Path
    ecn: int
    """The two ECN bits (RFC 3168)."""
    datagram: bytes
