"""Registrations as JSON: for the state file, and for a successor."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.admission import Grant, TokenLimits
from relay.core.path import Path
from relay.core.registry import Record, Registry, RegistryLimits
from relay.lifecycle import records
from relay.lifecycle.records import BadRecord
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterRequest

LISTENERS = [Address("0.0.0.0", 4433), Address("::", 4433), Address("192.0.2.9", 5000)]
GRANT = Grant("alice", "t-1", 1e9, 3600.0, TokenLimits(registrations=3, bytes_per_s=10**6), False)
RECORD = Record(
    owner=7,
    id_hash="ab" * 16,
    key_digest=b"\x01" * 16,
    path=Path(Address("198.51.100.1", 50_000), 0, "203.0.113.5"),
    lease_end=123.456,
    connection_ids=frozenset({b"\x02" * 12, b"\x03" * 12}),
    grant=GRANT,
    valid_until=777.5,
)


def through_json(record: Record, listeners: list[Address] = LISTENERS) -> Record:
    return records.decode(json.loads(json.dumps(records.encode(record, LISTENERS))), listeners)


def entry(**changes: object) -> dict[str, Any]:
    return {**records.encode(RECORD, LISTENERS), **changes}


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, grant=None, valid_until=math.inf),
        replace(RECORD, connection_ids=frozenset()),
        replace(RECORD, path=Path(Address("2001:db8::1", 1), 1, "2001:db8::2")),
        replace(RECORD, path=Path(Address("fe80::1%lo", 1), 1, "fe80::2%lo")),
        replace(RECORD, path=Path(Address("198.51.100.1", 1), 2, "192.0.2.9")),
    ],
)
def test_there_and_back(record: Record) -> None:
    assert through_json(record) == record


def test_listeners_may_have_changed_their_places() -> None:
    again = through_json(RECORD, [LISTENERS[2], Address("203.0.113.5", 4433)])
    assert again.path == RECORD.path._replace(listener=1)


@pytest.mark.parametrize(
    "listeners", [[], [Address("0.0.0.0", 4434)], [Address("203.0.113.6", 4433)], [LISTENERS[1]]]
)
def test_where_the_relay_listens_no_more_there_is_no_record(listeners: list[Address]) -> None:
    with pytest.raises(BadRecord, match="does not listen on 203"):
        through_json(RECORD, listeners)


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": -1},
        {"owner": 2**32},
        {"owner": True},
        {"owner": "7"},
        {"id_hash": "ab" * 15},
        {"id_hash": "zz" * 16},
        {"id_hash": 5},
        {"key_hash": None},
        {"peer": ["198.51.100.1"]},
        {"peer": ["localhost", 5]},
        {"peer": ["198.51.100.1", 0]},
        {"peer": ["198.51.100.1", 65_536]},
        {"peer": ["2001:db8::1", 1]},
        {"peer": "198.51.100.1:5"},
        {"relay": ["", 4433]},
        {"lease_end": math.nan},
        {"lease_end": math.inf},
        {"lease_end": "1"},
        {"lease_end": True},
        {"connection_ids": "00" * 11},
        {"connection_ids": " " * 24},
        {"connection_ids": 7},
        {"grant": 7},
        {"grant": {}},
        {"grant": {"subject": "a", "token_id": "b", "expires": 1, "left_s": 1, "limits": []}},
        {
            "grant": {
                "subject": "a",
                "token_id": "b",
                "expires": 1,
                "left_s": 1,
                "is_fresh": True,
                "limits": {"of_a_later_version": 1},
            }
        },
        {"valid_until": None},
    ],
    ids=str,
)
def test_what_is_wrong_is_no_record(changes: dict[str, object]) -> None:
    records.decode(entry(), LISTENERS)
    with pytest.raises(BadRecord):
        records.decode(entry(**changes), LISTENERS)


@pytest.mark.parametrize("missing", sorted(set(entry()) - {"grant", "valid_until"}))
def test_what_is_missing_is_no_record(missing: str) -> None:
    with pytest.raises(BadRecord):
        records.decode({key: value for key, value in entry().items() if key != missing}, LISTENERS)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(entry())), JSON_VALUES))
def test_any_json_is_a_record_or_none(changes: dict[str, object]) -> None:
    try:
        found = records.decode(entry(**changes), LISTENERS)
    except BadRecord:
        return
    assert len(found.key_digest) == 16
    assert all(len(cid) == 12 for cid in found.connection_ids)


def test_no_secret_is_in_it() -> None:
    """Neither the key, with which one takes a registration over, nor the id, which ends it."""
    key = bytes(range(32))
    registry = Registry(RegistryLimits(), new_id=lambda: "c0ffee" * 5 + "00")
    request = RegisterRequest(key, 3, Derivation.BLAKE3)
    answer = registry.register(request, RECORD.path, holder=1, now=0.0)
    record = registry.record(0, now=0.0)
    assert record is not None
    text = json.dumps(records.encode(record, LISTENERS))
    assert answer.id not in text
    assert key.hex() not in text
