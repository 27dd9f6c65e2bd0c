"""What every command with a pipe does: by which relay, and the talk itself."""

import asyncio
import os

from ..errors import CloseCode, PeersError, UsageError
from ..identity import parse_fingerprint
from ..paths.path import Direct
from ..paths.report import Change
from ..pipe import Pipe
from ..relay_name import RelayName
from .io import Sink, Source, say, say_on_terminal
from .options import Options
from .streams import converse

RELAY_VARIABLE = "QUICPIPE_RELAY"
FINGERPRINT_VARIABLE = "QUICPIPE_RELAY_FINGERPRINT"
ORIGINAL_RELAY_VARIABLE = "QHOST"

TOLD_AFTER_S = 10.0
"""Seconds after which a pipe that is still on the relay has its reasons told."""
_LOOK_S = 0.5

_FAILED_HERE = "the command failed; it says why where it runs"
"""What the other side is told: our own messages may name files, and are for our own user."""


def chosen_relay(options: Options) -> RelayName:
    """The relay to be used.

    :raises UsageError: if none is named, or the environment names one that is none.
    """
    if options.relay is not None:
        return options.relay
    variables = [RELAY_VARIABLE, *([ORIGINAL_RELAY_VARIABLE] if options.original else [])]
    for variable in variables:
        if text := os.environ.get(variable):
            try:
                return RelayName.parse(text)
            except ValueError as error:
                raise UsageError(f"the environment's {variable}: {error}") from None
    raise UsageError(f"which relay? Give --relay HOST[:PORT], or set {' or '.join(variables)}")


def chosen_fingerprint(options: Options) -> str | None:
    """The fingerprint that the relay must have; None: none is given.

    That of the environment is the fingerprint of the environment's relay, and of no other.

    :raises UsageError: if the environment has one that is none.
    """
    text = os.environ.get(FINGERPRINT_VARIABLE)
    if options.relay_fingerprint is not None or not text or not environment_names(options.relay):
        return options.relay_fingerprint
    try:
        return parse_fingerprint(text)
    except PeersError as error:
        raise UsageError(f"the environment's {FINGERPRINT_VARIABLE}: {error}") from None


def environment_names(relay: RelayName | None) -> bool:
    """Whether the environment names this relay, or any if none is given."""
    text = os.environ.get(RELAY_VARIABLE)
    try:
        return bool(text) and relay in (None, RelayName.parse(text or ""))
    except ValueError:
        return False


async def talk(
    pipe: Pipe,
    source: Source | None,
    options: Options,
    *,
    is_dialer: bool,
    sink: Sink | None = None,
) -> int:
    """Connect the standard streams to an open pipe until both have ended, and close it.

    :param source: what to send; None: nothing, the end at once.
    :param sink: where what comes goes; None: standard output.
    :raises PeersError: if not everything went through, both ways.
    """
    watching = None
    if options.verbose:
        say(f"the pipe is open, to {pipe.peer}")
        say(pipe.paths().lines()[0])
        pipe.on_path_change(lambda change: say(_describe(change, options)))
        watching = asyncio.create_task(_tell_of_search(pipe))
    else:
        say_on_terminal("connected")
    try:
        await converse(pipe, source, original=options.original, is_dialer=is_dialer, sink=sink)
    except asyncio.CancelledError:
        await pipe.close(CloseCode.FAILED, "interrupted")
        raise
    except PeersError:
        await pipe.close(CloseCode.FAILED, _FAILED_HERE)
        raise
    finally:
        if watching is not None:
            watching.cancel()
            _report(pipe)
    await pipe.close()
    return 0


def _describe(change: Change, options: Options) -> str:
    if options.direct_only and not isinstance(change.path, Direct):
        return f"path: none; nothing is sent by the relay ({change.reason})"
    return f"path: {change.path} ({change.reason})"


async def _tell_of_search(pipe: Pipe) -> None:
    """Say why the pipe stays on the relay: all that was tried after a while, and each giving up."""
    clock = asyncio.get_running_loop().time
    began = clock()
    is_told = had_given_up = False
    while True:
        report = pipe.paths()
        if not is_told and clock() - began >= TOLD_AFTER_S:
            is_told = True
            if not isinstance(report.current, Direct):
                _say_all(report.lines())
        elif report.has_given_up and not had_given_up:
            say(f"search: {report.searching}")
        had_given_up = report.has_given_up
        await asyncio.sleep(_LOOK_S)


def _say_all(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _report(pipe: Pipe) -> None:
    figures = pipe.statistics()
    rtt = f"{figures.smoothed_rtt_s * 1000:.1f} ms" if figures.smoothed_rtt_s else "unknown"
    _say_all(pipe.paths().lines())
    say(
        f"sent {figures.bytes_sent} bytes in {figures.datagrams_sent} datagrams, received"
        f" {figures.bytes_received} in {figures.datagrams_received}; packets lost"
        f" {figures.packets_lost}; round trip {rtt}"
    )
