"""One laboratory for each test file of this folder, and what it needs."""

import shutil
from collections.abc import Iterator

import pytest

from tests.netns.lab import CommandFailed

from .world import World

PROGRAMS = ("ip", "nft", "ethtool", "nsenter")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """An internet with a relay's host; skips where none can be made."""
    missing = [each for each in PROGRAMS if shutil.which(each) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    try:
        world = World()
    except (CommandFailed, OSError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    with world:
        yield world
