"""`quicpipe accept --listen` and `quicpipe dial PEER`: the relay delivers the invite."""

import time

from relay.wire.rendezvous import is_fingerprint

from ..auth import AnyPeer, Authentication, PairingKey, Pinned
from ..errors import PeersError, PeerUnknown, UsageError
from ..identity import Identity
from ..relay_name import RelayName
from ..rendezvous.dialing import dial_to, look_up
from ..rendezvous.listener import Listener, listen
from ..trust import RelayTrust
from .io import Sink, Source, say
from .keys import has_pairing_key, load_or_make_identity, load_pairing_key, load_pins, pinned
from .options import Options
from .session import chosen_relay, talk


async def dial_peer_command(options: Options) -> int:
    """Dial a peer that listens at the relay, then connect the standard streams to the pipe."""
    relay, trust = chosen_relay(options), RelayTrust(options.relay_fingerprint)
    to, auth = await _whom(options.peer or "", options, relay, trust)
    started = time.monotonic()
    dialing = dial_to(str(relay), to, auth=auth, trust=trust, path_policy=options.path_policy)
    async with await dialing as pipe:
        if options.verbose:
            say(f"{to} answered in {(time.monotonic() - started) * 1000:.0f} ms")
        return await talk(pipe, Source(), options, is_dialer=True)


async def listen_command(options: Options) -> int:
    """Wait at the relay for a dialer, or for one after another with `--keep-open`."""
    relay, trust = chosen_relay(options), RelayTrust(options.relay_fingerprint)
    identity = load_or_make_identity(options)
    listener = await listen(
        str(relay),
        identity=identity,
        auth=_whom_to_let_in(options, identity),
        trust=trust,
        name=options.name,
        path_policy=options.path_policy,
    )
    async with listener:
        listener.on_refused = _say_refused
        name = f" and as {options.name}" if options.name else ""
        say(f"listening at the relay {relay} as {identity.fingerprint}{name}")
        if options.keep_open:
            return await _serve_all(listener, options)
        pipe = await listener.accept()
        await listener.stop()
        return await talk(pipe, Source(), options, is_dialer=False)


async def _serve_all(listener: Listener, options: Options) -> int:
    """What dialers send, one after another, none mixed with another. Nothing is sent to them.

    What is typed here for one dialer would else reach the next, should the first have just gone.
    """
    sink = Sink()
    while not sink.is_broken:
        pipe = await listener.accept()
        say(f"serving {pipe.peer}")
        try:
            await talk(pipe, None, options, is_dialer=False, sink=sink)
        except PeersError as error:
            if sink.is_broken:
                raise
            say(str(error))
    return 0


async def _whom(
    peer: str, options: Options, relay: RelayName, trust: RelayTrust
) -> tuple[str, Authentication]:
    """Where to deliver the invite, and how to make sure of who answers it.

    :raises PeerUnknown: the peer is only a name.
    """
    fingerprint = peer if is_fingerprint(peer) else load_pins(options).get(peer)
    if options.peers:
        return fingerprint or peer, Pinned(load_or_make_identity(options), pinned(options))
    if has_pairing_key(options):
        return fingerprint or peer, PairingKey(load_pairing_key(options))
    if fingerprint is not None:
        return fingerprint, Pinned(load_or_make_identity(options), [fingerprint])
    said = await look_up(str(relay), peer, trust=trust)
    raise PeerUnknown(
        f"'{peer}' is not pinned here, and a name proves nothing. The relay says that {said}"
        " listens under it: compare with what 'quicpipe identity' shows on that machine, and if"
        f" it is the same keep it with 'quicpipe pin {peer} FINGERPRINT'"
    )


def _whom_to_let_in(options: Options, identity: Identity) -> Authentication:
    """:raises UsageError: nobody is named."""
    if options.peers:
        return Pinned(identity, pinned(options))
    if options.anyone:
        return AnyPeer(identity)
    if has_pairing_key(options):
        return PairingKey(load_pairing_key(options))
    raise UsageError(
        "whom to let in? Give --peer FINGERPRINT (what 'quicpipe identity' shows there), or a"
        " pairing key, or --anyone"
    )


def _say_refused(error: PeersError) -> None:
    say(f"a dialer was not let in: {error}")
