"""Whether a core is short."""

from pathlib import Path

import pytest

from relay import crowding
from relay.crowding import HEAVY_PER_S, Core, Forwarding, judge

MS = 1_000_000


@pytest.mark.parametrize(
    ("ran", "waited", "short"),
    [(18 * MS, 2 * MS, False), (18 * MS, 2 * MS + 1, True), (0, 20 * MS, True)],
    ids=["a tenth", "more than a tenth", "never its turn"],
)
def test_when_a_core_is_short(ran: int, waited: int, short: bool) -> None:
    for was_short in (False, True):
        assert judge(was_short, (5, 7), (5 + ran, 7 + waited)) == (short, (5 + ran, 7 + waited))
        assert judge(was_short, (5, 7), (5 + 9 * MS, 7 + 10 * MS)) == (was_short, (5, 7))


def test_a_core_is_looked_at_as_the_system_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "schedstat"
    monkeypatch.setattr(crowding, "_SCHEDSTAT", str(told))
    core = Core()
    for text, expected in (
        ("18000000 1000000 9", False),
        ("36000000 5000000 9", True),
        ("36000001 5000000 9", True),  # too soon to judge anew
        ("90000000 5000000 9", False),
    ):
        told.write_text(text)
        assert core.is_short() is expected


def test_where_the_system_does_not_tell_a_core_is_never_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowding, "_SCHEDSTAT", str(tmp_path / "none"))
    core = Core()
    assert [core.is_short() for _ in range(2)] == [False, False]


def test_forwarding_is_heavy_from_a_rate_on() -> None:
    total, now = 0, 0.0
    forwarding = Forwarding(lambda: total, 1.0, lambda: now)
    assert not forwarding.is_heavy()
    for rate, expected in ((HEAVY_PER_S - 1, False), (HEAVY_PER_S, True), (0, False)):
        now += 1.0
        total += int(rate)
        assert forwarding.is_heavy() is expected
        now += 0.5  # too soon to judge anew
        assert forwarding.is_heavy() is expected
        now += 0.5
        total += int(rate)
        assert forwarding.is_heavy() is expected


def test_what_was_forwarded_long_before_does_not_count() -> None:
    total, now = 0, 0.0
    forwarding = Forwarding(lambda: total, 0.5, lambda: now)
    now, total = 50.0, int(100 * HEAVY_PER_S)
    assert not forwarding.is_heavy()
    now += 0.25
    assert not forwarding.is_heavy()
    now, total = now + 0.25, total + int(HEAVY_PER_S / 2)
    assert forwarding.is_heavy()
