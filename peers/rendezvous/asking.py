"""Requests of the rendezvous, with the patience that a busy relay asks for."""

import asyncio
from contextlib import suppress

from ..errors import RelayUnreachable, RendezvousFailed
from ..link.connection import Response
from ..link.link import REQUEST_TIMEOUT_S, RelayLink

TOO_EARLY_PAUSE_S = 0.2
"""Seconds after status 425: the relay validates our new address meanwhile."""

LEAST_PAUSE_S = 0.5
"""Seconds after any other status that says "later", however soon the relay says it is: one that
means us ill must not keep us busy."""

_TOO_EARLY = 425
_PASSING = frozenset({429, 503})


async def ask(
    link: RelayLink,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    held_s: float = 0.0,
    patience_s: float = REQUEST_TIMEOUT_S,
) -> Response:
    """Make a request, again where the relay says that it may go later; returns any other answer.

    :param held_s: seconds for which the relay may hold the answer back.
    :param patience_s: seconds, besides `held_s`, to wait and try.
    :raises RelayUnreachable: no answer, or the link is closed.
    :raises RendezvousFailed: the relay asks for more patience than there is.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        left_s = max(deadline - loop.time(), 1.0)
        response = await link.request(method, path, body, held_s=held_s, timeout_s=left_s)
        wait_s = _wait(response)
        if wait_s is None:
            return response
        if loop.time() + wait_s > deadline:
            raise failure(response, wait_s)
        await asyncio.sleep(wait_s)


def failure(response: Response, retry_after_s: float | None = None) -> RendezvousFailed:
    """What an answer means that is none of those expected."""
    return RendezvousFailed(
        f"the relay refused: {response.problem()}",
        status=response.status,
        retry_after_s=retry_after_s,
    )


def unreadable(error: ValueError) -> RendezvousFailed:
    """What an answer means that cannot be read."""
    return RendezvousFailed(f"the relay's answer makes no sense: {error}")


async def ask_once(link: RelayLink, method: str, path: str, body: bytes, limit_s: float) -> None:
    """Tell the relay something, and do not mind whether it heard. Takes `limit_s` at most."""
    with suppress(RelayUnreachable):
        await link.request(method, path, body, timeout_s=limit_s)


def _wait(response: Response) -> float | None:
    """Seconds to wait until the same request may be answered otherwise; None: never."""
    if response.status == _TOO_EARLY:
        return TOO_EARLY_PAUSE_S
    said = response.retry_after_s() if response.status in _PASSING else None
    return None if said is None else max(said, LEAST_PAUSE_S)
