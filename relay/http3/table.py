"""Which connection a datagram is for, and how many there may be."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from relay.core.limits import source_of
from relay.core.path import Path
from relay.http3.admission import Admitted
from relay.http3.connection import ClientConnection
from relay.http3.limits import Http3Limits
from relay.http3.report import Refused
from relay.wire.address import Address
from relay.wire.invariants import LongHeader, ShortHeader


@dataclass(slots=True)
class _Entry:
    source: str
    first_key: tuple[Address, bytes]
    counts_half_open_for_source: bool
    is_established: bool = False


class ConnectionTable:
    """All connections that live. One type owns all their indexes."""

    def __init__(self, limits: Http3Limits) -> None:
        self.limits = limits
        """May be replaced: then they hold for what is to come."""
        self._entries: dict[ClientConnection, _Entry] = {}
        self._by_cid: dict[bytes, ClientConnection] = {}  # connection IDs that we issued
        # A client makes up the first connection ID: so it counts for its address only, and no
        # client can take or guess another's.
        self._by_first: dict[tuple[Address, bytes], ClientConnection] = {}
        self._established: Counter[str] = Counter()  # by source
        # By source, and only whose address is validated: others may be forged.
        self._half_open: Counter[str] = Counter()
        self.half_open = 0

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(list(self._entries))

    @property
    def established(self) -> int:
        """Connections whose handshake is complete."""
        return len(self._entries) - self.half_open

    def find(self, header: LongHeader | ShortHeader, path: Path) -> ClientConnection | None:
        """Whose datagram this is, if anybody's."""
        connection = self._by_cid.get(header.destination_cid)
        if connection is None and isinstance(header, LongHeader):
            return self.find_first(header.destination_cid, path)
        return connection

    def find_first(self, first_cid: bytes, path: Path) -> ClientConnection | None:
        """The connection that this client has begun with this connection ID."""
        return self._by_first.get((path.remote, first_cid))

    def why_no_room(self, admitted: Admitted, path: Path, waiting: int) -> Refused | None:
        """The bound that forbids another connection, besides `waiting` ones; None if none does."""
        limits = self.limits
        if len(self._entries) + waiting >= limits.max_connections:
            return Refused.NO_ROOM
        if self.half_open + waiting >= limits.max_half_open:
            return Refused.NO_ROOM
        source = source_of(path.remote)
        if self._established[source] >= limits.max_connections_per_source:
            return Refused.NO_ROOM_FOR_SOURCE
        if admitted.is_validated and self._half_open[source] >= limits.max_half_open_per_source:
            return Refused.NO_ROOM_FOR_SOURCE
        return None

    def add(self, connection: ClientConnection, admitted: Admitted, path: Path) -> None:
        """A handshake begins."""
        source = source_of(path.remote)
        key = (path.remote, admitted.first_cid)
        self._entries[connection] = _Entry(source, key, admitted.is_validated)
        self._by_first[key] = connection
        self.half_open += 1
        if admitted.is_validated:
            self._half_open[source] += 1

    def establish(self, connection: ClientConnection) -> None:
        """The handshake is complete."""
        entry = self._entries[connection]
        self._leave_half_open(entry)
        entry.is_established = True
        self._established[entry.source] += 1

    def remove(self, connection: ClientConnection) -> bool:
        """Forget it. Returns whether it was known."""
        entry = self._entries.pop(connection, None)
        if entry is None:
            return False
        del self._by_first[entry.first_key]
        if entry.is_established:
            _decrement(self._established, entry.source)
        else:
            self._leave_half_open(entry)
        return True

    def add_route(self, cid: bytes, connection: ClientConnection) -> None:
        """We have issued this connection ID."""
        self._by_cid[cid] = connection

    def remove_route(self, cid: bytes) -> None:
        """The client has retired it, or its connection is over."""
        self._by_cid.pop(cid, None)

    def _leave_half_open(self, entry: _Entry) -> None:
        self.half_open -= 1
        if entry.counts_half_open_for_source:
            _decrement(self._half_open, entry.source)


def _decrement(counter: Counter[str], source: str) -> None:
    counter[source] -= 1
    if not counter[source]:
        del counter[source]
