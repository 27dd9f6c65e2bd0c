"""A few cells of the matrix, once each: `make nat-matrix` runs all of them many times."""

import pytest

from .cells import ADF, APDF, EIF, PUBLIC, RANDOM, Cell, Place, Promise, Together
from .nats import Nat, Udp
from .scene import Run, Scene

PATIENCE_S = 20.0
"""Seconds for what is promised in one: this machine may be busy."""

DIRECT = Promise(1.0, patience_s=PATIENCE_S)
NOT_DIRECT = Promise(0.0, patience_s=3.0)
SIX = Place(Nat.RANDOM, ipv6=True)
BLOCKED = Place(Nat.PORT_FILTER, udp=Udp.BLOCKED)


@pytest.mark.parametrize(
    "cell",
    [
        Cell(EIF, APDF, DIRECT),
        Cell(APDF, APDF, DIRECT),
        Cell(PUBLIC, RANDOM, DIRECT),
        Cell(ADF, RANDOM, DIRECT),
        Cell(SIX, SIX, DIRECT),
        Cell(RANDOM, RANDOM, DIRECT, Together.HOME),
    ],
    ids=str,
)
def test_direct(can_build: None, cell: Cell) -> None:
    with Scene(cell) as scene:
        run = scene.run()
    assert not run.error
    assert run.direct, run.lines


@pytest.mark.parametrize("cell", [Cell(RANDOM, RANDOM, NOT_DIRECT)], ids=str)
def test_by_the_relay(can_build: None, cell: Cell) -> None:
    with Scene(cell) as scene:
        scene.open(run := Run())
        scene.prove(run)
        scene.close_pipe()
    assert not run.error


def test_without_udp_there_is_one_clear_line(can_build: None) -> None:
    with Scene(Cell(BLOCKED, APDF, Promise(0.0, opens=False))) as scene:
        run = scene.run()
    assert "does not answer" in run.error
    assert "\n" not in run.error
