"""The path agent of one pipe: it finds, proves, chooses and keeps the direct path.

Pure: it takes what happened and `now`, in seconds of any steady clock, and says what to do. After
every call, `poll` gives the actions in the order in which they must be done, and `next_timer` when
to poll again at the latest.
"""

import random
from collections.abc import Sequence

from relay.wire.address import Address

from .candidate import LocalView, SocketId
from .path import Action, Path, PathPolicy
from .report import PathReport


class BirthdayPermits:
    """How many pipes of one endpoint may be in birthday probing at a time. Share one of these."""

    def __init__(self, limit: int = 4) -> None:
        self._free = limit


class PathAgent:
    """One for each open pipe. It starts on the relay."""

    def __init__(
        self,
        *,
        is_dialer: bool,
        now: float,
        policy: PathPolicy = PathPolicy.ANY,
        permits: BirthdayPermits | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """The pipe is open, through the relay.

        :param permits: shared by the agents of one endpoint; None: this one has its own.
        :param chance: for tests; None: the system's.
        """

    # What is known of our network

    def set_local(self, view: LocalView, now: float) -> None:
        """What is known of our network now. Call it again whenever something of it changes.

        Nothing is announced and nobody is probed before the first call. A path in use whose socket
        is no longer named is given up at once.
        """
        raise NotImplementedError

    def network_changed(self, now: float) -> None:
        """Our network may be another one: prove the path in use again at once, search anew."""
        raise NotImplementedError

    def sockets_opened(self, sockets: Sequence[SocketId], now: float) -> None:
        """The answer to `OpenSockets`; none: the system has no more."""
        raise NotImplementedError

    # What arrives

    def receive_message(self, body: bytes, now: float) -> None:
        """One message of the control stream. A malformed one is counted and ignored."""
        raise NotImplementedError

    def receive_probe(self, datagram: bytes, socket: SocketId, source: Address, now: float) -> bool:
        """One datagram whose destination ID is ours. False: it was dropped, and counted."""
        raise NotImplementedError

    def accepts(self, socket: SocketId, source: Address) -> bool:
        """Whether a packet of the pipe may come from there: an authentic probe did. Cheap."""
        raise NotImplementedError

    # What the pipe does. At most one call of each per batch: they are cheap

    def sent(self, now: float) -> None:
        """The pipe sent ack-eliciting packets (RFC 9002 §2) by the current path."""
        raise NotImplementedError

    def acknowledged(self, now: float) -> None:
        """The other end acknowledged a packet that was sent since the last switch.

        Where the caller cannot tell which one it was, any new acknowledgement will do.
        """
        raise NotImplementedError

    def heard(self, path: Path, now: float) -> None:
        """Packets of the pipe came by this path."""
        raise NotImplementedError

    def measured(self, round_trip_s: float, now: float) -> None:
        """The pipe's own smoothed round-trip time on the current path."""
        raise NotImplementedError

    # What to do

    def poll(self, now: float) -> list[Action]:
        """What is to be done now, in order."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When to call `poll` at the latest; None: when something happens."""
        raise NotImplementedError

    # What to tell

    @property
    def current(self) -> Path:
        """The path that the pipe should be sent by."""
        raise NotImplementedError

    @property
    def has_given_up(self) -> bool:
        """Whether nothing more will be tried until something changes."""
        raise NotImplementedError

    def report(self, now: float) -> PathReport:
        """A snapshot, for people."""
        raise NotImplementedError
