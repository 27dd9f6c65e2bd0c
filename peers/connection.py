"""What an endpoint drives: a QUIC connection seen from the socket, and the routes that lead to it.

The endpoint owns the socket and the clock; a connection never touches either. Times are those of
the event loop (`loop.time()`), in seconds.
"""

from typing import Protocol


class Connection(Protocol):
    """A connection over an endpoint's socket. None of these methods raises for what comes in."""

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take one UDP payload. Nothing is reported to the application before `process`."""

    def process(self, now: float) -> None:
        """After a batch of datagrams or a timer: handle events, wake whoever waits."""

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """The UDP payloads to send now, in order. Empty while the connection is muted."""

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called, in loop time; None: no timer."""

    def handle_timer(self, now: float) -> None:
        """The time of `next_timer` has come. `process` and `datagrams_to_send` follow."""


class Routes(Protocol):
    """Where a connection says which destination connection IDs lead to it."""

    def add(self, connection_id: bytes) -> None:
        """From now on datagrams with this destination connection ID are for the connection."""

    def discard(self, connection_id: bytes) -> None:
        """They no longer are. One that was never added is ignored."""
