"""Accepting: answer an invite through the relay that it names. docs/protocol.md §6.1."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # public by its documentation
from aioquic.quic.packet import pull_quic_header

from relay.wire.connection_id import CONNECTION_ID_LENGTH

from .auth import Authentication, InviteKey
from .berth import HANDSHAKE_TIMEOUT_S, Berth
from .closing import ClosedAtExit
from .errors import CloseCode, InviteInvalid, InviteUsed, NoAnswer, PipeClosed, UsageError
from .invite import AuthKind, Invite
from .link.link import RelayLink
from .network import Network, SystemNetwork
from .paths.path import PathPolicy
from .pipe import Pipe
from .quic.connection import PeerConnection
from .relay_name import RelayName
from .replay import ReplayCache
from .stream import check_code
from .trust import RelayTrust

ANSWER_TIMEOUT_S = 10.0
"""Seconds until the dialer must have answered our answer."""

_GAVE_UP = "the accepter gave up"


async def accept(
    invite: Invite,
    *,
    auth: Authentication | None = None,
    trust: RelayTrust | None = None,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
    path_policy: PathPolicy = PathPolicy.ANY,
    network: Network | None = None,
) -> Pipe:
    """Answer one invite; closing the pipe gives up everything that stands behind it.

    :param auth: None: what the invite brings along, if it does.
    :param trust: None: the relay's fingerprint that the invite brings along.
    :param answer_timeout_s: seconds to wait for the dialer.
    :param path_policy: whether the pipe may leave the relay, or must.
    :param network: another one than the system's.
    :raises InviteInvalid: its packet is damaged.
    :raises InviteExpired: its time is over.
    :raises UsageError: it does not say all that is needed, or contradicts the arguments.
    :raises RelayUnreachable: no such relay, or no answer.
    :raises RelayUntrusted: by `trust`; nothing was told to it.
    :raises RegistrationFailed: the relay refuses.
    :raises NoAnswer: the dialer does not answer.
    :raises AuthenticationFailed: at either end; the invite is used up.
    :raises NoDirectPath: only a direct path would do, and there is none.
    :raises PipeClosed: the dialer gave up.
    """
    answer = _Answer(invite, auth, path_policy)
    if invite.relay is None:
        raise UsageError("the invite names no relay: say which")
    link = await RelayLink.connect(
        network or SystemNetwork(), invite.relay, trust or RelayTrust(invite.fingerprint)
    )
    try:
        return await answer.give(link, answer_timeout_s, at_end=link.close)
    except BaseException:
        await link.close()
        raise


async def accept_over(
    link: RelayLink,
    invite: Invite,
    *,
    auth: Authentication,
    answer_timeout_s: float,
    path_policy: PathPolicy = PathPolicy.ANY,
) -> Pipe:
    """Answer one invite over a link that is there already; the link is closed with the pipe.

    :raises PeersError: what `accept` raises, but for what concerns reaching the relay; then the
        link may be closed already.
    """
    answer = _Answer(invite, auth, path_policy)
    return await answer.give(link, answer_timeout_s, at_end=link.close)


class Accepter(ClosedAtExit):
    """Answers any number of invites of one relay, over one socket. An async context manager.

    It remembers what it has answered: an invite that comes a second time is refused.
    """

    def __init__(self, link: RelayLink) -> None:
        """For `connect`."""
        self._link = link
        self._answered = ReplayCache()
        self._pipes: set[Pipe] = set()
        self._pending: set[asyncio.Task[Pipe]] = set()
        self._closed = asyncio.Event()

    @classmethod
    async def connect(
        cls, relay: str, *, trust: RelayTrust, network: Network | None = None
    ) -> "Accepter":
        """Reach the relay.

        :param relay: `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
        :raises UsageError: for a relay's name that is none.
        :raises RelayUnreachable: no such relay, or no answer.
        :raises RelayUntrusted: by `trust`; nothing was told to it.
        """
        try:
            name = RelayName.parse(relay)
        except ValueError as error:
            raise UsageError(f"the relay: {error}") from None
        return cls(await RelayLink.connect(network or SystemNetwork(), name, trust))

    async def accept(
        self,
        invite: Invite,
        *,
        auth: Authentication | None = None,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        path_policy: PathPolicy = PathPolicy.ANY,
    ) -> Pipe:
        """Answer one invite; several may be under way at a time. Parameters as those of `accept`.

        :raises InviteUsed: it was answered here before.
        :raises PipeClosed: also when this is closed.
        :raises PeersError: what `accept` raises, but for what concerns reaching the relay.
        """
        if self._closed.is_set():
            raise PipeClosed("the accepter was closed")
        if invite.fingerprint is not None and invite.fingerprint != self._link.fingerprint:
            raise UsageError(f"the invite is for another relay: {invite.relay}")
        answer = _Answer(invite, auth, path_policy)
        if not self._answered.add(answer.packet):
            raise InviteUsed("this invite was answered here before: ask the dialer for a new one")
        # A task of its own, so that `close` can end it.
        task = asyncio.get_running_loop().create_task(answer.give(self._link, answer_timeout_s))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        try:
            pipe = await task
        except asyncio.CancelledError:
            if task.done() and not task.cancelled() and task.exception() is None:
                # Cancelled in the very turn in which the pipe opened: nobody will ever have it.
                await task.result().close(CloseCode.FAILED, _GAVE_UP)
            caller = asyncio.current_task()
            if self._closed.is_set() and caller is not None and not caller.cancelling():
                raise PipeClosed("the accepter was closed") from None
            raise
        finally:
            if not answer.is_given:
                self._answered.forget(answer.packet)
        self._pipes = {each for each in self._pipes if each.is_open} | {pipe}
        return pipe

    async def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close all pipes, with this code and reason, then the connection to the relay.

        :raises UsageError: for a code that QUIC has no room for.
        """
        check_code(code)
        self._closed.set()
        for task in self._pending:
            task.cancel()
        try:
            await asyncio.gather(*self._pending, return_exceptions=True)
            await asyncio.gather(*(pipe.close(code, reason) for pipe in self._pipes))
        finally:
            await self._link.close()


class _Answer:
    """The answer to one invite, prepared as far as that goes without a network."""

    def __init__(
        self, invite: Invite, auth: Authentication | None, path_policy: PathPolicy
    ) -> None:
        """:raises InviteInvalid: the packet is damaged.
        :raises InviteExpired: its time is over.
        :raises UsageError: `auth` is not what the invite asks for.
        """
        invite.check_expiry(time.time())
        self._auth = _authentication(invite, auth)
        self._path_policy = path_policy
        self._berth = Berth()
        self.is_given = False  # whether the dialer may have heard of us
        loop = asyncio.get_running_loop()
        try:
            self._quic = PeerConnection(
                parts=self._auth.parts(is_dialer=False),
                connection_ids=self._berth.source,
                first_datagram=invite.packet,
            )
            is_authentic = self._quic.start_server(loop.time())
            self.packet, rest = _split(invite.packet)  # what is authentic of it, and the padding
        except ValueError:
            is_authentic, rest = False, b""
        if not is_authentic or any(rest):
            raise InviteInvalid(
                "the invite is damaged: its packet cannot be read; copy it whole, or ask for a"
                " new one"
            )

    async def give(
        self,
        link: RelayLink,
        timeout_s: float,
        at_end: Callable[[], Awaitable[None]] | None = None,
    ) -> Pipe:
        """Register, send the answer, and wait until the pipe is open."""
        try:
            await self._berth.moor(link)
        except BaseException:
            await self._berth.leave()
            raise
        self.is_given = True
        pipe = self._berth.host(self._quic, self._auth, at_end, self._path_policy)
        try:
            await self._wait_open(pipe, timeout_s)
            await pipe.wait_usable()
        except BaseException:
            await pipe.close(CloseCode.FAILED, _GAVE_UP)
            raise
        return pipe

    async def _wait_open(self, pipe: Pipe, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        place = self._berth.place
        try:
            async with asyncio.timeout(timeout_s) as limit:

                def heard() -> None:
                    place.on_heard = None
                    if not limit.expired():
                        limit.reschedule(loop.time() + HANDSHAKE_TIMEOUT_S)

                place.on_heard = heard
                await pipe.wait_open()
        except TimeoutError:
            raise NoAnswer(
                "no answer from the dialer; invite used or expired? Ask for a new one"
            ) from None
        finally:
            place.on_heard = None


def _split(datagram: bytes) -> tuple[bytes, bytes]:
    """The first packet, and what follows it.

    :raises ValueError: it does not begin with a packet.
    """
    header = pull_quic_header(Buffer(data=datagram), host_cid_length=CONNECTION_ID_LENGTH)
    return datagram[: header.packet_length], datagram[header.packet_length :]


def _authentication(invite: Invite, auth: Authentication | None) -> Authentication:
    """:raises UsageError: what the invite asks for and what was given do not go together."""
    if auth is not None:
        if auth.kind is not invite.auth:
            raise UsageError(
                f"the invite is for {_describe(invite.auth)}, not for {_describe(auth.kind)}"
            )
        return auth
    if invite.auth is AuthKind.INVITE_KEY and invite.key is not None:
        return InviteKey(invite.key)
    raise UsageError(f"the invite needs {_describe(invite.auth)}: say which")


def _describe(kind: AuthKind | None) -> str:
    match kind:
        case AuthKind.INVITE_KEY:
            return "a one-time key"
        case AuthKind.PAIRING_KEY:
            return "a pairing key"
        case AuthKind.CERTIFICATE:
            return "pinned certificates"
        case None:
            return "the original's peers, which authenticate nobody"
