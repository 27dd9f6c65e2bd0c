"""Dialing a peer that listens at the relay: by fingerprint or by name. docs/protocol.md §10."""

import asyncio

from relay.wire.body import MalformedRequest
from relay.wire.rendezvous import INVITES_PATH, NAMES_PATH, InviteRequest, NameAnswer

from ..auth import Authentication
from ..berth import Berth
from ..dialer import Dialing
from ..errors import CloseCode, IdentityInvalid, NoAnswer, NotListening, UsageError
from ..identity import parse_fingerprint
from ..invite import DEFAULT_LIFETIME_S, AuthKind
from ..link.link import RelayLink
from ..network import Network, SystemNetwork
from ..paths.driver import DIRECT_WITHIN_S
from ..paths.path import PathPolicy
from ..pipe import Pipe
from ..relay_name import RelayName
from ..trust import RelayTrust
from .asking import ask, failure, unreadable
from .listener import check_name

ANSWER_TIMEOUT_S = 60.0
"""Seconds to wait for the accepter: for so long the relay keeps the invite."""

_GAVE_UP = "the dialer gave up"


async def dial_to(
    relay: str,
    to: str,
    *,
    auth: Authentication,
    trust: RelayTrust,
    timeout_s: float = ANSWER_TIMEOUT_S,
    path_policy: PathPolicy = PathPolicy.ANY,
    network: Network | None = None,
) -> Pipe:
    """Open a pipe to a peer that listens at a relay; closing it gives all up that it stands on.

    A name says where to deliver the invite and nothing else: whom the pipe leads to is for `auth`
    to settle, by a pinned fingerprint or a pairing key.

    :param relay: `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
    :param to: the peer's fingerprint, or the name under which it listens.
    :param auth: `Pinned` or `PairingKey`.
    :param timeout_s: seconds to wait for the peer's answer.
    :param path_policy: whether the pipe may leave the relay, or must.
    :param network: another one than the system's.
    :raises UsageError: for an argument that makes no sense.
    :raises RelayUnreachable: no such relay, or no answer.
    :raises RelayUntrusted: by `trust`; nothing was told to it.
    :raises RegistrationFailed: the relay refuses to register us.
    :raises NotListening: nobody waits there under that fingerprint or name.
    :raises RendezvousFailed: the relay refuses, or too many others wait for that peer.
    :raises NoAnswer: the peer has not answered.
    :raises NoDirectPath: only a direct path would do, and there is none.
    :raises AuthenticationFailed: at either end.
    :raises PipeClosed: the peer gave up.
    """
    target = parse_target(to)
    if auth.kind not in {AuthKind.CERTIFICATE, AuthKind.PAIRING_KEY}:
        raise UsageError(
            "over the relay peers prove themselves by certificates or a pairing key: an invite"
            " with a one-time key would tell it to the relay"
        )
    name = _relay_name(relay)
    berth = Berth()
    link = await RelayLink.connect(network or SystemNetwork(), name, trust)
    try:
        await berth.moor(link)
        dialing = Dialing(link, berth, name, auth, DEFAULT_LIFETIME_S, path_policy)
    except BaseException:
        await link.close()
        raise
    if path_policy is PathPolicy.DIRECT_ONLY:
        timeout_s += DIRECT_WITHIN_S  # which is the pipe's to watch
    try:
        async with asyncio.timeout(timeout_s):
            await deliver(link, target, dialing.invite.encode())
            return await dialing.pipe()
    except TimeoutError:
        await dialing.close(CloseCode.FAILED, _GAVE_UP)
        raise NoAnswer(
            f"{target} listens at the relay {name}, but did not answer within {timeout_s:.0f} s:"
            " busy, or just gone?"
        ) from None
    except BaseException:
        await dialing.close(CloseCode.FAILED, _GAVE_UP)
        raise


async def deliver(link: RelayLink, target: str, invite: str) -> None:
    """Have the relay deliver an invite.

    :param invite: one JSON object.
    :raises NotListening: nobody waits there under that fingerprint or name.
    :raises RelayUnreachable: no answer.
    :raises RendezvousFailed: the relay refuses.
    """
    response = await ask(link, "POST", INVITES_PATH, InviteRequest(target, invite).encode())
    if response.status == 404:
        raise NotListening(_nobody(target, link.name))
    if response.status != 202:
        raise failure(response)


async def look_up(
    relay: str, name: str, *, trust: RelayTrust, network: Network | None = None
) -> str:
    """What fingerprint listens under a name, as the relay says: a hint, never a proof.

    :raises UsageError: for an argument that makes no sense.
    :raises RelayUnreachable: no such relay, or no answer.
    :raises RelayUntrusted: by `trust`; nothing was told to it.
    :raises NotListening: nobody has that name there.
    :raises RendezvousFailed: the relay refuses.
    """
    name = check_name(name)
    where = _relay_name(relay)
    link = await RelayLink.connect(network or SystemNetwork(), where, trust)
    try:
        response = await ask(link, "GET", f"{NAMES_PATH}/{name}")
    finally:
        await link.close()
    if response.status == 404:
        raise NotListening(_nobody(name, where))
    if response.status != 200:
        raise failure(response)
    try:
        return NameAnswer.decode(response.body).fingerprint
    except MalformedRequest as error:
        raise unreadable(error) from None


def parse_target(text: str) -> str:
    """A fingerprint or a name, in its one form.

    :raises UsageError: it is neither.
    """
    try:
        return parse_fingerprint(text)
    except IdentityInvalid:
        if ":" in text:
            raise UsageError(
                f"'{text[:90]}' is not a fingerprint: expected 'sha256:' and 64 hexadecimal digits"
            ) from None
        return check_name(text)


def _nobody(target: str, relay: RelayName) -> str:
    return (
        f"nobody listens as {target} at the relay {relay}: there,"
        " 'quicpipe accept --listen' must be running"
    )


def _relay_name(relay: str) -> RelayName:
    try:
        return RelayName.parse(relay)
    except ValueError as error:
        raise UsageError(f"the relay: {error}") from None
