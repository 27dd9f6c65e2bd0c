"""Fixtures for the relay's tests."""

import logging
from collections.abc import Iterator

import pytest

from relay.logs import ALWAYS


@pytest.fixture
def own_logging() -> Iterator[None]:
    """What the test configures of logging is undone at its end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in (ALWAYS, "quic", "hypercorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)
