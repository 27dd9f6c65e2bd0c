"""Finding out, as it goes, what `Outlook` says. docs/protocol.md §12.

One discovery for each link to a relay, shared by all its pipes. It begins with the first who wants
to know, and ends with the link: port mappings are removed then. Nobody waits for it.
"""

from collections.abc import Callable

from ..link.link import RelayLink
from ..network import DatagramSocket
from .outlook import Outlook

OnOutlook = Callable[[Outlook], None]
"""Called with what is known, in the loop's next turn, and again whenever that changes."""


class Watch:
    """Somebody's interest in the outlook. Made by `discover`; ended by `stop`."""

    def __init__(self, link: RelayLink, on_outlook: OnOutlook) -> None:
        self._link = link
        self._on_outlook = on_outlook

    @property
    def outlook(self) -> Outlook:
        """What is known now."""
        return Outlook()

    def add(self, socket: DatagramSocket) -> None:
        """Find out about this socket, too: one of the family that the way to the relay has not.

        It must be a socket of the link's endpoint. It is forgotten when it is closed, by `remove`.
        """

    def remove(self, socket: DatagramSocket) -> None:
        """The socket is closed, or of no interest any more."""

    def stop(self) -> None:
        """No longer call `on_outlook`. A second call does nothing."""


def discover(link: RelayLink, on_outlook: OnOutlook) -> Watch:
    """Begin, unless somebody has; never blocks, and never raises for what the network does.

    `on_outlook` is called in the event loop: local addresses at once, the outside address as soon
    as the link knows it, the mapping a few round trips later, a port mapping after up to seconds.
    The link's current socket is always among `Outlook.sockets`.
    """
    return Watch(link, on_outlook)
