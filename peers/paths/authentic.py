"""From where packets of the pipe may come besides the relay: where an authentic probe came from."""

from collections import OrderedDict
from collections.abc import Callable

from relay.wire.address import Address

from .candidate import SocketId

Key = tuple[SocketId, Address]
"""A socket of ours, and where something came from."""

MAX_SOURCES = 16
LIFETIME_S = 60.0
"""Seconds since something came from there. A path in use is probed more often than that."""


class AuthenticSources:
    """See the module's text. Where there are too many the one not heard for longest goes."""

    def __init__(self) -> None:
        self._heard: OrderedDict[Key, float] = OrderedDict()  # the latest at the end

    def __contains__(self, key: Key) -> bool:
        return key in self._heard

    def add(self, key: Key, now: float) -> None:
        """An authentic probe came from there."""
        self._heard[key] = now
        self._heard.move_to_end(key)
        while len(self._heard) > MAX_SOURCES:
            self._heard.popitem(last=False)

    def refresh(self, key: Key, now: float) -> None:
        """A packet of the pipe did."""
        if key in self._heard:
            self.add(key, now)

    def expire(self, now: float, is_alive: Callable[[SocketId], bool]) -> None:
        """Forget those that are silent, or whose socket is closed."""
        for key, heard_at in list(self._heard.items()):
            if now - heard_at > LIFETIME_S or not is_alive(key[0]):
                del self._heard[key]
