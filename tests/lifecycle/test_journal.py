"""The state file's lines: what was written is read, whatever happened to the end of it."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.lifecycle import journal
from relay.lifecycle.journal import BadJournal, Clock

BEGAN = Clock("boot", 100.0, 1_000_000.0)
ONE, TWO = {"owner": 1, "x": "a"}, {"owner": 2, "x": "b"}


def lines(*more: bytes) -> list[bytes]:
    return [journal.first_line(BEGAN), *more]


def test_what_was_written_is_read() -> None:
    changed = {"owner": 1, "x": "c"}
    read = journal.read(
        lines(
            journal.set_line(ONE),
            journal.set_line(TWO),
            journal.set_line(changed),
            journal.end_line(2),
            journal.end_line(7),
        )
    )
    assert read.entries == {1: changed}
    assert (read.clock, read.damaged) == (BEGAN, 0)


def test_the_last_sign_of_life_counts() -> None:
    later = Clock("boot", 250.5, 1_000_150.5)
    read = journal.read(lines(journal.alive_line(later)))
    assert read.clock == later
    assert (
        read.lease_shift(Clock("boot", 260.0, 5.0)) == 0.0
    )  # one run of the machine has one clock


@pytest.mark.parametrize(
    ("now", "shift"),
    [
        (Clock("other", 10.0, BEGAN.wall + 60.0), 10.0 - 60.0 - BEGAN.monotonic),
        (Clock("other", 10.0, BEGAN.wall - 60.0), 10.0 - BEGAN.monotonic),  # a clock set back
        (Clock("", 10.0, BEGAN.wall + 60.0), 10.0 - 60.0 - BEGAN.monotonic),
        (Clock("boot", BEGAN.monotonic + 60.0, 0.0), 0.0),
    ],
)
def test_after_a_start_of_the_machine_the_wall_clock_counts(now: Clock, shift: float) -> None:
    assert journal.read(lines()).lease_shift(now) == shift


@pytest.mark.parametrize("kept", range(len(journal.set_line(TWO))))
def test_a_torn_last_line_is_left_out(kept: int) -> None:
    read = journal.read(lines(journal.set_line(ONE), journal.set_line(TWO)[:kept]))
    assert read.entries == {1: ONE}
    assert read.damaged == 1


def test_a_damaged_line_in_the_midst_costs_only_itself() -> None:
    damaged = bytearray(journal.set_line(ONE))
    damaged[20] ^= 1
    read = journal.read(lines(bytes(damaged), journal.set_line(TWO)))
    assert read.entries == {2: TWO}
    assert read.damaged == 1


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b"1",
        b'{"set": 3}',
        b'{"set": {"owner": "1"}}',
        b'{"end": "1"}',
        b'{"alive": {}}',
        b'{"alive": {"monotonic": NaN, "wall": 1}}',
        b'{"alive": {"monotonic": true, "wall": 1}}',
        b'{"alive": {"monotonic": 1e300, "wall": 1}}',
        b"[" * 100_000,
        b'{"later": "version"}',
        b"\xff",
    ],
)
def test_a_line_of_another_kind_is_left_out(text: bytes) -> None:
    line = b"%08x %s\n" % (zlib.crc32(text), text)
    read = journal.read(lines(line, journal.set_line(ONE)))
    assert read.entries == {1: ONE}
    assert (read.damaged, read.clock) == (1, BEGAN)


@pytest.mark.parametrize(
    "first",
    [b"", b"\n", b"x", journal.set_line(ONE), journal.first_line(BEGAN)[:-5] + b"\n"],
)
def test_what_does_not_begin_well_is_no_state_file(first: bytes) -> None:
    with pytest.raises(BadJournal):
        journal.read([first, journal.set_line(ONE)])


def test_another_format_is_not_read() -> None:
    text = b'{"format": 2, "boot": "boot", "monotonic": 1, "wall": 1}'
    with pytest.raises(BadJournal):
        journal.read([b"%08x %s\n" % (zlib.crc32(text), text)])


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_are_a_journal_or_none(junk: list[bytes]) -> None:
    assert journal.read(lines(*junk)).damaged == len(junk)
    try:
        journal.read(junk)
    except BadJournal:
        return
    raise AssertionError("junk begins no journal")


@given(st.integers(0, 2**32), st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_record_is_one_line_whatever_it_says(owner: int, entry: dict[str, object]) -> None:
    entry = entry | {"owner": owner}
    line = journal.set_line(entry)
    assert line.count(b"\n") == 1
    assert journal.read(lines(line)).entries == {owner: entry}
