"""Saying that a connection is closed, to an end that never acknowledges it (RFC 9000 §10.2)."""

_TIMES = 3
_MOST_ANSWERS = 8
"""How often we repeat it to whoever goes on sending; more would let two ends play ping-pong."""


class Farewell:
    """The datagrams with CONNECTION_CLOSE, and when to repeat them in the closing period.

    Without repetition a single lost datagram would leave the other end waiting until its idle
    timeout. The period lasts three probe timeouts; aioquic keeps that time.
    """

    def __init__(self, datagrams: list[bytes], now: float, probe_timeout_s: float) -> None:
        """They have been sent once, now."""
        self._datagrams = datagrams
        self._times = [now + n * probe_timeout_s for n in range(1, _TIMES)]
        self._answers = 0

    def answer(self, now: float) -> None:
        """Something came in spite of it: repeat it at once (RFC 9000 §10.2.1), within a bound."""
        if self._answers < _MOST_ANSWERS:
            self._answers += 1
            self._times.insert(0, now)

    def next_at(self) -> float:
        """When it is to be repeated next; infinity: never."""
        return self._times[0] if self._times else float("inf")

    def due(self, now: float) -> list[bytes]:
        """What is to be sent now."""
        due = sum(when <= now for when in self._times)
        del self._times[:due]
        return list(self._datagrams) if due else []
