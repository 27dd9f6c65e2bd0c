"""What the end-to-end tests share."""

import os
from collections.abc import Callable

import pytest

from relay.certificate import ServerCertificate

LONG = bool(os.environ.get("QUICPIPE_LONG"))
"""Whether the numbers of runs are those of the promise, and not those of a quick look."""

LONG_RUN = "long run: set QUICPIPE_LONG=1, or use make test-long"
"""Why a test is skipped otherwise."""

Note = Callable[[str], None]

_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    """A self-signed certificate for relays in this process."""
    return ServerCertificate.self_signed(tmp_path_factory.mktemp("relay"), "relay.example")


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Call it with a line of measured figures: it is shown at the end of the run."""
    name = request.node.name
    figures = request.config.stash.setdefault(_FIGURES, [])
    return lambda line: figures.append(f"{name}: {line}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the figures."""
    figures = config.stash.get(_FIGURES, [])
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
