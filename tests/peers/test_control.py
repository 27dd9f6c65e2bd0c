"""The control stream's framing: any bytes are messages, or an error that says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.control import MAX_MESSAGE, ControlMalformed, MessageReader, frame


@given(
    bodies=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    cuts=st.lists(st.integers(min_value=1, max_value=400), min_size=1, max_size=30),
)
def test_messages_are_the_same_however_the_stream_is_cut(
    bodies: list[bytes], cuts: list[int]
) -> None:
    octets = b"".join(map(frame, bodies))
    reader = MessageReader()
    read: list[bytes] = []
    for cut in cuts:
        read += reader.feed(octets[:cut])
        octets = octets[cut:]
    read += reader.feed(octets)
    assert read == bodies


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_any_bytes_are_messages_or_malformed_and_little_is_kept(pieces: list[bytes]) -> None:
    reader = MessageReader()
    for piece in pieces:
        try:
            bodies = reader.feed(piece)
        except ControlMalformed:
            return
        assert all(1 <= len(body) <= MAX_MESSAGE for body in bodies)
        assert len(reader._rest) < MAX_MESSAGE + 2


@pytest.mark.parametrize("length", [1, MAX_MESSAGE])
def test_the_limits_belong_to_it(length: int) -> None:
    assert MessageReader().feed(frame(bytes(length))) == [bytes(length)]


@pytest.mark.parametrize("length", [0, MAX_MESSAGE + 1, 65_535])
def test_beyond_the_limits_nothing_is_taken(length: int) -> None:
    with pytest.raises(ControlMalformed, match=f"{length} bytes"):
        MessageReader().feed(length.to_bytes(2, "big"))
    if length <= MAX_MESSAGE + 1:
        with pytest.raises(ValueError, match="1 to 4096"):
            frame(bytes(length))
