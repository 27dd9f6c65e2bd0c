"""What lies in the maps: the Python side of layout.h. tests/bpf/test_layout.py compares the two.

Addresses are 16 bytes in network byte order, IPv4 as ::ffff:0:0/96; ports are 2 bytes, likewise.
Times are CLOCK_MONOTONIC in nanoseconds, the clock of `time.monotonic_ns`.
"""

import ctypes
import hashlib
import ipaddress
import struct
from enum import IntEnum

from relay.wire.address import Address

CID_SIZE = 12
LISTENING_PORTS = 4
MAC_SIZE = 6

_AddressBytes = ctypes.c_uint8 * 16
_PortBytes = ctypes.c_uint8 * 2
_Mac = ctypes.c_uint8 * MAC_SIZE


class KernelOutcome(IntEnum):
    """Where a frame went, or why it was passed up to userspace: index in the map `outcomes`."""

    FORWARDED = 0
    RATE_LIMITED = 1
    ALLOWANCE_USED = 2
    NOT_OURS = 3
    BAD_FRAME = 4
    VLAN_TAG = 5
    FRAGMENT = 6
    IP_OPTIONS = 7
    OTHER_HOST = 8
    MALFORMED = 9
    LONG_HEADER = 10
    HTTP3 = 11
    UNKNOWN_CID = 12
    UNREGISTERED_SOURCE = 13
    EXPIRED = 14
    FAMILY_MISMATCH = 15
    OVERSIZED = 16
    TOO_BIG = 17
    HOP_LIMIT = 18
    NO_NEXT_HOP = 19
    PARTIAL_CHECKSUM = 20
    BUSY = 21
    ABORTED = 22

    @property
    def label(self) -> str:
        """The name in every report; the same as userspace's where the meaning is the same."""
        return self.name.lower()


class Way(IntEnum):
    """How packets to an owner left the kernel last."""

    NONE = 0
    LOOPBACK = 1
    FIB = 2
    LEARNED = 3


class CidKey(ctypes.Structure):
    """A connection ID."""

    _fields_ = [("words", ctypes.c_uint8 * CID_SIZE)]


class OwnerRef(ctypes.Structure):
    """An index in `owners`, good while the generation is the same there."""

    _fields_ = [("owner", ctypes.c_uint32), ("generation", ctypes.c_uint32)]


class CidEntry(ctypes.Structure):
    """To whom a connection ID leads."""

    _fields_ = [("to", OwnerRef), ("sender", ctypes.c_uint32), ("pad", ctypes.c_uint32)]


class SourceKey(ctypes.Structure):
    """A registered source and the relay's address that it sends to."""

    _fields_ = [
        ("remote", _AddressBytes),
        ("local", _AddressBytes),
        ("remote_port", _PortBytes),
        ("local_port", _PortBytes),
    ]


