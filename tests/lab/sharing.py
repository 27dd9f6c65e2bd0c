"""What a relay with a total rate must make of the senders of senders.py."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from tests.lab.senders import ALLOWANCE, TOTAL

OPTIONS = ("--limits-bytes-per-s", str(TOTAL))
_BURST_S = 0.25

Window = dict[str, Any]


def check_shares(found: dict[str, Any]) -> None:
    """The modest one gets all that it sends, the greedy one no more than the rest, two greedy ones
    the same; and a token's bytes end."""
    for windows in (found["uneven"], found["even"]):
        assert _typical(windows, lambda window: _got(window) / window["seconds"]) > 0.5 * TOTAL
        seconds = sum(window["seconds"] for window in windows)
        assert sum(map(_got, windows)) < 1.1 * TOTAL * (seconds + _BURST_S)
    # Each is (sent, got), the greedy one first.
    assert _typical(found["uneven"], lambda window: _part(*window["ends"][1])) > 0.95
    assert _typical(found["uneven"], lambda window: window["ends"][0][1]) > 0.5 * TOTAL
    # Of two who want the same, neither has over a quarter more than the other.
    assert 0.8 / 1.8 < _typical(found["even"], _first_part) < 1 / 1.8
    sent, used = found["used"]
    # What is under way until the relay knows of it still passes: some tenths of a second.
    assert 0.99 * ALLOWANCE < used < 2 * ALLOWANCE < sent


def _typical(windows: Sequence[Window], judge: Callable[[Window], float]) -> float:
    return median(map(judge, windows))


def _got(window: Window) -> int:
    return sum(got for _, got in window["ends"])


def _first_part(window: Window) -> float:
    return _part(_got(window), window["ends"][0][1])


def _part(whole: float, part: float) -> float:
    return part / whole if whole else 0.0
