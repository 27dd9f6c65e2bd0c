"""Meeting by a spoken code: `accept_code` makes one, `dial_code` uses it. docs/protocol.md §11.

One run, one guess: whatever goes wrong between the claim and the invite ends the code at both ends.
"""

import asyncio

from relay.wire.slots import End

from ..accepter import ANSWER_TIMEOUT_S, accept_over
from ..auth import PairingKey, Peer
from ..berth import Berth
from ..closing import ClosedAtExit
from ..dialer import Dialing
from ..errors import (
    AuthenticationFailed,
    CloseCode,
    CodeRefused,
    NoAnswer,
    PipeClosed,
    RelayUnreachable,
    UsageError,
)
from ..identity import Identity
from ..invite import DEFAULT_LIFETIME_S, Invite
from ..link.link import RelayLink
from ..network import Network, SystemNetwork
from ..paths.path import PathPolicy
from ..pipe import Pipe
from ..quic.connection import PeerConnection
from ..relay_name import RelayName
from ..trust import RelayTrust
from .code import Code, choose_words
from .exchange import AccepterEnd, DialerEnd
from .slot import Slot, claim_slot, open_slot

STEP_TIMEOUT_S = 20.0
"""Seconds for the other end's next message, once both are there: no person has to do anything."""
OPEN_TIMEOUT_S = 75.0
"""Seconds for the pipe to open, when all is proven, and to find a direct path if nothing else will
do."""

_LATE_S = 30.0
"""Seconds beyond a code's lifetime after which a relay that does not say so is given up."""


class CodeKey(PairingKey):
    """The key that a code has led to, and whose certificate was proven with it."""

    def __init__(self, key: bytes, fingerprint: str) -> None:
        """:param fingerprint: of the other end's certificate."""
        super().__init__(key)
        self._fingerprint = fingerprint

    def check(self, connection: PeerConnection) -> Peer:
        """Both proved in the handshake to know the key; the code's exchange proved the rest."""
        return Peer(super().check(connection).kind, self._fingerprint)


async def accept_code(
    relay: str,
    *,
    trust: RelayTrust,
    identity: Identity | None = None,
    path_policy: PathPolicy = PathPolicy.ANY,
    network: Network | None = None,
) -> "SpokenCode":
    """Make a code, for somebody to dial.

    :param relay: `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
    :param identity: what the other end may keep, to know us without a code; None: a passing one.
    :param path_policy: whether the pipe may leave the relay, or must.
    :param network: another one than the system's.
    :raises UsageError: for an argument that makes no sense.
    :raises RelayUnreachable: no such relay, or no answer.
    :raises RelayUntrusted: by `trust`; nothing was told to it.
    :raises RendezvousFailed: the relay gives us no code.
    """
    link = await _link(relay, trust, network)
    try:
        slot, number, lifetime_s = await open_slot(link)
        code = Code(number, choose_words())
        end = AccepterEnd(code, identity or Identity.generate())
        return SpokenCode(link, slot, code, end, lifetime_s, path_policy)
    except BaseException:
        await link.close()
        raise


class SpokenCode(ClosedAtExit):
    """A code that waits to be dialled. Made by `accept_code`; an async context manager."""

    def __init__(
        self,
        link: RelayLink,
        slot: Slot,
        code: Code,
        end: AccepterEnd,
        lifetime_s: float,
        path_policy: PathPolicy,
    ) -> None:
        """For `accept_code`."""
        self._link = link
        self._slot = slot
        self._code = code
        self._end = end
        self._lifetime_s = lifetime_s
        self._path_policy = path_policy
        self._is_over = False  # for the slot
        self._is_closed = False
        self._pipe: Pipe | None = None
        self._ending: asyncio.Task[None] | None = None  # nobody waits for it, but it must be held

    @property
    def code(self) -> str:
        """To be read out to the other person: `7-crossword-puppet`. A secret until it is used."""
        return str(self._code)

    @property
    def lifetime_s(self) -> float:
        """Seconds for which it can be used, counted from when it was made."""
        return self._lifetime_s

    async def pipe(self) -> Pipe:
        """Wait until the code is used, and the pipe is open. Once: what it raises ends the code.

        :raises CodeRefused: nobody used it in time, or the other end gave up.
        :raises CodeWrong: somebody used it with other words.
        :raises AuthenticationFailed: the other end is not who it says it is, or talks nonsense.
        :raises NoAnswer: the other end was not heard of any more.
        :raises NoDirectPath: only a direct path would do, and there is none.
        :raises RelayError: the relay does not answer, or refuses.
        :raises PipeClosed: the other end gave up at last, or this was closed.
        """
        if self._is_over:
            raise PipeClosed("the code was used, or closed, before")
        try:
            invite, auth = await self._meet()
            self._is_over = True
            self._ending = asyncio.get_running_loop().create_task(self._slot.end(End.DONE))
            # The relay whose certificate it names may have another one by now: ours is trusted.
            self._pipe = await accept_over(
                self._link,
                invite,
                auth=auth,
                answer_timeout_s=ANSWER_TIMEOUT_S,
                path_policy=self._path_policy,
            )
            return self._pipe
        except AuthenticationFailed:
            await self._finish(End.WRONG_CODE)
            raise
        except RelayUnreachable:
            if self._is_closed:
                raise PipeClosed("the code was closed") from None
            raise
        finally:
            if self._pipe is None:
                await self.close()

    async def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """End the code, or the pipe that it has led to, and everything that stands behind it."""
        if self._pipe is not None:
            await self._pipe.close(code, reason)
            return
        self._is_closed = True
        await self._finish(End.LEFT)
        await self._link.close()

    async def _meet(self) -> tuple[Invite, CodeKey]:
        slot, end = self._slot, self._end
        try:
            hello = await slot.receive(self._lifetime_s + _LATE_S)
        except (CodeRefused, NoAnswer) as error:
            raise CodeRefused(f"nobody has used the code: {error}") from None
        await slot.send(end.receive_hello(hello))
        await slot.send(end.receive_proof(await slot.receive(STEP_TIMEOUT_S)))
        line = end.receive_invite(await slot.receive(STEP_TIMEOUT_S))
        return Invite.decode(line), CodeKey(end.pairing_key, end.peer_fingerprint)

    async def _finish(self, how: End) -> None:
        """Tell the relay once, and so the other end."""
        if not self._is_over:
            self._is_over = True
            await self._slot.end(how)


