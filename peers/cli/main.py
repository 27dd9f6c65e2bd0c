"""The command `quicpipe`: what is run for which command line, and its exit codes."""

import asyncio
import importlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import ModuleType

from ..errors import PeersError, UsageError
from . import keys as cli_keys
from . import pins as cli_pins
from . import pipe as cli_pipe
from . import rendezvous as cli_rendezvous
from .checks import complaint
from .io import occupy_standard_descriptors, require_output, say
from .options import Options, is_code
from .parser import USAGE, build_parser

FAILURE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    :raises KeyboardInterrupt: on Ctrl-C.
    """
    occupy_standard_descriptors()
    options = _parse(arguments)
    _set_up_logging(verbose=options.verbose)
    try:
        return _run(options)
    except UsageError as error:
        say(str(error))
        return USAGE
    except PeersError as error:
        say(str(error))
        return FAILURE


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = build_parser()
    options, extra = parser.parse_known_args(arguments, namespace=Options())
    if options.command is None:
        parser.error(
            f"unknown argument: {extra[0][:60]}"
            if extra
            else "which command? 'quicpipe accept --code' on one machine, 'quicpipe dial CODE' on"
            " the other, to begin with"
        )
    parser.prog = f"{parser.prog} {options.command}"  # whose help is pointed to
    if any(each.lstrip().startswith("{") for each in extra):
        parser.error(
            "an invite does not belong on the command line, which others can see: give it on"
            " standard input, or by --invite FILE"
        )
    if extra and options.command == "accept" and is_code(extra[0]):
        parser.error("a code is dialled: 'quicpipe dial CODE'; --code makes a new one")
    if extra:
        parser.error(f"unknown argument: {extra[0][:60]}")
    wrong = complaint(options)
    if wrong is not None:
        parser.error(wrong)
    return options


def _run(options: Options) -> int:
    if options.output is None:
        require_output()
    match options.command:
        case "dial" if options.peer is not None and is_code(options.peer):
            return _run_async(_module("code").dial_code_command(options))
        case "accept" if options.code:
            return _run_async(_module("code").accept_code_command(options))
        case "dial" if options.peer is not None:
            return _run_async(cli_rendezvous.dial_peer_command(options))
        case "dial":
            return _run_async(cli_pipe.dial_command(options))
        case "accept" if options.listen:
            return _run_async(cli_rendezvous.listen_command(options))
        case "accept":
            invite = cli_pipe.read_invite(options)
            return _run_async(cli_pipe.accept_command(options, invite))
        case "doctor":
            return _run_async(_module("doctor").doctor_command(options))
        case _:
            return _AT_ONCE[options.command or ""](options)


def _module(name: str) -> ModuleType:
    """One that is not loaded at the top: few need it, and it takes a while."""
    return importlib.import_module(f".{name}", __package__)


_AT_ONCE: dict[str, Callable[[Options], int]] = {
    "identity": cli_keys.identity_command,
    "keygen": cli_keys.keygen_command,
    "pin": cli_pins.pin_command,
    "unpin": cli_pins.unpin_command,
    "pins": cli_pins.pins_command,
}
"""The commands that need no event loop."""


def _run_async(command: Coroutine[None, None, int]) -> int:
    """Run a command so that the signals that end a process let it say goodbye to the peer."""
    ended_by: list[int] = []

    async def run() -> int:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def end(number: int) -> None:
            ended_by.append(number)
            if task is not None:
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end, number)
        return await command

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        return 128 + ended_by[0] if ended_by else FAILURE


def _set_up_logging(*, verbose: bool) -> None:
    """Warnings of this package as messages of the command; those of others nowhere."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("quicpipe: %(message)s"))
    logger = logging.getLogger("peers")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    # What QUIC warns of ends the pipe, and is said then in better words.
    logging.getLogger("peers.quic.connection").setLevel(
        logging.WARNING if verbose else logging.CRITICAL
    )
    logging.getLogger().addHandler(logging.NullHandler())
