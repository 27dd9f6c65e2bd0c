"""Compile the program, load it and pin it. A process of its own: `python -m bpf.build`.

bcc brings a whole compiler into its process (100 MB, and messages of its own on stderr); this one
ends when the program is in the kernel. The maps are there already, pinned: see bpf/pins.py.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from .headers import HeadersMissing, default_cache, find_headers
from .pins import PROGRAM_FUNCTION, PinSizes
from .syscall import pin

SOURCE = Path(__file__).with_name("relay.bpf.c")
DISTRIBUTION_PACKAGES = Path("/usr/lib/python3/dist-packages")
BCC_MISSING = (
    "the BPF Compiler Collection is not installed (Debian, Ubuntu: apt install python3-bpfcc; "
    "PyPI's 'bcc' is something else)"
)


class BuildFailed(Exception):
    """The program cannot be brought into the kernel; the text is one line and says why."""


def load_bcc(packages: Path = DISTRIBUTION_PACKAGES) -> ModuleType:
    """The distribution's bcc, also for an interpreter that does not see its packages.

    Only this one package is taken from there: the folder is never put on the path, where it would
    stand before or behind what this interpreter has of its own.

    :raises BuildFailed: if there is none.
    """
    place = packages / "bcc" / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "bcc", place, submodule_search_locations=[str(place.parent)]
    )
    if not place.exists() or spec is None or spec.loader is None:
        raise BuildFailed(BCC_MISSING)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module  # its parts import each other by this name
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError, AttributeError) as error:
        del sys.modules["bcc"]
        raise BuildFailed(f"bcc at {place.parent} does not load: {error}") from error
    return module


def compile_program(bcc: ModuleType, pins: Path, sizes: PinSizes) -> int:
    """Compile and load; returns the program's descriptor.

    :raises BuildFailed: and the compiler's or verifier's own words are on stderr.
    """
    headers = find_headers(default_cache())
    if headers is not None:
        os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    flags = [
        "-Wall",
        "-Werror",
        f"-I{SOURCE.parent}",
        f'-DRELAY_PINS="{pins}"',
        f"-DRELAY_CIDS={sizes.cids}",
        f"-DRELAY_OWNERS={sizes.owners}",
        f"-DRELAY_BUCKETS={sizes.buckets}",
        f"-DRELAY_LINKS={sizes.links}",
        f"-DRELAY_MISSES={sizes.misses}",
    ]
    try:
        program = bcc.BPF(src_file=str(SOURCE), cflags=flags)
        function = program.load_func(PROGRAM_FUNCTION, bcc.BPF.XDP)
    except Exception as error:  # bcc raises nothing more particular
        raise BuildFailed(f"the program was not taken: {error}") from error
    return os.dup(function.fd)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with the reason as the last line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m bpf.build", description=__doc__)
    parser.add_argument("--pins", type=Path, required=True, help="folder of the pinned maps")
    parser.add_argument("--program", type=Path, required=True, help="where to pin the program")
    for name in PinSizes._fields:
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    sizes = PinSizes(*(getattr(options, name) for name in PinSizes._fields))
    try:
        pin(compile_program(load_bcc(), options.pins, sizes), options.program)
    except (BuildFailed, HeadersMissing, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - this is how the parent process hears of it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
