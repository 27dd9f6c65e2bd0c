"""One end of a slot at the relay: a few messages to a stranger and back. docs/protocol.md §11.2."""

import asyncio
import secrets

from relay.wire.body import MalformedRequest
from relay.wire.slots import (
    CLAIM_PATH,
    END_PATH,
    MAX_WAIT_S,
    OPEN_PATH,
    RECEIVE_PATH,
    SEND_PATH,
    ClaimRequest,
    End,
    EndRequest,
    OpenAnswer,
    OpenRequest,
    Received,
    ReceiveRequest,
    SendRequest,
)

from ..errors import CodeRefused, CodeWrong, NoAnswer, RelayUnreachable, RendezvousFailed
from ..link.connection import Response
from ..link.link import RelayLink
from .asking import ask, ask_once, failure, unreadable

SHORTEST_POLL_S = 0.5
"""Seconds from one request for a message to the next, if nothing came."""
GOODBYE_S = 1.0
"""Seconds that it may take to tell the relay that a slot is over."""


class Slot:
    """Made by `open_slot` or `claim_slot`. Every request may be made twice, and does no harm."""

    def __init__(self, link: RelayLink, token: str, *, sent: int) -> None:
        """For those two. `sent`: how many messages this end has sent."""
        self._link = link
        self._token = token
        self._sent = sent
        self._received = 0

    async def send(self, message: bytes) -> None:
        """Leave the next message for the other end.

        :raises CodeRefused: the slot is over.
        :raises CodeWrong: it is over because the words differ.
        :raises RelayError: the relay does not answer, or refuses.
        """
        request = SendRequest(self._token, self._sent, message)
        response = await ask(self._link, "POST", SEND_PATH, request.encode())
        if response.status in (404, 409):
            await self._explain()
        _require(response, 204)
        self._sent += 1

    async def receive(self, timeout_s: float) -> bytes:
        """The other end's next message.

        :raises CodeRefused: the slot is over.
        :raises CodeWrong: it is over because the words differ.
        :raises NoAnswer: none in `timeout_s` seconds.
        :raises RelayError: the relay does not answer, or refuses.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            asked_at = loop.time()
            left_s = deadline - asked_at
            try:
                received = await self._poll(min(MAX_WAIT_S, max(1, int(left_s))))
            except RelayUnreachable:
                # The link goes on looking for the relay, which keeps the slot for a while.
                if self._link.is_closed or loop.time() >= deadline:
                    raise
                continue
            if received.message is not None:
                self._received += 1
                return received.message
            if received.end is not None:
                raise _ended(received.end)
            if loop.time() >= deadline:
                raise NoAnswer("the other end of the code does not answer any more")
            # A relay that says "nothing" at once must not keep us busy.
            await asyncio.sleep(max(0.0, asked_at + SHORTEST_POLL_S - loop.time()))

    async def end(self, end: End) -> None:
        """Tell the relay that it is over, and so the other end: best effort, within `GOODBYE_S`."""
        await ask_once(
            self._link, "POST", END_PATH, EndRequest(self._token, end).encode(), GOODBYE_S
        )

    async def _poll(self, wait: int) -> Received:
        request = ReceiveRequest(self._token, self._received, wait)
        response = await ask(self._link, "POST", RECEIVE_PATH, request.encode(), held_s=wait)
        if response.status == 404:
            raise CodeRefused(
                "the relay does not know the code any more; was it restarted? Make a new code"
            )
        _require(response, 200)
        try:
            return Received.decode(response.body)
        except MalformedRequest as error:
            raise unreadable(error) from None

    async def _explain(self) -> None:
        """The slot takes nothing any more: if it is over, say why."""
        received = await self._poll(0)
        if received.end is not None:
            raise _ended(received.end)


async def open_slot(link: RelayLink) -> tuple[Slot, int, float]:
    """Open one; returns it with its number, and the seconds for which it can be claimed.

    :raises RelayError: the relay does not answer, or refuses.
    """
    token = secrets.token_hex(16)
    response = await ask(link, "POST", OPEN_PATH, OpenRequest(token).encode())
    if response.status == 404:
        raise RendezvousFailed("this relay knows no codes: it is of an older release", status=404)
    _require(response, 200)
    try:
        answer = OpenAnswer.decode(response.body)
    except MalformedRequest as error:
        raise unreadable(error) from None
    return Slot(link, token, sent=0), answer.slot, float(answer.lifetime)


async def claim_slot(link: RelayLink, number: int, message: bytes) -> Slot:
    """Claim the slot of that number, with our first message.

    :raises CodeRefused: there is none, or somebody else has claimed it.
    :raises RelayError: the relay does not answer, or refuses.
    """
    token = secrets.token_hex(16)
    response = await ask(link, "POST", CLAIM_PATH, ClaimRequest(number, token, message).encode())
    if response.status == 404:
        raise CodeRefused(
            f"the relay {link.name} knows no code that begins with {number}: it is used, its time"
            " is over, or the other side uses another relay"
        )
    if response.status == 409:
        raise CodeRefused(
            f"somebody has used the code that begins with {number} already: if that was not you,"
            " somebody else is trying; ask for a new one"
        )
    _require(response, 204)
    return Slot(link, token, sent=1)


def _require(response: Response, status: int) -> None:
    if response.status != status:
        raise failure(response)


def _ended(end: End) -> CodeRefused | CodeWrong:
    match end:
        case End.WRONG_CODE:
            return CodeWrong(
                "wrong code: the other end found that the words differ. It is used up: ask for a"
                " new one"
            )
        case End.EXPIRED:
            return CodeRefused("the code's time is over: make a new one")
        case End.LEFT:
            return CodeRefused("the other end of the code has given up: make a new one")
    return CodeRefused("the other end says that all is done, and it is not: make a new code")
