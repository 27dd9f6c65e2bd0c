"""A registration as JSON: what the state file and a successor are told of it. Pure.

It has the connection IDs, the addresses, the lease, a hash of the registration's id and a hash of
its key: nobody who reads it can take the registration over, or end it.
"""

import ipaddress
import math
from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.admission import Grant, TokenLimits
from relay.core.leases import Record
from relay.core.path import Path
from relay.wire.address import Address
from relay.wire.connection_id import CONNECTION_ID_LENGTH

MAX_CONNECTION_IDS = 65_536
"""In one record; far more than any registration may have."""

_MAX_OWNER = 2**32 - 1
_HASH_SIZE = 16
_WILDCARDS = ("0.0.0.0", "::")


class BadRecord(ValueError):
    """That is no record, or none for this relay."""


def encode(record: Record, listeners: Sequence[Address]) -> dict[str, object]:
    """As JSON takes it. Times are those of the clock of `record.lease_end`.

    :param listeners: the relay's addresses, by the index that `Path.listener` says.
    """
    path = record.path
    local = Address(path.local, listeners[path.listener].port)
    entry: dict[str, object] = {
        "owner": record.owner,
        "id_hash": record.id_hash,
        "key_hash": record.key_digest.hex(),
        "peer": _address_text(path.remote),
        "relay": _address_text(local),
        "lease_end": round(record.lease_end, 3),
        "connection_ids": b"".join(sorted(record.connection_ids)).hex(),
    }
    if record.grant is not None:
        entry["grant"] = _encode_grant(record.grant)
    if math.isfinite(record.valid_until):
        entry["valid_until"] = round(record.valid_until, 3)
    return entry


def decode(entry: Mapping[str, Any], listeners: Sequence[Address]) -> Record:
    """The record that `encode` was given; for a listener of these, if it is one still.

    :raises BadRecord: something is missing, or wrong, or the relay does not listen there any more.
    """
    try:
        return Record(
            owner=_owner(entry["owner"]),
            id_hash=_hash(entry["id_hash"]).hex(),
            key_digest=_hash(entry["key_hash"]),
            path=_path(_address(entry["peer"]), _address(entry["relay"]), listeners),
            lease_end=_time(entry["lease_end"]),
            connection_ids=frozenset(_connection_ids(entry["connection_ids"])),
            grant=_grant(entry["grant"]) if "grant" in entry else None,
            valid_until=_time(entry["valid_until"]) if "valid_until" in entry else math.inf,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecord(str(error) or type(error).__name__) from None


def find_listener(local: Address, listeners: Sequence[Address]) -> int | None:
    """Which listener has the address, by index; None if the relay does not listen there."""
    for index, listener in enumerate(listeners):
        is_wildcard = listener.host in _WILDCARDS
        if (
            listener.port == local.port
            and listener.family is local.family
            and (is_wildcard or listener.host == local.host)
        ):
            return index
    return None


def _owner(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_OWNER:
        raise BadRecord("owner")
    return value


def _hash(value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * _HASH_SIZE:
        raise BadRecord("hash")
    return bytes.fromhex(value)


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRecord("time")
    return float(value)


def _connection_ids(value: object) -> list[bytes]:
    size = 2 * CONNECTION_ID_LENGTH
    if not isinstance(value, str) or len(value) % size or len(value) > size * MAX_CONNECTION_IDS:
        raise BadRecord("connection_ids")
    ids, length = bytes.fromhex(value), CONNECTION_ID_LENGTH
    if 2 * len(ids) != len(value):  # there was white space
        raise BadRecord("connection_ids")
    return [ids[start : start + length] for start in range(0, len(ids), length)]


def _path(remote: Address, local: Address, listeners: Sequence[Address]) -> Path:
    listener = find_listener(local, listeners)
    if listener is None:
        raise BadRecord(f"the relay does not listen on {local}")
    if remote.family is not local.family or not remote.port:
        raise BadRecord("peer")
    return Path(remote, listener, local.host)


def _address_text(address: Address) -> list[object]:
    # The zone of a link-local address stands in `host`.
    return [address.host, address.port]


def _address(value: object) -> Address:
    if not isinstance(value, list) or len(value) != 2:
        raise BadRecord("address")
    host, port = value
    if not isinstance(host, str) or type(port) is not int or not 0 <= port <= 65_535:
        raise BadRecord("address")
    bare, _, scope = host.partition("%")
    return Address.from_packed(ipaddress.ip_address(bare).packed, port, scope)


def _encode_grant(grant: Grant) -> dict[str, object]:
    limits = grant.limits
    known = {name: getattr(limits, name) for name in TokenLimits.__slots__}
    return {
        "subject": grant.subject,
        "token_id": grant.token_id,
        "expires": grant.expires,
        "left_s": grant.left_s,
        "is_fresh": grant.is_fresh,
        "limits": {name: value for name, value in known.items() if value is not None},
    }


def _grant(value: object) -> Grant:
    if not isinstance(value, dict):
        raise BadRecord("grant")
    subject, token_id, limits = value["subject"], value["token_id"], value["limits"]
    if not isinstance(subject, str) or not isinstance(token_id, str):
        raise BadRecord("grant")
    if not isinstance(limits, dict) or not all(type(each) is int for each in limits.values()):
        raise BadRecord("grant")
    expires, left_s = _time(value["expires"]), _time(value["left_s"])
    # A limit that this version does not know is refused by the constructor: so is the record.
    return Grant(subject, token_id, expires, left_s, TokenLimits(**limits), bool(value["is_fresh"]))
