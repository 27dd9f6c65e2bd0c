"""`quicpipe accept --code` and `quicpipe dial CODE`: two strangers meet by a spoken code."""

import time

from ..errors import CloseCode, FileUnusable, UsageError
from ..identity import Identity
from ..known_peers import default_pins_path, editing
from ..pipe import Pipe
from ..relay_name import RelayName
from ..rendezvous.spoken import accept_code, dial_code
from .io import Source, say
from .keys import load_or_make_identity
from .options import Options
from .qr import show_qr
from .session import chosen_fingerprint, chosen_relay, talk
from .token import relay_trust


async def accept_code_command(options: Options) -> int:
    """Make a code, wait until it is used, then connect the standard streams to the pipe."""
    relay, trust = chosen_relay(options), relay_trust(options)
    identity = _identity(options)
    making = accept_code(
        str(relay), trust=trust, identity=identity, path_policy=options.path_policy
    )
    async with await making as waiting:
        minutes = waiting.lifetime_s / 60
        say(f"the code is {waiting.code}")
        say(
            f"on the other machine, once and within {minutes:.0f} minutes:"
            f" quicpipe dial {waiting.code} {_relay_options(relay, options)}"
        )
        if options.qr:
            show_qr(waiting.code.upper())  # capitals make a smaller picture
        pipe = await waiting.pipe()
        return await _go_on(pipe, options, is_dialer=False)


async def dial_code_command(options: Options) -> int:
    """Use a code, then connect the standard streams to the pipe."""
    relay, trust = chosen_relay(options), relay_trust(options)
    identity = _identity(options)
    started = time.monotonic()
    dialing = dial_code(
        options.peer or "",
        str(relay),
        trust=trust,
        identity=identity,
        path_policy=options.path_policy,
    )
    async with await dialing as pipe:
        if options.verbose:
            say(f"met by the code in {(time.monotonic() - started) * 1000:.0f} ms")
        return await _go_on(pipe, options, is_dialer=True)


def _identity(options: Options) -> Identity:
    """Our own, so that the other side can keep it; a passing one where none can be kept.

    :raises FileUnusable: the files that `--identity` and `--save` mean cannot be used.
    """
    if options.save is not None:
        with editing(default_pins_path(options.identity)):
            pass  # now: what is wrong with them must not use the code up
    try:
        return load_or_make_identity(options)
    except (FileUnusable, UsageError) as error:
        if options.identity is not None or options.save is not None:
            raise
        say(f"no identity is kept here, so the other side cannot save it: {error}")
        return Identity.generate()


async def _go_on(pipe: Pipe, options: Options, *, is_dialer: bool) -> int:
    if options.save is not None:
        try:
            _save(pipe.peer.fingerprint or "", options.save, options)
        except UsageError:
            await pipe.close(CloseCode.FAILED, "the other side knows somebody else by that label")
            raise
        except FileUnusable:
            await pipe.close(CloseCode.FAILED, "the other side cannot save whom it talks to")
            raise
    return await talk(pipe, Source(), options, is_dialer=is_dialer)


def _save(fingerprint: str, label: str, options: Options) -> None:
    """Keep whom the code has led to.

    :raises UsageError: the label stands for somebody else.
    """
    with editing(default_pins_path(options.identity)) as pins:
        pins.add(label, fingerprint)
    say(f"{label} stands for {fingerprint} from now on: see 'quicpipe pin --help'")


def _relay_options(relay: RelayName, options: Options) -> str:
    """What the other side must say to reach the same relay."""
    pinned = chosen_fingerprint(options)
    return f"--relay {relay}" + (f" --relay-fingerprint {pinned}" if pinned else "")
