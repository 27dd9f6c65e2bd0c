"""docs/kernel-path.md names all that there is."""

import ctypes
import re
from pathlib import Path

from bpf import layout
from bpf.pins import PinSizes, shapes
from relay.config import Config
from relay.kernel.config import PREFIX
from relay.settings.declare import sections

TEXT = (Path(__file__).parents[2] / "docs" / "kernel-path.md").read_text()


def test_every_counter() -> None:
    for outcome in layout.KernelOutcome:
        assert f"`{outcome.label}`" in TEXT


def test_every_map_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \((.*?)\) \|", TEXT, re.MULTILINE)
    assert {name for name, _ in rows} == set(shapes(PinSizes(1, 1)))


def test_every_variable() -> None:
    (xdp,) = (section for section in sections(Config) if section.key == "xdp")
    assert {setting.variable for setting in xdp.settings} == set(re.findall(rf"{PREFIX}\w+", TEXT))


def test_the_owner_is_as_long_as_it_says() -> None:
    assert f"{ctypes.sizeof(layout.Owner)} bytes, see below" in TEXT
    assert (layout.Owner.hop.offset, layout.Owner.route.offset) == (128, 192)
