"""From what discovery found out to what an agent wants to know."""

from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from socket import AF_INET, AddressFamily

from relay.wire.address import Address

from ..nat.outlook import Mapping, Outlook, SocketOutlook
from ..network import DatagramSocket
from .candidate import Kind, LocalCandidate, LocalView, SocketId


def local_view(
    outlook: Outlook,
    sockets: MappingType[SocketId, tuple[DatagramSocket, AddressFamily]],
    relays: Iterable[Address],
) -> LocalView:
    """What is known of the sockets that are to be probed from.

    :param sockets: at most one of each family.
    :param relays: every address at which the relay may be.
    """
    found = {id(each.socket): each for each in outlook.sockets}
    candidates: list[LocalCandidate] = []
    mapping = Mapping.UNKNOWN
    for socket_id, (socket, family) in sockets.items():
        known = found.get(id(socket), SocketOutlook(socket))
        if family is AF_INET:
            mapping = known.mapping
        candidates += [LocalCandidate(Kind.HOST, each, socket_id) for each in outlook.hosts(socket)]
        if known.mapped is not None:
            candidates.append(LocalCandidate(Kind.MAPPED, known.mapped, socket_id))
        if known.outside is not None:
            candidates.append(LocalCandidate(Kind.OUTSIDE, known.outside, socket_id))
    return LocalView(
        sockets={socket_id: family for socket_id, (_, family) in sockets.items()},
        # The outside addresses are the likeliest: they must be among those that are announced.
        candidates=tuple(sorted(candidates, key=lambda each: _ORDER[each.kind])),
        mapping=mapping,
        networks=outlook.networks,
        relays=frozenset(relays),
    )


_ORDER = {Kind.OUTSIDE: 0, Kind.MAPPED: 1, Kind.HOST: 2, Kind.REFLEXIVE: 3}
