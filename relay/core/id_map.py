"""Connection IDs to small numbers, a million of them in 20 bytes each.

A dictionary takes 90 bytes or more for each, and stops the caller for 140 ms when it grows past
700,000. Here the IDs are spread over many short byte strings, 16 bytes for an ID and its number, in
which they are searched. What holds them together is Python's hash of the ID, whose key is new in
each process: nobody can choose IDs that all end up in one string.
"""

from collections.abc import Iterable

from relay.wire.connection_id import CONNECTION_ID_LENGTH

_SHARDS = 1 << 14
"""Strings: at a million IDs each is 1 kB, and searched in about 0.2 us."""
_MASK = _SHARDS - 1
_RECORD = CONNECTION_ID_LENGTH + 4


class ConnectionIdMap:
    """Takes 12-byte connection IDs and numbers from 0 to 2³²-1."""

    def __init__(self) -> None:
        self._shards = [bytearray() for _ in range(_SHARDS)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, cid: bytes) -> int | None:
        """The number of `cid`, which may be anything; None if it is not here."""
        shard = self._shards[hash(cid) & _MASK]
        at = _find(shard, cid)
        if at < 0:
            return None
        return int.from_bytes(shard[at + CONNECTION_ID_LENGTH : at + _RECORD], "little")

    def update(self, cids: Iterable[bytes], number: int) -> None:
        """Let all of `cids` lead to `number`, whether they were here or not.

        :raises ValueError: one has not 12 bytes.
        :raises OverflowError: the number does not fit.
        """
        value = number.to_bytes(4, "little")
        shards = self._shards
        for cid in cids:
            if len(cid) != CONNECTION_ID_LENGTH:
                raise ValueError(f"a connection ID of {len(cid)} bytes")
            shard = shards[hash(cid) & _MASK]
            at = shard.rfind(cid)
            if at > 0:
                at = _find(shard, cid)
            if at < 0:
                shard += cid + value
                self._count += 1
            else:
                shard[at + CONNECTION_ID_LENGTH : at + _RECORD] = value

    def discard(self, cids: Iterable[bytes]) -> None:
        """Forget those of `cids` that are here."""
        for cid in cids:
            shard = self._shards[hash(cid) & _MASK]
            at = _find(shard, cid)
            if at >= 0:
                # The last record takes the place of this one.
                shard[at : at + _RECORD] = shard[-_RECORD:]
                del shard[-_RECORD:]
                self._count -= 1


def _find(shard: bytearray, cid: bytes) -> int:
    if len(cid) != CONNECTION_ID_LENGTH:
        return -1
    at = shard.rfind(cid)  # quicker from the right (CPython 3.11)
    while at >= 0 and at % _RECORD:
        # Found across two records: that is no ID.
        at = shard.rfind(cid, 0, at + CONNECTION_ID_LENGTH - 1)
    return at
