"""The two ends of a pipe: dialer and accepter, for asyncio.

`listen` waits at a relay under one's fingerprint, and `dial_to` reaches whoever does. Or `dial`
makes an invite, which somebody hands over, and `accept` answers it. All give a `Pipe`: streams and
datagrams to one other peer, through a relay that cannot read them. Every error is a `PeersError`
whose text is one clear line. docs/protocol.md is the contract with relays and with peers in other
languages.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import *  # noqa: F403  # its `__all__` is the list
    from .api import __all__ as __all__


def __getattr__(name: str) -> object:
    """Load the public names when the first of them is asked for.

    Cryptography takes a while to load: the command can end on Ctrl-C meanwhile, in its own way.

    :raises AttributeError: it is none of them.
    """
    api = importlib.import_module(".api", __name__)
    if name == "__all__" or name in api.__all__:
        value: object = getattr(api, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
