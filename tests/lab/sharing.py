"""What a relay with a total rate must make of the senders of senders.py."""

from typing import Any

from tests.lab.senders import ALLOWANCE, TOTAL

OPTIONS = ("--limits-bytes-per-s", str(TOTAL))
_BURST_S = 0.25


def check_shares(found: dict[str, Any]) -> None:
    """The modest one gets all that it sends, the greedy one no more than the rest, two greedy ones
    the same; and a token's bytes end."""
    uneven, even = found["uneven"], found["even"]
    (_, greedy), (modest_sent, modest) = uneven["ends"]
    assert modest > 0.95 * modest_sent > 0
    assert greedy > 0.5 * TOTAL * uneven["seconds"]
    assert greedy + modest < 1.1 * TOTAL * (uneven["seconds"] + _BURST_S)
    first, second = (got for _, got in even["ends"])
    assert 0.8 < first / second < 1.25
    assert first + second > 0.5 * TOTAL * even["seconds"]
    assert first + second < 1.1 * TOTAL * (even["seconds"] + _BURST_S)
    sent, used = found["used"]
    # What is under way until the relay knows of it still passes: some tenths of a second.
    assert 0.99 * ALLOWANCE < used < 2 * ALLOWANCE < sent
