"""docs/protocol.md §2: the derivation, by its vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.connection_id import (
    CONNECTION_ID_LENGTH,
    KEY_LENGTHS,
    MAX_COUNTER,
    Derivation,
    InvalidKey,
    Towards,
    check_key,
    derive,
    is_towards_http3,
)

VECTORS = [
    (Derivation.BLAKE2B, 16, 1, "2b5c2c4c9385fb1b29934723"),
    (Derivation.BLAKE2B, 16, 2, "448d3e851ea76b693aaa05aa"),
    (Derivation.BLAKE2B, 16, 3, "7b57d0e9aeecda0c1a110265"),
    (Derivation.BLAKE2B, 16, 10, "2027e40b9a880fba70d9e988"),
    (Derivation.BLAKE3, 32, 1, "340fc5883318b2ad9983146a"),
    (Derivation.BLAKE3, 32, 2, "41cad33e71ed2882dfed1660"),
    (Derivation.BLAKE3, 32, 3, "117793d55db3c2447e23d8ea"),
    (Derivation.BLAKE3, 32, 10, "504fb8f21bfa6932aa0ce60c"),
]


@pytest.mark.parametrize(("derivation", "key_length", "counter", "expected"), VECTORS)
def test_vectors(derivation: Derivation, key_length: int, counter: int, expected: str) -> None:
    key = bytes(range(key_length))
    assert derive(key, counter, derivation, Towards.PEER).hex() == expected


@given(
    st.sampled_from(Derivation).flatmap(
        lambda each: st.tuples(
            st.just(each),
            st.sampled_from(KEY_LENGTHS[each]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
        )
    ),
    st.integers(1, MAX_COUNTER),
)
def test_the_two_directions_differ_in_the_marker_alone(
    keyed: tuple[Derivation, bytes], counter: int
) -> None:
    derivation, key = keyed
    to_peer = derive(key, counter, derivation, Towards.PEER)
    to_http3 = derive(key, counter, derivation, Towards.HTTP3)
    assert len(to_peer) == len(to_http3) == CONNECTION_ID_LENGTH
    assert not is_towards_http3(to_peer)
    assert is_towards_http3(to_http3)
    assert to_http3 == bytes([to_peer[0] | 0x80]) + to_peer[1:]


@pytest.mark.parametrize(
    ("derivation", "length", "expected"),
    [
        (Derivation.BLAKE3, 0, "has 32 bytes, this one has 0"),
        (Derivation.BLAKE3, 31, "has 32 bytes, this one has 31"),
        (Derivation.BLAKE3, 33, "has 32 bytes"),
        (Derivation.BLAKE2B, 0, "has 16 to 64 bytes, this one has 0"),
        (Derivation.BLAKE2B, 15, "has 16 to 64 bytes"),
        (Derivation.BLAKE2B, 65, "has 16 to 64 bytes, this one has 65"),
    ],
)
def test_wrong_key_lengths_are_refused(derivation: Derivation, length: int, expected: str) -> None:
    with pytest.raises(InvalidKey, match=expected):
        check_key(bytes(length), derivation)
    with pytest.raises(InvalidKey):
        derive(bytes(length), 1, derivation, Towards.PEER)


@pytest.mark.parametrize("counter", [0, -1, MAX_COUNTER + 1])
def test_counters_out_of_range_are_refused(counter: int) -> None:
    with pytest.raises(ValueError, match="is not in 1 to 4294967295"):
        derive(bytes(32), counter, Derivation.BLAKE3, Towards.PEER)


def test_an_empty_connection_id_has_no_marker() -> None:
    assert not is_towards_http3(b"")
