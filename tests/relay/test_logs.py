"""One record, one line; nobody can forge another one."""

import errno
import io
import json
import logging

import pytest

from relay import logs
from relay.logs import ALWAYS, LogFormat

logger = logging.getLogger("relay.test")

pytestmark = pytest.mark.usefixtures("own_logging")


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogFormat.TEXT, "info")
    logger.debug("unseen")
    logger.info("hello %s", "you\nforged \x1b[31mline\u2028", extra={"fields": {"n": 1, "m": "x"}})
    time, rest = capsys.readouterr().err.removesuffix("\n").split(" ", 1)
    assert rest == r"info relay.test: hello you\x0aforged \x1b[31mline\x2028 n=1 m=x"
    assert time.endswith("Z")
    assert len(time) == len("2026-01-01T00:00:00.000Z")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogFormat.JSON, "info")
    logger.warning("two\nlines", extra={"fields": {"n": 1}})
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "warning", "logger": "relay.test", "message": "two\nlines", "n": 1}


@pytest.mark.parametrize("log_format", LogFormat)
def test_exceptions_are_shown(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(log_format, "info")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logger.exception("failed")
    said = capsys.readouterr().err
    assert "failed" in said
    assert "RuntimeError: boom" in said
    assert log_format is LogFormat.TEXT or len(said.splitlines()) == 1


def test_counters_are_logged_at_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogFormat.TEXT, "error")
    logger.warning("unseen")
    logging.getLogger(ALWAYS).info("counters")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("level", "expected"), [("info", 0), ("warning", 0), ("debug", 1)])
def test_libraries_cannot_fill_the_disk(
    level: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(LogFormat.TEXT, level)
    logging.getLogger("quic").warning("a client did something strange")
    assert len(capsys.readouterr().err.splitlines()) == expected


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_stderr_that_fails_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", Full())
        logs.configure(LogFormat.TEXT, "info")
        logger.info("nobody can read this")
    assert capsys.readouterr() == ("", "")
