"""Logging to stderr: text for people, JSON for machines. One record is one line in both.

Values that belong to a record go into `extra={"fields": {...}}`: text shows them as `name=value`.
How often the same thing is said is bounded: see relay/log_rates.py.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import TextIO

from relay.log_rates import LogRates, RateFilter


class LogFormat(StrEnum):
    """The value is what the command line takes."""

    TEXT = "text"
    JSON = "json"


LEVELS = ("debug", "info", "warning", "error")

ALWAYS = "relay.counters"
"""The logger of what was asked for by a signal: it speaks at every level."""

_NOISY = ("quic", "hypercorn", "asyncio")
"""Libraries that log what clients do. A client must not be able to fill the disk: they may speak
of errors only, unless the level is `debug`."""

_CONTROL_CHARACTERS = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}


def configure(log_format: LogFormat, level: str) -> None:
    """Send all logging to stderr. `level` is one of `LEVELS`."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_TextFormatter() if log_format is LogFormat.TEXT else _JsonFormatter())
    handler.addFilter(RateFilter(handler.rates, always=ALWAYS))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger(ALWAYS).setLevel(logging.INFO)
    set_level(level)


def set_level(level: str) -> None:
    """From now on log what is of this level, one of `LEVELS`, or above."""
    logging.getLogger().setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.ERROR)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # is no generic at run time
    """Gives up quietly when stderr cannot be written to: there is nobody left to tell."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.rates = LogRates()

    def close(self) -> None:
        """At the end of the program: say what else would have been logged."""
        for (name, level, text), count in self.rates.take_left_out().items():
            record = logging.LogRecord(name, level, "", 0, "not logged: %s", (text,), None)
            record.fields = {"times": count}
            self.emit(record)
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        """When the reader has gone, write to nowhere: else Python complains once more at exit."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            discard(self.stream)


def discard(stream: TextIO) -> None:
    """Let all that is written to a standard stream disappear."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        text = f"{record.getMessage()}{fields}".translate(_CONTROL_CHARACTERS)
        line = f"{_time(record)} {record.levelname.lower()} {record.name}: {text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
