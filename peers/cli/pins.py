"""`quicpipe pin`, `unpin` and `pins`: which label stands for which peer."""

from ..known_peers import default_pins_path, editing
from .io import put, say
from .keys import load_pins
from .options import Options


def pin_command(options: Options) -> int:
    """Keep a peer's fingerprint under a label."""
    with editing(default_pins_path(options.identity)) as pins:
        pins.add(options.label, options.fingerprint)
    say(f"{options.label} stands for {options.fingerprint} from now on")
    return 0


def unpin_command(options: Options) -> int:
    """Forget one."""
    with editing(default_pins_path(options.identity)) as pins:
        pins.remove(options.label)
    return 0


def pins_command(options: Options) -> int:
    """Print all, one line each: label and fingerprint."""
    put("".join(f"{label} {fingerprint}\n" for label, fingerprint in load_pins(options)))
    return 0
