"""What `top` shows, line by line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.admin.screen import bits, clean, head_of, lines, scaled, spark

OVERVIEW = {
    "at": 1000.0,
    "started": 0.0,
    "status": "ok",
    "registrations": 2,
    "connection_ids": 16,
    "limits": {"registrations": 100_000, "connection_ids": 1_000_000},
    "packets": 200,
    "bytes": 240_000,
    "packets_per_s": 1500.0,
    "bytes_per_s": 1_250_000.0,
    "kernel_packets": None,
    "drops": {"unknown_cid": 12_345, "rate_limited": 7},
    "drops_per_s": {"unknown_cid": 21.0},
    "refused": {"token_expired": 99},
    "http3": {"connections": 2, "half_open": 0},
}


def registration(number: int, **more: object) -> dict[str, object]:
    return {
        "id": f"{number:032x}"[::-1],
        "address": f"198.51.100.{number}:4433",
        "subject": None,
        "forwarded_by": "userspace",
        "bytes_per_s": 1250.0 * number,
        "packets_per_s": 1.0 * number,
        "bytes": 1000 * number,
        "connection_ids": 8,
        "last_seen": 1000.0 - 100 * number,
        "held": True,
        **more,
    }


def shown(count: int = 2, width: int = 120, height: int = 40, **more: object) -> list[str]:
    overview = {**OVERVIEW, "registrations": count, **more}
    table = [registration(number) for number in range(1, count + 1)]
    return lines(overview, [], table, order="bytes_per_s", width=width, height=height)


def test_everything_that_matters_is_there() -> None:
    text = "\n".join(shown())
    for words in (
        "running, since 1970-01-01",
        "10.0 Mbit/s  1,500 packets/s; in all 240 kB",
        "2  of 100,000; 16 of 1,000,000 connection IDs",
        "21/s  12,352 since the start",
        "12,345  unknown cid  (21/s)",
        "99  refused: token expired",
        "198.51.100.1:4433",
        "20.0 kbit/s",
    ):
        assert words in text, words


def test_the_kernel_s_share_and_draining_are_said() -> None:
    text = "\n".join(shown(kernel_packets=150, status="draining"))
    assert "75% by the kernel" in text
    assert "DRAINING" in text


def test_what_does_not_fit_is_counted() -> None:
    everything = shown(count=30, height=100)
    assert len(everything) == len(shown(count=30, height=len(everything)))
    cut = shown(count=30, height=len(everything) - 1)
    assert len(cut) == len(everything) - 1
    assert cut[-1].startswith("… 2 more")


def test_a_subject_cannot_move_the_cursor() -> None:
    table = [registration(1, subject="\x1b[2Jx\n\u202ey")]
    text = "\n".join(lines(OVERVIEW, [], table, order="bytes", width=200, height=50))
    assert clean("\x1b[2J") == "?[2J"
    assert "?[2Jx??y" in text
    assert "\x1b" not in text


@given(st.integers(0, 300), st.integers(0, 60), st.integers(0, 40))
def test_it_fits_every_terminal(width: int, height: int, count: int) -> None:
    result = shown(count, width, height)
    assert len(result) <= height
    assert all(len(line) <= width for line in result)
    head = head_of(result)
    assert head is None or result[head].startswith("ID")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 bit/s"),
        (124, "992 bit/s"),
        (125, "1.00 kbit/s"),
        (1_250_000, "10.0 Mbit/s"),
        (12_499_999_999, "100 Gbit/s"),
    ],
)
def test_rates_have_three_digits(value: float, expected: str) -> None:
    assert bits(value) == expected


def test_the_largest_unit_takes_what_is_larger() -> None:
    assert scaled(5e6, ("a", "b")) == "5000 b"


def test_a_row_of_bars() -> None:
    assert spark([0, 4, 8], 9) == " ▄█"
    assert spark([1, 2, 3, 4], 2) == "▆█"
    assert spark([], 5) == spark([1], 0) == ""
    assert spark([0, 0], 5) == "  "
