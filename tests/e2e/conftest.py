"""What the end-to-end tests share."""

import os

import pytest

from relay.certificate import ServerCertificate
from tests.conftest import Note

__all__ = ["LONG", "LONG_RUN", "Note"]

LONG = bool(os.environ.get("QUICPIPE_LONG"))
"""Whether the numbers of runs are those of the promise, and not those of a quick look."""

LONG_RUN = "long run: set QUICPIPE_LONG=1, or use make test-long"
"""Why a test is skipped otherwise."""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    """A self-signed certificate for relays in this process."""
    return ServerCertificate.self_signed(tmp_path_factory.mktemp("relay"), "relay.example")
