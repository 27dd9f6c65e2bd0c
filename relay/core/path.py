"""The way between the relay and one peer."""

from typing import NamedTuple

from relay.wire.address import Address


class Path(NamedTuple):
    """Where a peer is reached: its address, and the relay's own that it registered at."""

    remote: Address
    listener: int
    """Index of the relay's listener in its configuration."""
    local: str
    """The relay's IP address that the peer sends to (one of several on a wildcard listener)."""
