"""One registration as the registry keeps it."""

import math
from dataclasses import dataclass
from hashlib import blake2b

from relay.wire.connection_id import CONNECTION_ID_LENGTH
from relay.wire.registration import RegisterRequest

from .admission import Grant
from .leases import Record
from .limits import source_of
from .path import Path

HolderId = int
"""Names one HTTP/3 connection among those that live."""


@dataclass(slots=True)
class Registration:
    """Changed by the registry only."""

    owner: int
    id_hash: str
    """`id_hash` of its id."""
    key_digest: bytes
    path: Path
    lease_end: float
    source: str
    """Whose quota it counts for: mostly that of `path`."""
    grant: Grant | None = None
    """By which it was registered last; None: the relay asks for none, or has restored it."""
    valid_until: float = math.inf
    """When it ends whatever happens, as its token is over."""
    holder: HolderId | None = None
    """The HTTP/3 connection that keeps it alive; None when that has ended."""
    queued_at: float = math.inf
    """For when it stands in the heap of leases; infinity: it does not."""
    id: str | None = None
    """Names it, and permits to end it. None: it was restored, and nobody has shown its key yet."""
    joined_ids: bytes = b""
    """All its connection IDs, one after the other: a quarter of what a set of them takes."""

    @classmethod
    def restored(cls, record: Record, lease_end: float) -> "Registration":
        """One of an earlier run, which nobody holds."""
        return cls(
            record.owner,
            record.id_hash,
            record.key_digest,
            record.path,
            lease_end,
            source_of(record.path.remote),
            record.grant,
            record.valid_until,
            joined_ids=b"".join(record.connection_ids),
        )

    def record(self, lease_end: float) -> Record:
        """What `restored` needs."""
        return Record(
            self.owner,
            self.id_hash,
            self.key_digest,
            self.path,
            lease_end,
            frozenset(self.connection_ids),
            self.grant,
            self.valid_until,
        )

    @property
    def connection_ids(self) -> tuple[bytes, ...]:
        """Each of 12 bytes."""
        ids, size = self.joined_ids, CONNECTION_ID_LENGTH
        return tuple(ids[start : start + size] for start in range(0, len(ids), size))

    @property
    def count(self) -> int:
        """How many connection IDs it has."""
        return len(self.joined_ids) // CONNECTION_ID_LENGTH

    @property
    def subject(self) -> str | None:
        """Whose token it came by."""
        return self.grant.subject if self.grant is not None else None

    @property
    def token_id(self) -> str | None:
        """By which token it came."""
        return self.grant.token_id if self.grant is not None else None

    @property
    def due(self) -> float:
        """When it ends unless something happens; infinity: never."""
        lease_end = math.inf if self.holder is not None else self.lease_end
        return min(lease_end, self.valid_until)

    def goes_on_by(self, grant: Grant) -> bool:
        """Whether a token is of the same subject: then it may go on with it, though it is over."""
        return self.subject == grant.subject


def id_hash(registration_id: str) -> str:
    """32 hexadecimal digits that stand for an id: what leaves the registry has no id."""
    return blake2b(registration_id.encode(), digest_size=16, person=b"id").hexdigest()


def key_digest(request: RegisterRequest) -> bytes:
    """16 bytes that stand for the key: the registry keeps no key."""
    # The derivation is part of the identity: the same key under another gives other IDs.
    return blake2b(request.key, digest_size=16, person=request.derivation.value.encode()).digest()
