"""What tests of the rendezvous share: who is who, and how each comes to the relay."""

from functools import cache

from peers import Authentication, Identity, Listener, Pinned, Pipe, dial_to, listen
from tests.lab.scene import Scene
from tests.peers.dial_scene import RELAY, trust


@cache
def _identity(of: str) -> Identity:
    """Somebody's; to make one takes time."""
    return Identity.generate()


HERE, THERE, STRANGER = (_identity(each) for each in ("dialer", "accepter", "stranger"))
"""The dialer's, the accepter's, and another's."""
KEY = bytes(range(32))


async def listen_at(
    at: Scene,
    auth: Authentication | None = None,
    *,
    name: str | None = None,
    who: Identity = THERE,
    max_pending: int = 32,
) -> Listener:
    """Listen on the accepter's host, for the dialer alone unless `auth` says otherwise."""
    return await listen(
        RELAY,
        identity=who,
        auth=auth or Pinned(who, [HERE.fingerprint]),
        trust=trust(at),
        name=name,
        max_pending=max_pending,
        network=at.accepter,
    )


async def dial_from(
    at: Scene,
    to: str = THERE.fingerprint,
    auth: Authentication | None = None,
    timeout_s: float = 60.0,
) -> Pipe:
    """Dial on the dialer's host; the accepter's fingerprint is pinned unless `auth` says other."""
    auth = auth or Pinned(HERE, [THERE.fingerprint])
    return await dial_to(
        RELAY, to, auth=auth, trust=trust(at), timeout_s=timeout_s, network=at.dialer
    )


def relay_counts(at: Scene, what: str) -> int:
    """One of the counters of the relay's rendezvous."""
    return at.relay.control.rendezvous_counters().get(what, 0)
