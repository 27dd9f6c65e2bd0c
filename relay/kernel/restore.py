"""The registrations that an earlier run of the relay left in the kernel's maps."""

from collections import defaultdict
from collections.abc import Sequence

from bpf import layout
from bpf.pins import KernelMaps
from relay.core.path import Path
from relay.core.registry import Record
from relay.wire.address import Address

_NS = 1e9


def read_records(maps: KernelMaps, listeners: Sequence[Address], lease_s: float) -> list[Record]:
    """Everything that is whole, and was registered at one of these listeners.

    A lease that packets extended while no relay was there to notice counts as extended.
    """
    connection_ids = _connection_ids(maps)
    records = []
    lease_ends, seen = maps.words("lease_end_ns"), maps.words("seen_ns")
    for number, lease_end_ns in enumerate(lease_ends):
        if not lease_end_ns:
            continue
        owner = maps.owners[number]
        path = _path(owner, listeners)
        if path is None or not owner.generation:
            continue
        lease_end = lease_end_ns / _NS
        if seen[number]:
            lease_end = max(lease_end, seen[number] / _NS + lease_s)
        records.append(
            Record(
                owner=number,
                id_hash=bytes(owner.id).hex(),
                key_digest=bytes(owner.key_digest),
                path=path,
                lease_end=lease_end,
                connection_ids=frozenset(connection_ids[number, owner.generation]),
            )
        )
    return records


def _connection_ids(maps: KernelMaps) -> dict[tuple[int, int], set[bytes]]:
    """By owner and generation."""
    found: dict[tuple[int, int], set[bytes]] = defaultdict(set)
    for cid, entry in maps.owner_by_cid.items():
        found[layout.read_owner_ref(entry)].add(cid)
    return found


def _path(owner: layout.Owner, listeners: Sequence[Address]) -> Path | None:
    """None if this relay does not listen there (any more)."""
    path = owner.path
    remote = Address(layout.unpack_ip(path.remote), layout.unpack_port(path.remote_port))
    local = Address(layout.unpack_ip(path.local), layout.unpack_port(path.local_port))
    if owner.sequence & 1 or remote.family is not local.family or not remote.port:
        return None  # an odd sequence: the relay died while it wrote this
    for index, listener in enumerate(listeners):
        wildcard = listener.host in ("0.0.0.0", "::")
        if (
            listener.port == local.port
            and listener.family is local.family
            and (wildcard or listener.host == local.host)
        ):
            return Path(remote, index, local.host)
    return None
