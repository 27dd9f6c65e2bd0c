"""What control and workers say survives the way; anything else is a `ChannelError`."""

import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import ConnectionIdsAdded, OwnerMoved, OwnerRemoved
from relay.forwarding.channel import (
    IDS_PER_FRAME,
    MAX_BODY,
    SOURCES_PER_FRAME,
    UP_HEADER_SIZE,
    ChannelError,
    Command,
    ConnectionIdsRemoved,
    Counters,
    Forwarded,
    FrameReader,
    Heard,
    Report,
    SendersCounted,
    Sent,
    Sync,
    Synced,
    UpMessage,
    decode_up,
    encode_command,
    encode_report,
    up_header,
)
from relay.wire.address import Address

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
HOSTS = st.ip_addresses().map(lambda ip: Address.from_packed(ip.packed, 0).host)
LINK_LOCAL = st.integers(1, 2**32 - 1).map(lambda interface: f"fe80::1%{interface}")
ADDRESSES = st.builds(Address, HOSTS | LINK_LOCAL, st.integers(0, 65535))
PATHS = st.builds(Path, ADDRESSES, st.integers(0, 65535), HOSTS | LINK_LOCAL)
IDS = st.lists(st.binary(min_size=12, max_size=12), max_size=9).map(tuple)

COMMANDS = st.one_of(
    st.builds(OwnerMoved, U32, PATHS),
    st.builds(ConnectionIdsAdded, U32, IDS),
    st.builds(ConnectionIdsRemoved, U32, IDS),
    st.builds(OwnerRemoved, U32, IDS),
    st.builds(Sync, U64),
    st.just(SendersCounted()),
)
COUNTERS = st.builds(
    Counters, st.lists(U64, min_size=len(Outcome), max_size=len(Outcome)).map(tuple), U64
)
REPORTS = st.one_of(
    st.builds(Synced, U64),
    COUNTERS,
    st.builds(Heard, st.lists(ADDRESSES, max_size=9).map(tuple)),
    st.builds(Forwarded, st.lists(st.builds(Sent, ADDRESSES, U64, U64), max_size=9).map(tuple)),
)


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@given(st.lists(COMMANDS, max_size=6), st.lists(st.integers(0, 40), max_size=30))
def test_commands_survive_the_way_however_they_are_cut(
    commands: list[Command], sizes: list[int]
) -> None:
    data = b"".join(map(encode_command, commands))
    reader = FrameReader()
    assert [each for piece in cut(data, sizes) for each in reader.commands(piece)] == commands


@given(st.lists(REPORTS, max_size=6), st.lists(st.integers(0, 40), max_size=30))
def test_reports_survive_the_way_however_they_are_cut(
    reports: list[Report], sizes: list[int]
) -> None:
    data = b"".join(map(encode_report, reports))
    reader = FrameReader()
    assert [each for piece in cut(data, sizes) for each in reader.reports(piece)] == reports


@given(PATHS, st.integers(0, 3), st.binary(max_size=100))
def test_messages_up_survive_the_way(path: Path, ecn: int, datagram: bytes) -> None:
    header = up_header(path, ecn)
    assert len(header) == UP_HEADER_SIZE
    assert decode_up(header + datagram) == UpMessage(path, ecn, datagram)


def told_ids(command: Command) -> tuple[bytes, ...]:
    if isinstance(command, ConnectionIdsAdded | ConnectionIdsRemoved | OwnerRemoved):
        return command.connection_ids
    return ()


def test_many_connection_ids_go_in_several_frames() -> None:
    ids = tuple(each.to_bytes(12, "big") for each in range(2 * IDS_PER_FRAME + 1))
    added = list(FrameReader().commands(encode_command(ConnectionIdsAdded(7, ids))))
    assert [type(each) for each in added] == [ConnectionIdsAdded] * 3
    assert sum(map(told_ids, added), ()) == ids
    removed = list(FrameReader().commands(encode_command(OwnerRemoved(7, ids))))
    assert isinstance(removed[-1], OwnerRemoved)
    assert [type(each) for each in removed[:-1]] == [ConnectionIdsRemoved] * 2
    assert sum(map(told_ids, removed), ()) == ids


def test_many_sources_go_in_several_frames() -> None:
    sources = tuple(Address("192.0.2.1", port) for port in range(SOURCES_PER_FRAME + 1))
    one, two = FrameReader().reports(encode_report(Heard(sources)))
    assert isinstance(one, Heard)
    assert isinstance(two, Heard)
    assert one.sources + two.sources == sources


def test_counters_add_up() -> None:
    one = Counters(tuple(range(len(Outcome))), 10)
    assert one + Counters.zero() == one
    assert (one + one).bytes_forwarded == 20
    assert (one + one).of(Outcome.HTTP3) == 2 * one.of(Outcome.HTTP3) == 2


@given(st.binary(max_size=200))
def test_any_bytes_give_commands_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ChannelError):
        for command in FrameReader().commands(data):
            assert isinstance(command, Command)


@given(st.integers(0, 30), st.binary(max_size=120))
def test_any_frame_gives_a_value_or_an_error(kind: int, body: bytes) -> None:
    frame = bytes([kind]) + len(body).to_bytes(4, "big") + body
    for read in (FrameReader().commands, FrameReader().reports):
        try:
            (value,) = read(frame)
        except ChannelError:
            continue
        assert isinstance(value, Command | Report)


@given(st.binary(max_size=120))
def test_any_message_up_gives_a_value_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ChannelError):
        assert isinstance(decode_up(data), UpMessage)


def test_a_frame_that_is_too_long_is_refused_before_it_is_stored() -> None:
    with pytest.raises(ChannelError, match="at most 65536"):
        list(FrameReader().commands(b"\x01" + (MAX_BODY + 1).to_bytes(4, "big")))
