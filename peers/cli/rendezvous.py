"""`quicpipe accept --listen` and `quicpipe dial PEER`: the relay delivers the invite."""

import time
from collections.abc import Callable

from relay.wire.rendezvous import is_fingerprint

from ..auth import AnyPeer, Authentication, PairingKey, Pinned
from ..errors import NotListening, PeersError, PeerUnknown, UsageError
from ..identity import Identity
from ..relay_name import RelayName
from ..rendezvous.dialing import dial_to, look_up
from ..rendezvous.listener import Listener, listen
from ..trust import RelayTrust
from .io import Sink, Source, say
from .keys import has_pairing_key, load_or_make_identity, load_pairing_key, load_pins, pinned
from .options import Options
from .session import chosen_relay, talk
from .token import relay_trust

COMPLAINT_INTERVAL_S = 5.0
"""Seconds between two lines about dialers that were not let in."""


async def dial_peer_command(options: Options) -> int:
    """Dial a peer that listens at the relay, then connect the standard streams to the pipe."""
    relay, trust = chosen_relay(options), relay_trust(options)
    to, auth = await _whom(options.peer or "", options, relay, trust)
    started = time.monotonic()
    dialing = dial_to(str(relay), to, auth=auth, trust=trust, path_policy=options.path_policy)
    try:
        pipe = await dialing
    except NotListening as error:
        raise NotListening(
            str(error) if to == options.peer else f"{options.peer}: {error}"
        ) from None
    async with pipe:
        if options.verbose:
            say(f"{to} answered in {(time.monotonic() - started) * 1000:.0f} ms")
        return await talk(pipe, Source(), options, is_dialer=True)


async def listen_command(options: Options) -> int:
    """Wait at the relay for a dialer, or for one after another with `--keep-open`."""
    relay, trust = chosen_relay(options), relay_trust(options)
    let_in = _whom_to_let_in(options)
    identity = load_or_make_identity(options)
    listener = await listen(
        str(relay),
        identity=identity,
        auth=let_in(identity),
        trust=trust,
        name=options.name,
        path_policy=options.path_policy,
    )
    async with listener:
        listener.on_refused = _Complaints().add
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
        fingerprints = pinned(options)
        return fingerprint or peer, Pinned(load_or_make_identity(options), fingerprints)
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


def _whom_to_let_in(options: Options) -> Callable[[Identity], Authentication]:
    """Decided before an identity is made.

    :raises UsageError: nobody is named, or a label stands for nobody.
    """
    if options.peers:
        fingerprints = pinned(options)
        return lambda identity: Pinned(identity, fingerprints)
    if options.anyone:
        return AnyPeer
    if has_pairing_key(options):
        key = PairingKey(load_pairing_key(options))
        return lambda _: key
    raise UsageError(
        "whom to let in? Give --peer FINGERPRINT (what 'quicpipe identity' shows there), or a"
        " pairing key, or --anyone"
    )


class _Complaints:
    """Tells of dialers that were not let in. Strangers can make any number: each has no line."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._untold = 0

    def add(self, error: PeersError) -> None:
        """One more."""
        now = time.monotonic()
        if now < self._next_at:
            self._untold += 1
            return
        more = f" ({self._untold} more since the last time)" if self._untold else ""
        say(f"a dialer was not let in: {error}{more}")
        self._next_at, self._untold = now + COMPLAINT_INTERVAL_S, 0
