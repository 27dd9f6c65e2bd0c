"""The rendezvous over HTTP: listen, wait, invite. docs/protocol.md §10.

What is decided stands in relay/core: rendezvous.py and proof.py. Here are the requests, and the
waiting.
"""

import secrets
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.core.limits import RateLimits
from relay.core.proof import Challenges, ProofInvalid, check_proof
from relay.core.registry import HolderId
from relay.core.rendezvous import (
    ListenerReplaced,
    NameTaken,
    NobodyListens,
    Refusal,
    Rendezvous,
    RendezvousFull,
    RendezvousLimits,
    UnknownListener,
    WaitingInvite,
)
from relay.long_poll import LongPolls
from relay.requests import (
    Clock,
    Problem,
    RateGuard,
    connection_of,
    decoded,
    json_answer,
    read_body,
    validated_path,
)
from relay.wire.rendezvous import (
    CHALLENGE_LENGTH,
    CHALLENGE_PATH,
    END_PATH,
    INVITES_PATH,
    LISTEN_PATH,
    NAMES_PATH,
    WAIT_PATH,
    ChallengeAnswer,
    EndRequest,
    InviteRequest,
    ListenAnswer,
    ListenRequest,
    NameAnswer,
    WaitAnswer,
    WaitRequest,
    is_name,
)

_OWN_CERTIFICATES = 4
"""The relay's own, one after the other, that connections which live may have been made with."""


class RendezvousApp:
    """Serves the rendezvous. For one event loop; `routes` go into the application."""

    def __init__(
        self,
        relay_fingerprint: str,
        *,
        limits: RendezvousLimits | None = None,
        rate_limits: RateLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """:param relay_fingerprint: of the certificate with which the relay serves HTTP/3."""
        self._relay_fingerprints = [relay_fingerprint]  # the newest first
        self._limits = limits or RendezvousLimits()
        self._guard = RateGuard(rate_limits or RateLimits(), clock)
        self._challenges = Challenges(lambda: secrets.token_bytes(CHALLENGE_LENGTH))
        self._rendezvous = Rendezvous(self._limits, lambda: secrets.token_hex(16))
        self._polls = LongPolls(2 * self._limits.max_listeners)
        self._proofs_refused = 0
        self.routes = [
            Route(CHALLENGE_PATH, self._challenge, methods=["POST"]),
            Route(LISTEN_PATH, self._listen, methods=["POST"]),
            Route(WAIT_PATH, self._wait, methods=["POST"]),
            Route(END_PATH, self._end, methods=["POST"]),
            Route(INVITES_PATH, self._invite, methods=["POST"]),
            Route(NAMES_PATH + "/{name}", self._name, methods=["GET"]),
        ]

    def change_certificate(self, relay_fingerprint: str) -> None:
        """From now on the relay serves with this one; connections that there are know another."""
        others = [each for each in self._relay_fingerprints if each != relay_fingerprint]
        self._relay_fingerprints = [relay_fingerprint, *others][:_OWN_CERTIFICATES]

    def change_rate(self, limits: RateLimits) -> None:
        """From now on one source may ask so often."""
        self._guard.change(limits)

    def connection_closed(self, holder: HolderId) -> None:
        """An HTTP/3 connection has ended. Its listeners have their time of grace."""
        self._challenges.forget(holder)

    def counters(self) -> Mapping[str, int]:
        """Its state, and what was refused since the start, by reason."""
        return {
            "listeners": self._rendezvous.listeners,
            "invites": self._rendezvous.invites,
            "polls": len(self._polls),
            "refused_rate": self._guard.refused,
            "refused_polls": self._polls.refused,
            "refused_proof": self._proofs_refused,
            **{f"refused_{why}": self._rendezvous.refused[why] for why in Refusal},
        }

    async def _challenge(self, request: Request) -> Response:
        connection = connection_of(request)
        self._guard.take(validated_path(connection), "requests")
        challenge = self._challenges.give(connection.id, self._guard.now())
        return json_answer(ChallengeAnswer(challenge).encode())

    async def _listen(self, request: Request) -> Response:
        asked = decoded(ListenRequest.decode, await read_body(request))
        connection = connection_of(request)
        source = self._guard.take(validated_path(connection), "requests")
        now = self._guard.now()
        try:
            challenge = self._challenges.take(connection.id, now)
            fingerprint = self._check_proof(asked, challenge)
        except ProofInvalid as error:
            self._proofs_refused += 1
            raise Problem(403, str(error)) from None
        try:
            listening = self._rendezvous.listen(fingerprint, asked.name, source, now)
        except NameTaken as error:
            raise Problem(409, str(error)) from None
        except RendezvousFull as error:
            raise _too_many(error) from None
        if listening.replaced is not None:
            self._polls.wake(listening.replaced)
        return json_answer(ListenAnswer(listening.id, int(self._limits.grace_s)).encode())

    async def _wait(self, request: Request) -> Response:
        asked = decoded(WaitRequest.decode, await read_body(request))
        try:
            invites = self._fetch(asked)
            if not invites and asked.wait:
                self._rendezvous.begin_poll(asked.id, self._guard.now())
                try:
                    await self._polls.wait(asked.id, asked.wait)
                finally:
                    self._rendezvous.end_poll(asked.id, self._guard.now())
                invites = self._fetch(asked)
        except UnknownListener as error:
            raise Problem(404, str(error)) from None
        except ListenerReplaced as error:
            raise Problem(409, str(error)) from None
        except RendezvousFull as error:
            raise _too_many(error) from None
        answer = WaitAnswer(tuple((each.number, each.content) for each in invites))
        return json_answer(answer.encode())

    def _check_proof(self, asked: ListenRequest, challenge: bytes) -> str:
        """See `check_proof`. A client may have verified any certificate that we served with."""
        problem = ProofInvalid("there is no certificate")
        for own in self._relay_fingerprints:
            try:
                return check_proof(asked, challenge, own)
            except ProofInvalid as error:
                problem = error
        raise problem

    def _fetch(self, asked: WaitRequest) -> list[WaitingInvite]:
        return self._rendezvous.fetch(asked.id, asked.after, asked.limit, self._guard.now())

    async def _end(self, request: Request) -> Response:
        asked = decoded(EndRequest.decode, await read_body(request))
        if not self._rendezvous.end(asked.id, self._guard.now()):
            raise Problem(404, "there is no listener of that id; it may have ended")
        self._polls.wake(asked.id)
        return Response(status_code=204)

    async def _invite(self, request: Request) -> Response:
        asked = decoded(InviteRequest.decode, await read_body(request))
        source = self._guard.take(validated_path(connection_of(request)), "invites")
        try:
            listener = self._rendezvous.post(asked.to, asked.invite, source, self._guard.now())
        except NobodyListens as error:
            raise Problem(404, str(error)) from None
        except RendezvousFull as error:
            raise _too_many(error) from None
        self._polls.wake(listener)
        return Response(status_code=202)

    async def _name(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not is_name(name):
            raise Problem(404, "that is not a name")
        self._guard.take(validated_path(connection_of(request)), "requests")
        try:
            fingerprint = self._rendezvous.fingerprint_of(name, self._guard.now())
        except NobodyListens as error:
            raise Problem(404, str(error)) from None
        return json_answer(NameAnswer(fingerprint).encode())


def _too_many(error: RendezvousFull) -> Problem:
    return Problem(429, str(error), retry_after_s=error.retry_after_s)
