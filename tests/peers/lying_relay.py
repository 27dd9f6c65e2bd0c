"""A relay that lies: it takes part in the rendezvous as a test tells it to, and notes all it hears.

It lets everybody listen, proof or no proof, and delivers what `redirect` makes of each invite.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from peers.identity import Identity, fingerprint_of
from peers.network import DatagramSocket
from relay.wire.rendezvous import (
    CHALLENGE_PATH,
    INVITES_PATH,
    LISTEN_PATH,
    NAMES_PATH,
    WAIT_PATH,
    ChallengeAnswer,
    InviteRequest,
    ListenAnswer,
    ListenRequest,
    NameAnswer,
    WaitAnswer,
    WaitRequest,
)

from .fake_relay import Answer, FakeRelay, Request


@dataclass
class Mailbox:
    """What one listener is given, with how it asked to listen."""

    request: ListenRequest
    invites: list[str] = field(default_factory=list)
    number: int = 0


Redirect = Callable[["LyingRelay", str, str], None]
"""Given whom an invite is for and the invite: does with it what it likes."""


def honest(relay: "LyingRelay", to: str, invite: str) -> None:
    """Deliver it to whoever it is for: a fingerprint."""
    relay.deliver(to, invite)


class LyingRelay(FakeRelay):
    """See the module's text."""

    def __init__(self, socket: DatagramSocket, identity: Identity | None = None) -> None:
        super().__init__(socket, identity)
        self.redirect: Redirect = honest
        self.challenge = bytes(32)
        self.name_stands_for = ""
        self.invite_answer: Answer = (202, {}, b"")
        self.mailboxes: dict[str, Mailbox] = {}
        """By id, in the order in which they were opened."""
        self.invites: list[tuple[str, str]] = []
        """Whom each invite was for, and the invite."""

    def deliver(self, to: str, invite: str) -> None:
        """Put an invite into the mailbox of a fingerprint, or of the listener number `to`."""
        for number, mailbox in enumerate(self.mailboxes.values()):
            der = mailbox.request.certificate
            if to in {str(number), fingerprint_of(der)}:
                mailbox.invites.append(invite)

    def _usual(self, request: Request) -> Answer:
        body = request.body
        match request.path:
            case path if path == CHALLENGE_PATH:
                return 200, {}, ChallengeAnswer(self.challenge).encode()
            case path if path == LISTEN_PATH:
                id_ = f"{len(self.mailboxes):032x}"
                self.mailboxes[id_] = Mailbox(ListenRequest.decode(body))
                return 200, {}, ListenAnswer(id_, 30).encode()
            case path if path == WAIT_PATH:
                return 200, {}, self._wait(WaitRequest.decode(body))
            case path if path == INVITES_PATH:
                fields = json.loads(body)
                asked = InviteRequest(fields["to"], json.dumps(fields["invite"]))
                self.invites.append((asked.to, asked.invite))
                self.redirect(self, asked.to, asked.invite)
                return self.invite_answer
            case path if path.startswith(NAMES_PATH):
                return 200, {}, NameAnswer(self.name_stands_for).encode()
            case path if path.startswith("/v1/listeners"):
                return 204, {}, b""
            case "/v1/address":
                return 404, {}, b""
        return super()._usual(request)

    def _wait(self, asked: WaitRequest) -> bytes:
        mailbox = self.mailboxes[asked.id]
        batch, mailbox.invites = mailbox.invites[: asked.limit], mailbox.invites[asked.limit :]
        numbered = []
        for invite in batch:
            mailbox.number += 1
            numbered.append((mailbox.number, invite))
        return WaitAnswer(tuple(numbered)).encode()
