"""`quicpipe identity` and `quicpipe keygen`, and where the other commands find what these made."""

import os
from pathlib import Path

from relay.wire.rendezvous import is_fingerprint

from .. import keys
from ..errors import FileUnusable, UsageError
from ..identity import Identity, default_path
from ..known_peers import KnownPeers, default_pins_path
from ..private_file import write_private
from .io import put, say
from .options import Options
from .prompt import ask_unseen

KEY_FILE_VARIABLE = "QUICPIPE_PAIRING_KEY_FILE"
KEY_VARIABLE = "QUICPIPE_PAIRING_KEY"


def identity_command(options: Options) -> int:
    """Print the fingerprint of one's identity, which is made if there is none."""
    put(load_or_make_identity(options).fingerprint + "\n")
    return 0


def load_or_make_identity(options: Options) -> Identity:
    """The identity, which is made if there is none: for whoever need not be known beforehand.

    :raises IdentityInvalid: the file is none.
    :raises FileUnusable: it cannot be written.
    """
    path = options.identity or default_path()
    if not path.exists():
        try:
            Identity.generate().save(path, make_folder=options.identity is None)
            say(f"made a new identity in {path}")
        except FileUnusable:
            # Another process may have made it in this very moment.
            if not path.exists():
                raise
    return Identity.load(path)


def load_pins(options: Options) -> KnownPeers:
    """Which labels stand for whom.

    :raises FileUnusable: the file cannot be used.
    """
    return KnownPeers.load(default_pins_path(options.identity))


def pinned(options: Options) -> list[str]:
    """The fingerprints of all `--peer`, labels looked up.

    :raises UsageError: a label stands for nobody.
    :raises FileUnusable: the file of pins cannot be used.
    """
    peers = options.peers or []
    pins = load_pins(options) if any(not is_fingerprint(each) for each in peers) else KnownPeers()
    found = []
    for each in peers:
        fingerprint = each if is_fingerprint(each) else pins.get(each)
        if fingerprint is None:
            raise UsageError(
                f"'{each}' stands for nobody here: give the fingerprint, which 'quicpipe identity'"
                f" shows there, or keep it with 'quicpipe pin {each} FINGERPRINT'"
            )
        found.append(fingerprint)
    return found


def keygen_command(options: Options) -> int:
    """Print a new pairing key, or write it to a file."""
    text = keys.encode(keys.generate()) + "\n"
    if options.output is None:
        put(text)
    else:
        write_private(options.output, text.encode())
        say(f"wrote a new pairing key to {options.output}: bring it to the other machine unseen")
    return 0


def load_identity(options: Options) -> Identity:
    """The identity to show to the other peer.

    :raises UsageError: if there is none yet: the other end could not know it.
    """
    path = options.identity or default_path()
    if not path.exists():
        raise UsageError(
            f"there is no identity in {path}: make one with 'quicpipe identity' and give its"
            " fingerprint to the other side"
        )
    return Identity.load(path)


def has_pairing_key(options: Options) -> bool:
    """Whether an option or the environment names a pairing key."""
    return (
        options.pairing_key_file is not None
        or options.pairing_key_prompt
        or bool(os.environ.get(KEY_FILE_VARIABLE) or os.environ.get(KEY_VARIABLE))
    )


def load_pairing_key(options: Options) -> bytes:
    """The pairing key, from a file, the environment, or typed in.

    :raises KeyInvalid: if it is mistyped, too weak, or its file is open to others.
    :raises UsageError: if there is none, and no terminal to ask for it.
    """
    if options.pairing_key_file is not None:
        return keys.load(options.pairing_key_file)
    if not options.pairing_key_prompt:
        if name := os.environ.get(KEY_FILE_VARIABLE):
            return keys.load(Path(name))
        if text := os.environ.get(KEY_VARIABLE):
            return keys.decode(text)
    return keys.decode(_ask_for_key())


def _ask_for_key() -> str:
    """:raises UsageError: there is no terminal."""
    typed = ask_unseen("pairing key (not shown): ")
    if typed is None:
        raise UsageError(
            "a pairing key is needed: give --pairing-key-file FILE (make it with 'quicpipe keygen"
            f" --output FILE'), or set {KEY_FILE_VARIABLE}"
        )
    return typed
