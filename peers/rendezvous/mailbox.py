"""A listener's mailbox at the relay: had, emptied, and had again. docs/protocol.md §10.2, §10.3."""

import asyncio
import logging

from relay.wire.body import MalformedRequest
from relay.wire.rendezvous import (
    CHALLENGE_PATH,
    END_PATH,
    LISTEN_PATH,
    MAX_BATCH,
    MAX_WAIT_S,
    WAIT_PATH,
    ChallengeAnswer,
    EndRequest,
    ListenAnswer,
    ListenRequest,
    WaitAnswer,
    WaitRequest,
    bytes_to_sign,
)

from ..errors import ListenerReplaced, NameTaken, RelayError, RelayUnreachable, RendezvousFailed
from ..identity import Identity
from ..link.link import RelayLink
from .asking import ask, ask_once, failure, unreadable

PROOFS = 3
"""A challenge belongs to one connection: how often a proof may be cut off by a reconnection."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
"""Seconds until something that failed is tried again: twice as many each time, up to this."""
EARLY_S = 1.0
"""Seconds: a poll with nothing to tell that is answered sooner is not followed by the next one at
once. It may happen; but a relay that does nothing else must not keep us busy."""
POLL_INTERVAL_S = 0.2
POLLS_AT_ONCE = 32
"""Polls may follow each other at once so often, and then in this interval, in seconds: a relay that
answers each with junk has 40 invites a second read, and no more."""
GOODBYE_S = 1.0
"""Seconds for telling the relay that we listen no more."""

_log = logging.getLogger(__name__)


class Mailbox:
    """Under an identity's fingerprint, and perhaps a name. `open` it first."""

    def __init__(self, link: RelayLink, identity: Identity, name: str | None) -> None:
        """`name` is one that the relay takes: see `relay.wire.rendezvous.is_name`."""
        self._link = link
        self._identity = identity
        self._name = name
        self._id: str | None = None
        self._taken = 0  # the number of the last invite that was handed out
        self._pause_s = FIRST_PAUSE_S
        self._pace = 0.0  # when the next poll would begin if all had kept the interval

    @property
    def name(self) -> str | None:
        """Under which name it can be found, at present."""
        return self._name

    async def open(self) -> None:
        """Listen at the relay: prove that the identity is ours, and have the mailbox.

        :raises NameTaken: somebody else listens under that name.
        :raises RelayUnreachable: no answer.
        :raises RendezvousFailed: the relay refuses.
        """
        for left in reversed(range(PROOFS)):
            response = await ask(self._link, "POST", LISTEN_PATH, await self._proof())
            match response.status:
                case 200:
                    break
                case 409:
                    raise NameTaken(
                        f"somebody else listens as '{self._name}' at the relay"
                        f" {self._link.name}: choose another name, or listen without"
                    )
                case 403 if left:
                    continue  # the connection was another one than that of the challenge
                case _:
                    raise failure(response)
        try:
            answer = ListenAnswer.decode(response.body)
        except MalformedRequest as error:
            raise unreadable(error) from None
        self._id, self._taken = answer.id, 0

    async def fetch(self, most: int) -> list[str]:
        """Wait for invites, and take up to `most`: those taken before are acknowledged by that.

        Each is one JSON object, from whomever. It returns none when the relay's time is over. With
        `most` 0 it only lets the relay know that we are there. Cancelling it loses nothing. What
        the relay forgets or a connection loses is begun anew; one invite may come twice then.

        :raises ListenerReplaced: the same identity listens there since, from elsewhere.
        :raises RelayUnreachable: the link is closed.
        """
        while True:
            try:
                await self._keep_pace()
                if self._id is None:
                    await self._open_again()
                    self._count_for_pace()
                    continue
                invites = await self._poll(self._id, most)
            except ListenerReplaced:
                raise
            except RelayError as error:
                if self._link.is_closed:
                    raise RelayUnreachable("the connection to the relay is closed") from None
                await self._pause(error)
            else:
                self._pause_s = FIRST_PAUSE_S
                return invites

    async def close(self) -> None:
        """Listen no more: the relay is told, within `GOODBYE_S`."""
        if self._id is not None:
            listener, self._id = self._id, None
            await ask_once(self._link, "POST", END_PATH, EndRequest(listener).encode(), GOODBYE_S)

    async def _proof(self) -> bytes:
        """The body of a request to listen, for the connection that there is now."""
        response = await ask(self._link, "POST", CHALLENGE_PATH)
        if response.status == 404:
            raise RendezvousFailed(
                f"the relay {self._link.name} has no rendezvous: it is of an older version"
            )
        if response.status != 200:
            raise failure(response)
        try:
            challenge = ChallengeAnswer.decode(response.body).challenge
        except MalformedRequest as error:
            raise unreadable(error) from None
        certificate = self._identity.certificate_der
        signed = bytes_to_sign(self._link.fingerprint, challenge, certificate, self._name)
        return ListenRequest(certificate, self._identity.sign(signed), self._name).encode()

    async def _open_again(self) -> None:
        try:
            await self.open()
        except NameTaken as error:
            # Whoever dials by fingerprint, or by a pin, must still get here.
            _log.warning("%s; listening on without a name", error)
            self._name = None
        else:
            _log.info("listening again at the relay %s", self._link.name)

    async def _poll(self, listener: str, most: int) -> list[str]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        request = WaitRequest(listener, self._taken, min(most, MAX_BATCH), MAX_WAIT_S)
        response = await ask(self._link, "POST", WAIT_PATH, request.encode(), held_s=MAX_WAIT_S)
        # What was cancelled does not count: a listener without room begins and cancels many.
        self._count_for_pace()
        match response.status:
            case 200:
                pass
            case 404:
                self._id = None  # the relay was restarted, or we were gone for too long
                return []
            case 409:
                self._id = None
                raise ListenerReplaced(
                    "another program with the same identity listens at the relay"
                    f" {self._link.name} now, and dialers come to that one: end one of them, or"
                    " give one --identity FILE of its own"
                )
            case _:
                raise failure(response)
        try:
            answer = WaitAnswer.decode(response.body, self._taken)
        except MalformedRequest as error:
            raise unreadable(error) from None
        if len(answer.invites) > most:
            raise RendezvousFailed("the relay sent more invites than were asked for")
        if answer.invites:
            self._taken = answer.invites[-1][0]
        elif loop.time() - began < EARLY_S:
            await asyncio.sleep(FIRST_PAUSE_S)
        return [invite for _, invite in answer.invites]

    def _count_for_pace(self) -> None:
        now = asyncio.get_running_loop().time()
        self._pace = max(self._pace, now - POLLS_AT_ONCE * POLL_INTERVAL_S) + POLL_INTERVAL_S

    async def _keep_pace(self) -> None:
        early_s = self._pace - asyncio.get_running_loop().time()
        if early_s > 0:
            await asyncio.sleep(early_s)

    async def _pause(self, error: RelayError) -> None:
        level = logging.WARNING if self._pause_s == LONGEST_PAUSE_S else logging.INFO
        _log.log(level, "cannot listen at the relay at present: %s", error)
        asked_s = error.retry_after_s if isinstance(error, RendezvousFailed) else None
        await asyncio.sleep(max(self._pause_s, min(asked_s or 0.0, LONGEST_PAUSE_S)))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
