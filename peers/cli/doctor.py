"""`quicpipe doctor`: what network is this, in plain words or as JSON."""

import json
import os

from ..doctor.examine import examine
from ..doctor.words import in_words
from ..errors import UsageError
from ..network import SystemNetwork
from ..relay_name import RelayName
from .io import put, say, say_on_terminal
from .options import Options
from .session import RELAY_VARIABLE
from .token import relay_trust


async def doctor_command(options: Options) -> int:
    """Examine, and say what was found; 1 if there is a relay, and it is not reached."""
    relay = _relay(options)
    if options.relay_fingerprint is not None and relay is None:
        raise UsageError("--relay-fingerprint has no effect without --relay: give both, or neither")
    if not options.json:
        say_on_terminal("examining the network, up to ten seconds …")
    report = await examine(SystemNetwork(), relay, relay_trust(options))
    if options.json:
        put(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n")
    else:
        put("".join(f"{line}\n" for line in in_words(report)))
    if relay is None:
        say(f"without a relay that is all: give --relay HOST[:PORT], or set {RELAY_VARIABLE}")
    if report.problem:
        say(report.problem)
    return 1 if report.problem else 0


def _relay(options: Options) -> RelayName | None:
    """The relay to ask; None: none is named.

    :raises UsageError: the environment names one that is none.
    """
    if options.relay is not None:
        return options.relay
    text = os.environ.get(RELAY_VARIABLE)
    if not text:
        return None
    try:
        return RelayName.parse(text)
    except ValueError as error:
        raise UsageError(f"the environment's {RELAY_VARIABLE}: {error}") from None
