"""`python -m peers`, and the command `quicpipe`."""

import sys

INTERRUPTED = 130
"""The exit code of whoever is ended by Ctrl-C: 128 and the signal's number, as shells have it."""


def main() -> int:
    """Run the command; returns the exit code."""
    try:
        # Not at the top: loading takes a while, and Ctrl-C must not show a traceback meanwhile.
        from .cli.main import main as command

        return command()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
