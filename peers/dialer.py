"""Dialing: register, give the invite away, wait for whoever answers. docs/protocol.md §6.1."""

import asyncio
import time

from .auth import Authentication, InviteKey
from .berth import HANDSHAKE_TIMEOUT_S, Berth
from .closing import ClosedAtExit
from .errors import CloseCode, NoAnswer, PeersError, UsageError
from .invite import DEFAULT_LIFETIME_S, Invite
from .link.link import RelayLink
from .network import Network, SystemNetwork
from .paths.path import PathPolicy
from .pipe import Pipe
from .quic.connection import PeerConnection
from .relay_name import RelayName
from .trust import RelayTrust


async def dial(
    relay: str,
    *,
    auth: Authentication,
    trust: RelayTrust,
    lifetime_s: float = DEFAULT_LIFETIME_S,
    path_policy: PathPolicy = PathPolicy.ANY,
    network: Network | None = None,
) -> "Dialing":
    """Reach the relay, register, and make an invite. Nobody needs to be there to answer it yet.

    :param relay: `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
    :param lifetime_s: seconds for which the invite can be answered.
    :param path_policy: whether the pipe may leave the relay, or must.
    :param network: another one than the system's.
    :raises UsageError: for an argument that makes no sense.
    :raises RelayUnreachable: no such relay, or no answer.
    :raises RelayUntrusted: by `trust`; nothing was told to it.
    :raises RegistrationFailed: the relay refuses.
    """
    name = _relay_name(relay)
    if not lifetime_s > 0:
        raise UsageError(f"an invite cannot live for {lifetime_s:g} s")
    berth = Berth()
    link = await RelayLink.connect(network or SystemNetwork(), name, trust)
    try:
        # The relay must know our connection ID before anybody else learns of it.
        await berth.moor(link)
        return Dialing(link, berth, name, auth, lifetime_s, path_policy)
    except BaseException:
        await link.close()
        raise


class Dialing(ClosedAtExit):
    """An invite that waits for its answer. Made by `dial`; an async context manager.

    Closing it closes the pipe, too, and everything that stands behind it.
    """

    def __init__(
        self,
        link: RelayLink,
        berth: Berth,
        relay: RelayName,
        auth: Authentication,
        lifetime_s: float,
        path_policy: PathPolicy = PathPolicy.ANY,
    ) -> None:
        """For `dial`."""
        self._loop = asyncio.get_running_loop()
        self._quic = PeerConnection(parts=auth.parts(is_dialer=True), connection_ids=berth.source)
        flight = self._quic.start_muted(self._loop.time(), lifetime_s)
        if len(flight) != 1:
            # Certificates are not in it, nor is anything else that an application decides on.
            raise RuntimeError(f"the first flight has {len(flight)} datagrams, not one")
        self._place = berth.place
        self._pipe = berth.host(self._quic, auth, link.close, path_policy)
        self._handshake_timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_late = False
        self._place.on_heard = self._look_for_answer
        if auth.kind is None:
            self._invite = Invite(flight[0])
        else:
            self._invite = Invite(
                packet=flight[0],
                relay=relay,
                fingerprint=link.fingerprint,
                expires=int(time.time() + lifetime_s),
                auth=auth.kind,
                key=auth.key if isinstance(auth, InviteKey) else None,
            )

    @property
    def invite(self) -> Invite:
        """For the accepter. One answers it, whoever comes first."""
        return self._invite

    async def pipe(self) -> Pipe:
        """Wait until the invite is answered and the pipe is open.

        :raises InviteExpired: nobody answered it in time.
        :raises NoAnswer: somebody did, and was not heard any more before the pipe was open.
        :raises AuthenticationFailed: at either end; the invite is used up.
        :raises NoDirectPath: only a direct path would do, and there is none.
        :raises PipeClosed: the other end gave up, or this was closed.
        """
        try:
            await self._pipe.wait_open()
        except PeersError:
            if self._is_late:
                raise NoAnswer(
                    "the accepter answered, but the pipe did not open within"
                    f" {HANDSHAKE_TIMEOUT_S:.0f} s; is the way to it very bad?"
                ) from None
            raise
        finally:
            if self._handshake_timer is not None and self._pipe.is_open:
                self._handshake_timer.cancel()
        await self._pipe.wait_usable()
        return self._pipe

    async def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close the pipe, open or not, and give up all that it lived on. Takes a second or two."""
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        await self._pipe.close(code, reason)

    def _look_for_answer(self) -> None:
        """Something came: if it was authentic, the handshake has begun and must come to an end."""
        if self._quic.is_muted:
            return
        self._place.on_heard = None
        self._handshake_timer = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        if not self._pipe.is_open and self._closing is None:
            self._is_late = True
            self._closing = self._loop.create_task(
                self._pipe.close(CloseCode.FAILED, "the handshake took too long")
            )


def _relay_name(relay: str) -> RelayName:
    try:
        return RelayName.parse(relay)
    except ValueError as error:
        raise UsageError(f"the relay: {error}") from None
