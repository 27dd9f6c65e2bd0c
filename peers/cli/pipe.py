"""`quicpipe dial` and `quicpipe accept` with an invite that is handed over."""

import time
from dataclasses import replace

from ..accepter import accept
from ..auth import Authentication, InviteKey, Original, PairingKey, Pinned
from ..dialer import dial
from ..errors import UsageError
from ..invite import DEFAULT_LIFETIME_S, AuthKind, Invite
from .invite import is_standard_stream, obtain, publish, withdraw
from .io import Source, noticing_closed_output, say
from .keys import has_pairing_key, load_identity, load_pairing_key, pinned
from .options import Options
from .qr import show_qr
from .session import chosen_relay, talk
from .token import invites_relay_trust, relay_trust


async def dial_command(options: Options) -> int:
    """Give an invite away, wait for the answer, then connect the standard streams to the pipe."""
    auth = _dialers_authentication(options)
    relay = chosen_relay(options)
    trust = relay_trust(options)
    started = time.monotonic()
    dialing = await dial(
        str(relay),
        auth=auth,
        trust=trust,
        lifetime_s=options.expires_s or DEFAULT_LIFETIME_S,
        path_policy=options.path_policy,
    )
    async with dialing:
        if options.verbose:
            took_ms = (time.monotonic() - started) * 1000
            say(f"registered at relay {relay} ({dialing.invite.fingerprint}) in {took_ms:.0f} ms")
        _warn(dialing.invite)
        if options.qr:
            show_qr(dialing.invite.encode().strip())
        try:
            await publish(dialing.invite, options.invite)
            with noticing_closed_output(_still_waiting):
                pipe = await dialing.pipe()
        finally:
            withdraw(dialing.invite, options.invite)
        started = time.monotonic()
        return await talk(pipe, Source(), options, is_dialer=True)


async def accept_command(options: Options, invite: Invite) -> int:
    """Answer an invite, then connect the standard streams to the pipe."""
    auth = _accepters_authentication(options, invite)
    if options.original:
        invite = replace(invite, relay=chosen_relay(options))
    elif options.relay is not None:
        invite = replace(invite, relay=options.relay)
    trust = None
    if invite.relay is not None:
        trust = invites_relay_trust(options, invite.relay, invite.fingerprint)
    if options.verbose:
        say(f"answering by relay {invite.relay}")
    started = time.monotonic()
    answering = accept(invite, auth=auth, trust=trust, path_policy=options.path_policy)
    async with await answering as pipe:
        if options.verbose:
            say(f"answered in {(time.monotonic() - started) * 1000:.0f} ms")
        # An invite from standard input has used that up: the other end gets its FIN at once.
        source = None if is_standard_stream(options.invite) else Source()
        return await talk(pipe, source, options, is_dialer=False)


def read_invite(options: Options) -> Invite:
    """Get the invite that is to be answered, before anything else is done. Blocks.

    :raises InviteInvalid: if it is none.
    :raises InviteExpired: if its time is over.
    """
    invite = obtain(options.invite)
    invite.check_expiry(time.time())
    return invite


def _dialers_authentication(options: Options) -> Authentication:
    if options.original:
        return Original()
    if options.peers:
        return _pinned(options)
    if has_pairing_key(options):
        return PairingKey(load_pairing_key(options))
    return InviteKey()


def _pinned(options: Options) -> Pinned:
    """:raises UsageError: a label stands for nobody, or there is no identity of our own."""
    fingerprints = pinned(options)
    return Pinned(load_identity(options), fingerprints)


def _accepters_authentication(options: Options, invite: Invite) -> Authentication:
    """What the invite asks for. One that asks for less than the user wants is refused.

    :raises UsageError: and names the option that is missing, or too many.
    """
    if options.original != invite.is_original:
        raise UsageError(
            "this invite is of Quicpipe's own kind: leave --original away"
            if options.original
            else "this invite is of the original's kind, which authenticates nobody: if that is"
            " what you want, give --original"
        )
    if options.original:
        return Original()
    wanted = _wanted(options)
    if wanted is not None and wanted != invite.auth:
        raise UsageError(
            f"the invite is for {_IN_WORDS[invite.auth]}, but an option or the environment asks"
            f" for {_IN_WORDS[wanted]} here: both ends must use the same"
        )
    match invite.auth:
        case AuthKind.CERTIFICATE:
            if not options.peers:
                raise UsageError(
                    "the invite is for certificates: give --peer FINGERPRINT, the dialer's, which"
                    " 'quicpipe identity' shows there"
                )
            return _pinned(options)
        case AuthKind.PAIRING_KEY:
            return PairingKey(load_pairing_key(options))
    return InviteKey(invite.key)


_IN_WORDS: dict[AuthKind | None, str] = {
    AuthKind.CERTIFICATE: "certificates",
    AuthKind.PAIRING_KEY: "a pairing key",
    AuthKind.INVITE_KEY: "a one-time key",
}


def _wanted(options: Options) -> AuthKind | None:
    """What the user insists on; None: nothing."""
    if options.peers:
        return AuthKind.CERTIFICATE
    return AuthKind.PAIRING_KEY if has_pairing_key(options) else None


def _still_waiting() -> None:
    # Not the end: `quicpipe dial < file | head -1 > invite` is a way to get the invite.
    say("nobody reads standard output any more; waiting for the answer (Ctrl-C gives up)")


def _warn(invite: Invite) -> None:
    match invite.auth:
        case AuthKind.INVITE_KEY:
            say(
                "the invite is a secret: whoever reads it can take the other side's place, once."
                " Hand it over unseen, or use --pairing-key-file or --peer"
            )
        case None:
            say(
                "--original: nobody is authenticated. Whoever answers first is taken for the other"
                " side, and who controls the relay or sees the invite can be in the middle"
            )
