"""The map of connection IDs is a dictionary, only smaller."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import id_map
from relay.core.id_map import ConnectionIdMap

# So few different bytes that IDs are often found across the border of two others.
CIDS = st.lists(st.sampled_from(b"ab\0"), min_size=12, max_size=12).map(bytes)
KINDS = st.sampled_from(["update", "discard"])
STEPS = st.lists(st.tuples(KINDS, st.lists(CIDS, max_size=4), st.integers(0, 9)), max_size=40)


@settings(max_examples=100)
@given(STEPS, st.lists(CIDS, max_size=9))
@pytest.mark.parametrize("shards", [1, 1 << 14])
def test_it_does_what_a_dictionary_does(
    shards: int, steps: list[tuple[str, list[bytes], int]], probes: list[bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_map, "_MASK", shards - 1)
        made, model = ConnectionIdMap(), dict[bytes, int]()
        for step, cids, number in steps:
            if step == "update":
                made.update(cids, number)
                model.update(dict.fromkeys(cids, number))
            else:
                made.discard(cids)
                for cid in cids:
                    model.pop(cid, None)
            assert len(made) == len(model)
        for cid in {*probes, *model}:
            assert made.get(cid) == model.get(cid)


@pytest.mark.parametrize("cid", [b"", b"a", bytes(11), bytes(13), bytes(16), b"\x07\0\0\0"])
def test_only_whole_connection_ids_are_found(cid: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_map, "_MASK", 0)
    made = ConnectionIdMap()
    made.update([b"a" * 12, bytes(12)], 7)
    assert made.get(cid) is None
    made.discard([cid])
    assert len(made) == 2
    with pytest.raises(ValueError, match="bytes"):
        made.update([cid], 1)


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
def test_every_number_comes_back(number: int) -> None:
    made = ConnectionIdMap()
    made.update([bytes(12)], number)
    assert made.get(bytes(12)) == number


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_that_does_not_fit_changes_nothing(number: int) -> None:
    made = ConnectionIdMap()
    with pytest.raises(OverflowError):
        made.update([bytes(12)], number)
    assert len(made) == 0
