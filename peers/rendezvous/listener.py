"""Accepting without an invite in hand: the relay delivers it. docs/protocol.md §10."""

import asyncio
import copy
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum

from relay.wire.rendezvous import MAX_BATCH, is_name

from ..accepter import ANSWER_TIMEOUT_S, Accepter
from ..auth import Authentication
from ..closing import ClosedAtExit
from ..errors import (
    AuthenticationFailed,
    CloseCode,
    InviteExpired,
    InviteInvalid,
    InviteUsed,
    NoAnswer,
    PeersError,
    PipeClosed,
    RelayError,
    UsageError,
    printable,
)
from ..identity import Identity
from ..invite import AuthKind, Invite
from ..link.link import RelayLink
from ..network import Network, SystemNetwork
from ..paths.path import PathPolicy
from ..pipe import Pipe
from ..relay_name import RelayName
from ..stream import check_code
from ..trust import RelayTrust
from ..waiters import Waiters
from .mailbox import Mailbox

MAX_PENDING = 32
"""Dialers that are being answered, and pipes that wait to be taken, together."""

HURRIED_ANSWER_S = 3.0
"""Seconds for which a dialer is waited for while more than half of `max_pending` are taken up:
whoever dials is there and answers at once, and strangers must not keep it out."""

_NOT_SERVED = "the accepter takes no more"


class Refused(StrEnum):
    """Why an invite that the relay delivered came to nothing."""

    MALFORMED = "malformed"
    """It is no invite, or is damaged."""
    UNFIT = "unfit"
    """It is for another relay."""
    EXPIRED = "expired"
    REPEATED = "repeated"
    """It was answered before: a relay that delivers twice does no harm."""
    UNAUTHENTICATED = "unauthenticated"
    """The dialer could not prove to be one of those whom we serve, or did not accept us."""
    NO_ANSWER = "no_answer"
    """The dialer was gone."""
    RELAY = "relay"
    """The relay did not register us for it."""
    CLOSED = "closed"
    """The dialer gave up, or broke off."""


async def listen(
    relay: str,
    *,
    identity: Identity,
    auth: Authentication,
    trust: RelayTrust,
    name: str | None = None,
    max_pending: int = MAX_PENDING,
    path_policy: PathPolicy = PathPolicy.ANY,
    network: Network | None = None,
) -> "Listener":
    """Wait at a relay for dialers, under an identity's fingerprint.

    :param relay: `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
    :param identity: under whose fingerprint; that we hold its key is proved to the relay.
    :param auth: whom to let in: `Pinned`, `AnyPeer` or `PairingKey`.
    :param name: a label besides, as long as nobody else listens under it: a letter, then letters,
        digits, `.`, `_`, `-`. It proves nothing to anybody.
    :param max_pending: how many dialers are answered ahead of the application.
    :param path_policy: whether the pipes may leave the relay, or must.
    :param network: another one than the system's.
    :raises UsageError: for an argument that makes no sense.
    :raises RelayUnreachable: no such relay, or no answer.
    :raises RelayUntrusted: by `trust`; nothing was told to it.
    :raises NameTaken: somebody else listens under that name.
    :raises RendezvousFailed: the relay refuses.
    """
    if name is not None:
        name = check_name(name)
    if auth.kind not in {AuthKind.CERTIFICATE, AuthKind.PAIRING_KEY}:
        raise UsageError(
            "whom to let in? Over the relay a peer proves itself by a certificate or a pairing key"
        )
    if max_pending < 1:
        raise UsageError("a listener must take one dialer at least")
    try:
        parsed = RelayName.parse(relay)
    except ValueError as error:
        raise UsageError(f"the relay: {error}") from None
    link = await RelayLink.connect(network or SystemNetwork(), parsed, trust)
    try:
        mailbox = Mailbox(link, identity, name)
        await mailbox.open()
        return Listener(link, mailbox, identity, auth, max_pending, path_policy)
    except BaseException:
        await link.close()
        raise


