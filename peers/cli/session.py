"""What every command with a pipe does: by which relay, and the talk itself."""

import asyncio
import os

from ..errors import CloseCode, PeersError, UsageError
from ..identity import parse_fingerprint
from ..pipe import Pipe
from ..relay_name import RelayName
from .io import Sink, Source, say, say_on_terminal
from .options import Options
from .streams import converse

RELAY_VARIABLE = "QUICPIPE_RELAY"
FINGERPRINT_VARIABLE = "QUICPIPE_RELAY_FINGERPRINT"
ORIGINAL_RELAY_VARIABLE = "QHOST"

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
    if options.verbose:
        say(f"the pipe is open, to {pipe.peer}")
        say(pipe.paths().lines()[0])
        pipe.on_path_change(lambda change: say(f"path: {change.path} ({change.reason})"))
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
        if options.verbose:
            _report(pipe)
    await pipe.close()
    return 0


def _report(pipe: Pipe) -> None:
    figures = pipe.statistics()
    rtt = f"{figures.smoothed_rtt_s * 1000:.1f} ms" if figures.smoothed_rtt_s else "unknown"
    for line in pipe.paths().lines():
        say(line)
    say(
        f"sent {figures.bytes_sent} bytes in {figures.datagrams_sent} datagrams, received"
        f" {figures.bytes_received} in {figures.datagrams_received}; packets lost"
        f" {figures.packets_lost}; round trip {rtt}"
    )