async def dial_code(
    code: str,
    relay: str,
    *,
    trust: RelayTrust,
    identity: Identity | None = None,
    path_policy: PathPolicy = PathPolicy.ANY,
    network: Network | None = None,
) -> Pipe:
    """Meet whoever has made a code; closing the pipe gives up everything that stands behind it.

    :param code: as it was read out; case, spaces and the ends of words do not matter.
    :param relay: the one that the other end uses.
    :param identity: what the other end may keep, to know us without a code; None: a passing one.
    :param path_policy: whether the pipe may leave the relay, or must.
    :param network: another one than the system's.
    :raises CodeInvalid: it is none; nobody was asked.
    :raises UsageError: for an argument that makes no sense.
    :raises RelayUnreachable: no such relay, or no answer.
    :raises RelayUntrusted: by `trust`; nothing was told to it.
    :raises CodeRefused: the relay does not know it, or not any more, or somebody else has used it.
    :raises CodeWrong: the words are wrong; the code is used up.
    :raises AuthenticationFailed: the other end is not who it says it is, or talks nonsense.
    :raises NoAnswer: the other end was not heard of any more.
    :raises NoDirectPath: only a direct path would do, and there is none.
    :raises RelayError: the relay does not answer, or refuses.
    """
    parsed = Code.parse(code)
    end = DialerEnd(parsed, identity or Identity.generate())
    link = await _link(relay, trust, network)
    try:
        slot = await claim_slot(link, parsed.slot, end.hello())
        try:
            return await _dial(link, slot, end, path_policy)
        except AuthenticationFailed:
            await slot.end(End.WRONG_CODE)
            raise
        except BaseException:
            await slot.end(End.LEFT)
            raise
    except BaseException:
        await link.close()
        raise


async def _dial(link: RelayLink, slot: Slot, end: DialerEnd, path_policy: PathPolicy) -> Pipe:
    berth = Berth()
    # Meanwhile: it takes a round trip, and so does the rest.
    mooring = asyncio.get_running_loop().create_task(berth.moor(link))
    mooring.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen
    try:
        await slot.send(end.receive_element(await slot.receive(STEP_TIMEOUT_S)))
        end.receive_proof(await slot.receive(STEP_TIMEOUT_S))
        await mooring
    finally:
        mooring.cancel()
    auth = CodeKey(end.pairing_key, end.peer_fingerprint)
    # The lifetime is the usual one: the two ends' clocks may differ by more than our patience.
    dialing = Dialing(link, berth, link.name, auth, DEFAULT_LIFETIME_S, path_policy)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await slot.send(end.seal_invite(dialing.invite.encode().encode()))
            return await dialing.pipe()
    except TimeoutError:
        await dialing.close()
        raise NoAnswer("the other end of the code did not open the pipe") from None
    except BaseException:
        await dialing.close()
        raise


async def _link(relay: str, trust: RelayTrust, network: Network | None) -> RelayLink:
    try:
        name = RelayName.parse(relay)
    except ValueError as error:
        raise UsageError(f"the relay: {error}") from None
    return await RelayLink.connect(network or SystemNetwork(), name, trust)
