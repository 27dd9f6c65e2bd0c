"""What a forwarder knows, and what it does with a datagram: the reference that all forwarders obey.

docs/protocol.md §4. This is the meaning of forwarding, written to be read. The forwarding loops
(raw_table.py and batch_table.py in relay/forwarding) do the same on raw bytes for speed, and tests
feed all of them the same datagrams.
"""

from dataclasses import dataclass, field

from relay.wire.address import Address
from relay.wire.connection_id import is_towards_http3
from relay.wire.invariants import LongHeader, Malformed, parse_invariants

from .bucket import Charge
from .outcome import Outcome
from .path import Path


@dataclass(frozen=True, slots=True)
class OwnerMoved:
    """Owner number `owner` is now reached by `path`; it is new if it was not known."""

    owner: int
    path: Path


@dataclass(frozen=True, slots=True)
class ConnectionIdsAdded:
    """These 12-byte connection IDs now lead to `owner`, which is known."""

    owner: int
    connection_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class OwnerRemoved:
    """The owner and all its connection IDs are gone; its number may be used again."""

    owner: int
    connection_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class OwnerCharged:
    """What comes from the owner's address is charged to these, instead of those before.

    A forwarder that knows one of the buckets keeps its rate, and else begins with the charge's. Of
    several owners at one address, the one with the lowest number pays for all.
    """

    owner: int
    charges: tuple[Charge, ...]
    """At most two; none: it may send what it likes."""


Change = OwnerMoved | ConnectionIdsAdded | OwnerRemoved | OwnerCharged


@dataclass(slots=True)
class Verdict:
    """What to do with one datagram: `path` is where to send it if it is FORWARDED."""

    outcome: Outcome
    path: Path | None = None


@dataclass(slots=True)
class ForwardingTable:
    """Connection IDs to paths, and the addresses that may send."""

    _owner_by_cid: dict[bytes, int] = field(default_factory=dict)
    """Per datagram: whose connection ID is this?"""
    _path_by_owner: dict[int, Path] = field(default_factory=dict)
    """So that a peer that moves is one write, however many connection IDs it has."""
    _owners_by_source: dict[Address, set[int]] = field(default_factory=dict)
    """Per datagram: is this source registered? Several registrations may share one address."""

    def apply(self, change: Change) -> None:
        """Follow one change of the registry."""
        match change:
            case OwnerMoved(owner, path):
                self._forget_source(owner)
                self._path_by_owner[owner] = path
                self._owners_by_source.setdefault(path.remote, set()).add(owner)
            case ConnectionIdsAdded(owner, connection_ids):
                for cid in connection_ids:
                    self._owner_by_cid[cid] = owner
            case OwnerRemoved(owner, connection_ids):
                for cid in connection_ids:
                    self._owner_by_cid.pop(cid, None)
                self._forget_source(owner)
                self._path_by_owner.pop(owner, None)
            case OwnerCharged():
                pass  # time has no part in what is decided here: see relay.core.bucket

    def is_source(self, address: Address) -> bool:
        """Whether some registration has this address: its packets extend that one's lease."""
        return address in self._owners_by_source

    def decide(self, datagram: bytes, source: Address) -> Verdict:
        """Classify by the invariants alone. Any input gives a verdict."""
        header = parse_invariants(datagram)
        if isinstance(header, Malformed):
            return Verdict(Outcome.MALFORMED)
        owner = self._owner_by_cid.get(header.destination_cid)
        if owner is not None:
            if source not in self._owners_by_source:
                return Verdict(Outcome.UNREGISTERED_SOURCE)
            return Verdict(Outcome.FORWARDED, self._path_by_owner[owner])
        if isinstance(header, LongHeader):
            # Foreign HTTP/3 clients choose their own IDs, so nothing but a *registered* source ID
            # marks a packet as one between peers.
            if header.source_cid in self._owner_by_cid:
                return Verdict(Outcome.STRAY_PEER_PACKET)
            return Verdict(Outcome.HTTP3)
        if is_towards_http3(header.destination_cid):
            return Verdict(Outcome.HTTP3)
        return Verdict(Outcome.UNKNOWN_CID)

    def _forget_source(self, owner: int) -> None:
        path = self._path_by_owner.get(owner)
        if path is None:
            return
        owners = self._owners_by_source[path.remote]
        owners.discard(owner)
        if not owners:
            del self._owners_by_source[path.remote]
