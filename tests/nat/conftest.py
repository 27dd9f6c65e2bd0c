"""One laboratory for each test file of this folder, and what it needs."""

import shutil
from collections.abc import Iterator

import pytest

from tests.netns.lab import CommandFailed, Lab

from .world import World

PROGRAMS = ("ip", "nft", "ethtool", "nsenter")


@pytest.fixture(scope="session")
def can_build() -> None:
    """Skips where no laboratory can be built."""
    missing = [each for each in PROGRAMS if shutil.which(each) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    lab = Lab()
    try:
        lab.host()
    except (CommandFailed, OSError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    lab.close()


@pytest.fixture(scope="module")
def world(can_build: None) -> Iterator[World]:
    """An internet with a relay's host."""
    with World() as world:
        yield world
