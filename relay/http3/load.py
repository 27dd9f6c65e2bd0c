"""How many requests the application works on, over all connections."""

from collections import Counter

from relay.http3.limits import Http3Limits
from relay.http3.report import Failure


class RequestLoad:
    """How many requests of all connections the application works on."""

    def __init__(self) -> None:
        self.running = 0
        self._by_source = Counter[str]()

    def why_full(self, source: str, limits: Http3Limits) -> Failure | None:
        """The bound that forbids one more; None if none does."""
        if self.running >= limits.max_requests_in_all:
            return Failure.TOO_MANY_REQUESTS
        if self._by_source[source] >= limits.max_requests_per_source:
            return Failure.TOO_MANY_OF_SOURCE
        return None

    def add(self, source: str, count: int) -> None:
        """One begins (1), or ends (-1)."""
        self.running += count
        self._by_source[source] += count
        if not self._by_source[source]:
            del self._by_source[source]
