"""What is known of both ends' networks, and what follows from it."""

from socket import AF_INET

from relay.wire.address import Address

from ..nat.outlook import Mapping
from .admission import MAX_CANDIDATES, Admission, is_special, outside_of
from .candidate import Kind, LocalView, RemoteCandidate, SocketId
from .message import Candidates

_ORDER = (Kind.OUTSIDE, Kind.MAPPED, Kind.HOST)
"""Which name an address gets that comes from several places; a public host's is `OUTSIDE`."""


class Knowledge:
    """See the module's text."""

    def __init__(self, *, relay_only: bool) -> None:
        self.relay_only = relay_only
        self.peer_relay_only = False
        self.peer_has_greeted = False
        self.view: LocalView | None = None
        """None until told."""
        self.announced: Candidates | None = None
        """What the other end was told last."""
        self.named: Candidates | None = None
        """What the other end told last."""

    @property
    def mapping(self) -> Mapping:
        """Of the NAT before us."""
        return Mapping.UNKNOWN if self.view is None else self.view.mapping

    @property
    def peer_mapping(self) -> Mapping:
        """Of the NAT before the other end, as that says."""
        return Mapping.UNKNOWN if self.named is None else self.named.mapping

    @property
    def is_hopeless(self) -> bool:
        """Whether both NATs map dependently."""
        return self.mapping is Mapping.DEPENDENT is self.peer_mapping

    @property
    def obstacle(self) -> str:
        """Why there will be no direct path; empty: there may be one."""
        if self.relay_only:
            return "none: we are to use the relay only"
        return "none: the other end wants the relay only" if self.peer_relay_only else ""

    @property
    def missing(self) -> str:
        """What is still to come before a search can begin; empty: nothing."""
        if self.view is None:
            return "waiting for our own addresses"
        if not self.peer_has_greeted or self.named is None:
            return "waiting for the other end's addresses"
        return ""

    @property
    def can_search(self) -> bool:
        """Whether both ends know and permit enough."""
        return not self.obstacle and not self.missing

    def admission(self) -> Admission:
        """Which addresses of the other end we probe."""
        view = self.view or LocalView(sockets={})
        return Admission(view, outside_of(self.named.candidates if self.named else ()))

    def birthday_ends(self, ours: Mapping, theirs: Mapping) -> tuple[SocketId, Address] | None:
        """Our IPv4 socket, and the other end's outside address; None: the mappings are others."""
        view, named = self.view, self.named
        if view is None or named is None or (self.mapping, self.peer_mapping) != (ours, theirs):
            return None
        admission = self.admission()
        sockets = [each for each, family in view.sockets.items() if family is AF_INET]
        targets = [
            each
            for each in outside_of(named.candidates)
            if each.family is AF_INET and admission.refuse(each) is None
        ]
        return (sockets[0], targets[0]) if sockets and targets else None


def announcement(view: LocalView) -> Candidates:
    """What the other end is told of a view: what it would refuse at once is left out."""
    chosen: dict[Address, RemoteCandidate] = {}
    for each in view.candidates:
        known = chosen.get(each.address)
        if is_special(each.address) or each.kind is Kind.REFLEXIVE:
            continue
        if known is None or _ORDER.index(each.kind) < _ORDER.index(known.kind):
            chosen[each.address] = RemoteCandidate(each.kind, each.address)
    return Candidates(view.mapping, tuple(chosen.values())[:MAX_CANDIDATES])
