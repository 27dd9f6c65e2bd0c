"""The command `quicpipe-relay`, also `python -m relay`."""

import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from relay import logs
from relay.config import choose, config_parser, load_or_exit

FAILED = 1
INTERRUPTED = 130
"""By Ctrl-C before the relay ran, as shells count it."""

_COMMANDS = {
    "check-config": ("relay.settings.check", "run_check_config"),
    "drain": ("relay.lifecycle.commands", "run_drain"),
    "reload": ("relay.lifecycle.commands", "run_reload"),
    "status": ("relay.lifecycle.commands", "run_status"),
    "token": ("relay.token_command", "run_token"),
    "top": ("relay.admin.top", "run_top"),
    "upgrade": ("relay.lifecycle.commands", "run_upgrade"),
    "xdp": ("relay.kernel.command", "run_xdp"),
}
"""Where each is; loaded when it is run. relay/config.py lists them for --help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the relay; returns the exit code."""
    _fill_standard_descriptors()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in _COMMANDS:
        module, function = _COMMANDS[arguments[0]]
        run_command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
        try:
            code = run_command(arguments[1:])
            sys.stdout.flush()
        except BrokenPipeError:  # `| head`: nobody wants the rest
            logs.discard(sys.stdout)
            return FAILED
        return code
    parser = config_parser()
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    chosen = choose(parser, arguments, os.environ)
    loaded = load_or_exit(parser, chosen)
    logs.configure(loaded.settings.log_format, loaded.settings.log_level)
    try:
        from relay.service import StartFailed, run  # late: --help and mistakes need not wait for it

        try:
            return run(chosen, loaded)
        except StartFailed as error:
            logging.getLogger("relay").critical("%s", error)
            return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _version() -> str:
    try:
        return importlib.metadata.version("quicpipe")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _fill_standard_descriptors() -> None:
    """Where stdin, stdout or stderr is closed, no socket must take its number."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed when Python started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (for the whole run)


if __name__ == "__main__":
    sys.exit(main())
