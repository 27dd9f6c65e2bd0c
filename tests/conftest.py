"""Hooks for the whole test run."""

import os
import signal
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine's other work than about the code.
# In continuous integration the examples are always the same ones: a change is judged by what it
# changes. Everywhere else, and in `make fuzz`, they are new ones each time.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("any machine")

LONG_RUN = "long run"
"""How the reason of a skip begins that is always allowed: `make test-long` runs those."""


Note = Callable[[str], None]

_FIGURE = "figure"


def pytest_configure() -> None:
    """A shell that runs this in the background has its children ignore SIGINT, nohup(1) SIGHUP,
    and ours would inherit that: there are tests of both. What has a handler here is not ignored
    there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Call it with a line of measured figures: it is shown at the end of the run."""
    # It travels with the test's report, for that may be made in another process.
    properties = request.node.user_properties
    return lambda line: properties.append((_FIGURE, f"{request.node.name}: {line}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures, and which skips a machine of this kind must not have: see .ci/run."""
    reports = terminalreporter.getreports("passed")
    figures = [line for each in reports for name, line in each.user_properties if name == _FIGURE]
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
    unexpected = _unexpected_skips(terminalreporter)
    if unexpected:
        terminalreporter.section("skipped, but this machine can run them", red=True)
        for line in unexpected:
            terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn an unexpected skip into a failure where QUICPIPE_NO_SKIPS is set."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.OK and reporter and _unexpected_skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unexpected_skips(reporter: pytest.TerminalReporter) -> list[str]:
    if not os.environ.get("QUICPIPE_NO_SKIPS"):
        return []
    lines = []
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(LONG_RUN):
            lines.append(f"{report.nodeid}: {reason}")
    return lines
