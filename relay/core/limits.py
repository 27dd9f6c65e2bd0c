"""How often one source may ask. A table of token buckets that cannot grow without bound."""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from relay.wire.address import Address

_IPV6_PREFIX = 64
"""Bits of an IPv6 address that name the site: whoever has one address has the whole /64."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """A steady rate, and how much may come at once."""

    per_minute: float = 120.0
    """Requests per minute and source, on average; a peer that lost its network makes a handful."""
    burst: int = 60
    """Requests at once: as many peers as may stand behind one NAT and reconnect together."""
    max_sources: int = 65_536
    """Sources remembered (about 200 bytes each); beyond it the one idle longest is forgotten."""

    @classmethod
    def of(cls, per_minute: int) -> "RateLimits":
        """So many a minute, and half of them at once."""
        return cls(per_minute, max(1, per_minute // 2))


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    rate: float
    burst: int

    def fill(self, now: float) -> float:
        """The tokens that it has now."""
        elapsed = max(0.0, now - self.at)
        return min(self.burst, self.tokens + elapsed * self.rate)


class RateLimiter:
    """One token bucket for each source."""

    def __init__(self, limits: RateLimits) -> None:
        """:raises ValueError: if a limit is not positive: nobody could ever ask."""
        if limits.per_minute <= 0 or limits.burst < 1 or limits.max_sources < 1:
            raise ValueError("a rate limit must be positive")
        self._limits = limits
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: str, now: float, own: RateLimits | None = None) -> float:
        """Ask once for `source`. Returns 0.0 if it may, else in how many seconds it may again.

        :param own: the limits of this source, if they are others than everybody's.
        """
        self._forget_idle(now)
        limits = own or self._limits
        rate, burst = limits.per_minute / 60.0, limits.burst
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._limits.max_sources:
                self._buckets.popitem(last=False)
            bucket = self._buckets[source] = _Bucket(burst, now, rate, burst)
        bucket.rate, bucket.burst = rate, burst
        bucket.tokens, bucket.at = bucket.fill(now), now
        self._buckets.move_to_end(source)
        if bucket.tokens < 1.0:
            return (1.0 - bucket.tokens) / rate
        bucket.tokens -= 1.0
        return 0.0

    def change(self, limits: RateLimits) -> None:
        """From now on these; what was used up stays so.

        :raises ValueError: if one is not positive.
        """
        RateLimiter(limits)
        self._limits = limits

    def _forget_idle(self, now: float) -> None:
        # A full bucket says no more than none at all. Two for each one that can come in: the
        # table shrinks back by itself, and no call pays for many.
        for _ in range(min(2, len(self._buckets))):
            source, bucket = next(iter(self._buckets.items()))
            if bucket.fill(now) < bucket.burst:
                return
            del self._buckets[source]


def source_of(address: Address) -> str:
    """Whom an address counts for: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in address.host:
        return address.host
    packed = ipaddress.IPv6Address(address.host).packed
    return packed[: _IPV6_PREFIX // 8].hex()