class Hop(ctypes.Structure):
    """The way back to an owner, as its last frames showed it."""

    _fields_ = [
        ("seen_ns", ctypes.c_uint64),
        ("peer_mac", _Mac),
        ("own_mac", _Mac),
        ("ifindex", ctypes.c_uint32),
        ("mtu", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


class Route(ctypes.Structure):
    """What the kernel's routes and neighbours said of an owner a moment ago."""

    _fields_ = [
        ("until_ns", ctypes.c_uint64),
        ("peer_mac", _Mac),
        ("own_mac", _Mac),
        ("egress", ctypes.c_uint32),
        ("ingress", ctypes.c_uint32),
        ("mtu", ctypes.c_uint16),
        ("tos", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
    ]


class Owner(ctypes.Structure):
    """One registration."""

    _fields_ = [
        ("sequence", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("lease_end_ns", ctypes.c_uint64),
        ("path", SourceKey),
        ("ipv6", ctypes.c_uint32),
        ("packet_cost_ns", ctypes.c_uint32),
        ("byte_cost", ctypes.c_uint32),
        ("burst_ns", ctypes.c_uint64),
        ("packets_until_ns", ctypes.c_uint64),
        ("bytes_until_ns", ctypes.c_uint64),
        ("id", ctypes.c_uint8 * 16),
        ("key_digest", ctypes.c_uint8 * 16),
        ("buckets", ctypes.c_uint32 * 2),
        ("hop", Hop),
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("way", ctypes.c_uint32),
        ("pad2", ctypes.c_uint32),
        ("pad3", ctypes.c_uint64),
        ("route", Route),
        ("pad4", ctypes.c_uint64 * 4),
    ]


class Bucket(ctypes.Structure):
    """What several owners may have forwarded together."""

    _fields_ = [
        ("packet_cost_ns", ctypes.c_uint32),
        ("byte_cost", ctypes.c_uint32),
        ("burst_ns", ctypes.c_uint32),
        ("shut", ctypes.c_uint32),
        ("packets_until_ns", ctypes.c_uint64),
        ("bytes_until_ns", ctypes.c_uint64),
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("dropped_packets", ctypes.c_uint64),
        ("dropped_bytes", ctypes.c_uint64),
    ]


class Link(ctypes.Structure):
    """An interface that takes part."""

    _fields_ = [
        ("mac", _Mac),
        ("native", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("mtu", ctypes.c_uint32),
    ]


class Config(ctypes.Structure):
    """What holds for the whole relay."""

    _fields_ = [
        ("ports", _PortBytes * LISTENING_PORTS),
        ("max_payload", ctypes.c_uint32),
        ("fib", ctypes.c_uint32),
        ("hop_max_age_ns", ctypes.c_uint64),
    ]


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "cid_key": CidKey,
    "owner_ref": OwnerRef,
    "cid_entry": CidEntry,
    "source_key": SourceKey,
    "hop": Hop,
    "route": Route,
    "owner": Owner,
    "bucket": Bucket,
    "link": Link,
    "config": Config,
}
"""By their names in layout.h."""

SOURCE_KEY_SIZE = ctypes.sizeof(SourceKey)

OWNER_WORDS = {
    "lease_end_ns": Owner.lease_end_ns.offset // 8,
    "seen_ns": Owner.hop.offset // 8 + Hop.seen_ns.offset // 8,
    "packets": Owner.packets.offset // 8,
    "bytes": Owner.bytes.offset // 8,
}
"""Where the 8-byte fields of an owner are that are read of all owners at once, in 8-byte words."""


BUCKET_WORDS = ctypes.sizeof(Bucket) // 8
BUCKET_COUNTERS = Bucket.packets.offset // 8
"""Where the four counters of a bucket begin, in 8-byte words."""


def fingerprint() -> str:
    """8 hexadecimal digits that change with any layout or outcome: no other maps are read."""
    text = repr(
        [
            (name, [(field[0], getattr(structure, field[0])) for field in structure._fields_])
            for name, structure in STRUCTURES.items()
        ]
        + [(each.name, each.value) for each in KernelOutcome]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def pack_ip(host: str) -> bytes:
    """16 bytes in network byte order.

    :raises ValueError: if it is no IP address, or one that means nothing without its interface.
    """
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + ip.packed
    if ip.scope_id is not None:
        raise ValueError(f"{host} is not unique on this machine")
    return ip.packed


def unpack_ip(packed: bytes) -> str:
    """What `pack_ip` was given."""
    ip = ipaddress.IPv6Address(bytes(packed))
    return str(ip.ipv4_mapped or ip)


def pack_port(port: int) -> bytes:
    """2 bytes in network byte order."""
    return port.to_bytes(2, "big")


def unpack_port(packed: bytes) -> int:
    """What `pack_port` was given."""
    return int.from_bytes(bytes(packed), "big")


def source_key(remote: Address, local: Address) -> bytes:
    """The key in `owner_by_source`: 36 bytes.

    :raises ValueError: as `pack_ip`.
    """
    return (
        pack_ip(remote.host) + pack_ip(local.host) + pack_port(remote.port) + pack_port(local.port)
    )


def owner_ref(owner: int, generation: int) -> bytes:
    """The value in `owner_by_source`: 8 bytes."""
    return struct.pack("=II", owner, generation)


def cid_entry(owner: int, generation: int) -> bytes:
    """The value in `owner_by_cid`: 16 bytes."""
    return struct.pack("=IIII", owner, generation, 0, 0)


def read_owner_ref(raw: bytes) -> tuple[int, int]:
    """Owner and generation, from either."""
    owner, generation = struct.unpack_from("=II", raw)
    return owner, generation
