"""One target under atheris: `python -m tests.fuzz.one TARGET [libFuzzer's options]`."""

import sys

import atheris

with atheris.instrument_imports(include=["relay", "peers", "aioquic", "hypercorn"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Never returns: atheris ends the process."""
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
