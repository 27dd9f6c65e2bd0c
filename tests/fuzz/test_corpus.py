"""Every input that is kept is fed to its target; `make fuzz` looks for more."""

import hashlib
from pathlib import Path

import pytest

from .__main__ import CORPUS
from .targets import TARGETS

FILES = sorted(CORPUS.glob("*/*"))


def test_there_is_a_corpus_for_known_targets_only() -> None:
    assert {file.parent.name for file in FILES} <= TARGETS.keys()
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_corpus(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str) -> None:
    """A few that have nothing to do with the format, the same ones each time."""
    for length in (0, 1, 13, 21, 1200):
        TARGETS[name](hashlib.shake_128(b"%d" % length).digest(length))
