"""Bytes under way while the direct path is cut, restored and cut again, and the dialer moves."""

import os
import time
from collections.abc import Iterator

import pytest

from .cells import APDF, Cell
from .home import Home, ask_both
from .nats import Nat
from .scene import Run, Scene

LONG = bool(os.environ.get("QUICPIPE_LONG"))
SIZE, RATE = (100_000_000, 4_000_000) if LONG else (20_000_000, 1_500_000)
"""Bytes, and bytes per second."""

PATIENCE_S = 30.0
MOST_PAUSE_S = 2.0


@pytest.fixture
def scene(can_build: None) -> Iterator[Scene]:
    with Scene(Cell(APDF, APDF)) as scene:
        yield scene


def both_until(scene: Scene, *, direct: bool) -> float:
    """Wait until both ends are on the direct path, or off it; returns the seconds it took."""
    begin = time.monotonic()
    both = (scene.dialer, "until_path"), (scene.accepter, "until_path")
    reports = ask_both(*both, direct=direct, patience_s=PATIENCE_S)
    assert all(each["direct"] is direct for each in reports), reports
    return time.monotonic() - begin


def until_received(home: Home, share: float) -> None:
    deadline = time.monotonic() + PATIENCE_S + SIZE / RATE
    while home.ask("received")["size"] < share * SIZE:
        assert time.monotonic() < deadline, "the bytes do not come"
        time.sleep(0.05)


def test_a_transfer_survives_every_change_of_path(scene: Scene) -> None:
    world, homes = scene.world, [each.ipv4 for each in scene.gateways]
    elsewhere = world.gateway(Nat.PORT_FILTER, inside="192.168.2")
    scene.open(Run())
    both_until(scene, direct=True)
    scene.accepter.ask("forget")
    sending = scene.dialer.start("send", size=SIZE, rate=RATE)

    until_received(scene.accepter, 0.1)
    world.cut(homes[0], homes[1])
    cut = both_until(scene, direct=False)
    until_received(scene.accepter, 0.25)
    world.restore(homes[0], homes[1])
    restored = both_until(scene, direct=True)
    until_received(scene.accepter, 0.6)
    world.cut(homes[0], homes[1])
    cut_again = both_until(scene, direct=False)
    until_received(scene.accepter, 0.75)
    assert scene.accepter.ask("received")["size"] < SIZE
    scene.dialer.device.ip("link", "set", "eth0", "down")
    world.plug(scene.dialer.device, "eth0b", elsewhere)

    sent = scene.dialer.answer(sending, 2 * PATIENCE_S)
    received = scene.accepter.ask("received")
    moved = both_until(scene, direct=True)  # from the new network, too
    print(
        f"{SIZE / 1e6:.0f} MB: on the relay {cut:.2f} and {cut_again:.2f} s after a cut, direct"
        f" {restored:.2f} s after its end, and {moved:.2f} s after all had arrived elsewhere;"
        f" longest pause {received['longest_pause_s']:.2f} s"
    )
    assert received["size"] == SIZE
    assert received["digests"] == [sent["digest"]]
    assert received["longest_pause_s"] < MOST_PAUSE_S
