"""Where the command finds a token for the relay, and to which relay it goes."""

import os
from pathlib import Path

from ..errors import UsageError
from ..relay_name import RelayName
from ..token import TokenFile, TokenSource, fixed_token
from ..trust import RelayTrust
from .options import Options
from .prompt import ask_unseen
from .session import chosen_fingerprint, environment_names

FILE_VARIABLE = "QUICPIPE_TOKEN_FILE"
TOKEN_VARIABLE = "QUICPIPE_TOKEN"


def relay_trust(options: Options) -> RelayTrust:
    """How to know the relay that the user has named, and what to show it.

    :raises UsageError: there is no token where there should be one.
    :raises FileUnusable: its file cannot be read.
    """
    return RelayTrust(chosen_fingerprint(options), token=_token(options))


def invites_relay_trust(
    options: Options, invites: RelayName, fingerprint: str | None
) -> RelayTrust | None:
    """The same for a relay that an invite names: whoever made the invite may have chosen it to get
    our token, so it is shown only if the user has named that relay, too.

    None: what the invite says of the relay will do.

    :param fingerprint: the relay's, by the invite.
    """
    if options.relay is None and not environment_names(invites):
        known = options.relay_fingerprint
        return RelayTrust(known) if options.original or known is not None else None
    # The original's invite says nothing of the relay's certificate.
    known = options.relay_fingerprint or (None if options.original else fingerprint)
    return RelayTrust(known, token=_token(options))


def _token(options: Options) -> TokenSource | None:
    if options.token_file is not None:
        return TokenFile(options.token_file)
    if options.token_prompt:
        return fixed_token(_ask(), "what was typed")
    if name := os.environ.get(FILE_VARIABLE):
        return TokenFile(Path(name))
    if text := os.environ.get(TOKEN_VARIABLE):
        return fixed_token(text, TOKEN_VARIABLE)
    return None


def _ask() -> str:
    """:raises UsageError: there is no terminal."""
    typed = ask_unseen("token (not shown): ")
    if typed is None:
        raise UsageError(
            "there is no terminal to ask for the token: give --token-file FILE, or set"
            f" {FILE_VARIABLE}"
        )
    return typed