class Listener(ClosedAtExit):
    """Gives a pipe for each dialer that is let in. Made by `listen`; an async context manager.

    `async for pipe in listener` goes on until it is closed. Dialers are answered side by side, and
    pipes that nobody takes wait in order. Whatever happens to the relay or to the way there, the
    listener goes on listening.
    """

    def __init__(
        self,
        link: RelayLink,
        mailbox: Mailbox,
        identity: Identity,
        auth: Authentication,
        max_pending: int,
        path_policy: PathPolicy,
    ) -> None:
        """For `listen`."""
        self._link = link
        self._mailbox = mailbox
        self._auth = auth
        self._max_pending = max_pending
        self._path_policy = path_policy
        self._accepter = Accepter(link)
        self._answering: set[asyncio.Task[None]] = set()
        self._ready: deque[Pipe] = deque()
        self._changes = Waiters()
        self._ended: PeersError | None = None
        self._running = asyncio.get_running_loop().create_task(self._run())
        self._stopping: asyncio.Task[None] | None = None
        self.fingerprint = identity.fingerprint
        """What dialers ask for: `sha256:` and 64 hexadecimal digits."""
        self.refused: Counter[Refused] = Counter()
        """What came to nothing since the start, by reason."""
        self.on_refused: Callable[[PeersError], None] | None = None
        """Called for each dialer that was answered in vain, or not at all."""

    @property
    def name(self) -> str | None:
        """The label, if it has one, and has not lost it."""
        return self._mailbox.name

    @property
    def relay_fingerprint(self) -> str:
        """The relay's certificate, as we verified it."""
        return self._link.fingerprint

    async def accept(self) -> Pipe:
        """The next pipe, which is open and authenticated. Closing it is the caller's.

        :raises PipeClosed: this was closed, or listens no more.
        :raises ListenerReplaced: somebody with the same identity listens there since.
        """
        while True:
            while self._ready:
                pipe = self._ready.popleft()
                self._changes.wake()
                if pipe.is_open:
                    return pipe
            if self._ended is not None:
                raise copy.copy(self._ended)
            await self._changes.wait()

    async def __aiter__(self) -> AsyncIterator[Pipe]:
        """All pipes, until this is closed.

        :raises ListenerReplaced: somebody with the same identity listens there since.
        """
        while True:
            try:
                pipe = await self.accept()
            except PipeClosed:
                return
            yield pipe

    async def stop(self) -> None:
        """Listen no more. Pipes that were taken go on; all others end. Takes a second or two."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Listen no more, close all pipes with this code and reason, and leave the relay.

        :raises UsageError: for a code that QUIC has no room for.
        """
        check_code(code)
        try:
            await self.stop()
        finally:
            await self._accepter.close(code, reason)

    async def _stop(self) -> None:
        self._end(PipeClosed("the listener was closed"))
        tasks = [self._running, *self._answering]
        for task in tasks:
            task.cancel()
        pipes, self._ready = list(self._ready), deque()
        await asyncio.gather(
            self._mailbox.close(),
            *(pipe.close(CloseCode.FAILED, _NOT_SERVED) for pipe in pipes),
            *tasks,
            return_exceptions=True,
        )

    def _end(self, error: PeersError) -> None:
        if self._ended is None:
            self._ended = error
            self._changes.wake()

    # Taking invites.

    async def _run(self) -> None:
        try:
            while True:
                for line in await self._fetch():
                    task = asyncio.get_running_loop().create_task(self._answer(line))
                    self._answering.add(task)
                    task.add_done_callback(self._answered)
        except PeersError as error:
            self._end(error)

    @property
    def _room(self) -> int:
        return max(0, self._max_pending - len(self._answering) - len(self._ready))

    async def _fetch(self) -> list[str]:
        """The next invites, as many as there is room for. Without room, wait until there is."""
        loop = asyncio.get_running_loop()
        fetching = loop.create_task(self._mailbox.fetch(min(self._room, MAX_BATCH)))
        making_room = loop.create_task(self._wait_for_room())
        try:
            if self._room:
                return await fetching
            await asyncio.wait({fetching, making_room}, return_when=asyncio.FIRST_COMPLETED)
            return fetching.result() if fetching.done() else []
        finally:
            for task in (fetching, making_room):
                task.cancel()
                with suppress(asyncio.CancelledError, PeersError):
                    await task

    async def _wait_for_room(self) -> None:
        while not self._room:
            await self._changes.wait()

    # Answering them.

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._changes.wake()

    async def _answer(self, line: str) -> None:
        try:
            # What it says of authentication is not proven: ours holds, and the handshake tells the
            # dialer at once if that is another.
            invite = replace(Invite.decode(line), auth=self._auth.kind, key=None)
            is_crowded = 2 * self._room < self._max_pending
            pipe = await self._accepter.accept(
                invite,
                auth=self._auth,
                answer_timeout_s=HURRIED_ANSWER_S if is_crowded else ANSWER_TIMEOUT_S,
                path_policy=self._path_policy,
            )
        except PeersError as error:
            reason = _reason(error)
            self.refused[reason] += 1
            if reason is not Refused.REPEATED and self.on_refused is not None:
                self.on_refused(error)
            return
        self._ready.append(pipe)


def check_name(text: str) -> str:
    """A listener's name in its one form: lower case.

    :raises UsageError: it is none.
    """
    name = text.strip().lower()
    if not is_name(name):
        raise UsageError(
            f"'{printable(text, 70)}' is not a name: expected a letter, then letters, digits, '.',"
            " '_' and '-', at most 63"
        )
    return name


_REASONS: tuple[tuple[type[PeersError], Refused], ...] = (
    (InviteInvalid, Refused.MALFORMED),
    (InviteExpired, Refused.EXPIRED),
    (InviteUsed, Refused.REPEATED),
    (UsageError, Refused.UNFIT),
    (AuthenticationFailed, Refused.UNAUTHENTICATED),
    (NoAnswer, Refused.NO_ANSWER),
    (RelayError, Refused.RELAY),
)


def _reason(error: PeersError) -> Refused:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    return Refused.CLOSED
