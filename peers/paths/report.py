"""What an agent tells people: which path is in use, why, and what became of the others."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from relay.wire.address import Address

from ..nat.outlook import Mapping
from .candidate import Kind, SocketId
from .path import Path


class PairState(StrEnum):
    """How far a pair has come."""

    WAITING = "waiting"
    """Not probed yet."""
    PROBING = "probing"
    """Probed, without an answer so far."""
    ANSWERED = "answered"
    """Small probes pass; whether 1,200 bytes do, both ways, is not proved."""
    VALID = "valid"
    """Proved both ways with 1,200 bytes: it can be used."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PairReport:
    """One of our sockets, and an address of the other end."""

    socket: SocketId
    remote: Address
    kind: Kind
    state: PairState
    why: str
    """How it failed, or what it still lacks; empty for a valid one."""
    round_trip_s: float | None
    """Smoothed; None: never answered."""
    loss: float
    """Share of its probes that were not answered, lately: 0 to 1."""
    probes_sent: int
    probes_received: int


@dataclass(frozen=True, slots=True)
class Change:
    """One switch of the path."""

    at: float
    """In the clock of the agent's caller, seconds."""
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class PathReport:
    """A snapshot."""

    current: Path
    reason: str
    """Why that one."""
    since: float
    """When it was chosen, in the clock of the agent's caller, seconds."""
    searching: str
    """What is being tried now, when next, or why nothing is."""
    mapping: Mapping
    peer_mapping: Mapping
    relay_round_trip_s: float | None
    pairs: tuple[PairReport, ...]
    refused: dict[str, int]
    """Candidates of the other end that were not taken, by reason."""
    dropped: dict[str, int]
    """Probes and messages that were dropped, by reason."""
    probes_sent: int
    """All of them: requests and responses, also those of birthday probing."""
    probes_received: int
    changes: tuple[Change, ...]
    """The latest switches, oldest first."""
    has_given_up: bool = False
    """Whether nothing more is tried until something changes; `searching` says why."""

    def lines(self) -> list[str]:
        """For people: the path in use and why, then every pair that was tried."""
        lines = [f"path: {self.current} ({self.reason})", f"search: {self.searching}"]
        seen = Counter(pair.remote for pair in self.pairs)
        lines += [_describe(pair, is_one_of_many=seen[pair.remote] > 1) for pair in self.pairs]
        lines += [f"refused: {count} candidates: {why}" for why, count in self.refused.items()]
        lines.append(f"probes: {self.probes_sent} sent, {self.probes_received} received")
        return lines


def _describe(pair: PairReport, *, is_one_of_many: bool) -> str:
    """:param is_one_of_many: it was tried from other sockets, too, by birthday probing."""
    where = f" from socket {pair.socket}" if is_one_of_many else ""
    words = [f"tried: {pair.kind.name.lower()} {pair.remote}{where}: {pair.state}"]
    if pair.round_trip_s is not None:
        answers = pair.state in (PairState.ANSWERED, PairState.VALID)
        ms = f"{pair.round_trip_s * 1000:.1f} ms"
        words.append(f"{ms}, {pair.loss:.0%} lost" if answers else f"{ms} when it answered")
    if pair.why:
        words.append(pair.why)
    return ", ".join(words)
