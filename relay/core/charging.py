"""Who pays for what is forwarded, and how fast: accounts of subjects and of sources. Pure.

An account has a bucket at each forwarder (a worker, the kernel), of which each fills its own. Those
report what was taken; `share` then gives each its part of the account's rate, by what it needs, and
each account its part of the relay's own rate, max-min.
"""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from .admission import Grant
from .bucket import Charge, Used
from .sharing import allot
from .table import Change, OwnerCharged, OwnerMoved, OwnerRemoved

MeterId = Hashable
"""Names one forwarder."""

_HEADROOM = 1.25
"""Who was within his rate is thought to want so much more in the next moment."""
_FADES_S = 0.5
"""Seconds in which what somebody has sent counts for less and less (by the factor e) of what he is
thought to want: a pause of some tenths, his own or a busy machine's, costs him no packets."""
_FLOOR = 1 / 16
"""Of an account's rate, so much is for forwarders at which nothing came lately, together."""
_BEGINNERS = 16
"""Accounts that have sent nothing lately are given, at once, a part as if so many had."""
_CHANGE = 0.02
"""A rate that changes by less is not told."""
_FORGET_S = 1.0
"""Who has sent nothing for so long has sent nothing lately."""
_NONE = (0.0, 0.0, 0.0, 0.0)
_TOKEN, _SOURCE = "token ", "source "
_MAX_TOKENS = 200_000
"""Tokens whose use is remembered; beyond it the one that began first is forgotten."""


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """Rates in a second, of UDP payload and of packets; infinity: no limit."""

    bytes_per_s: float = math.inf
    packets_per_s: float = math.inf
    """In all, shared by those who send."""
    bytes_per_s_per_source: float = math.inf
    packets_per_s_per_source: float = math.inf
    bytes_per_s_per_token: float = math.inf
    packets_per_s_per_token: float = math.inf
    """Of a subject whose token says nothing else."""
    bytes_per_token: float = math.inf
    """In the life of a token that says nothing else."""

    @property
    def has_total(self) -> bool:
        """Whether all share a rate."""
        return not (math.isinf(self.bytes_per_s) and math.isinf(self.packets_per_s))


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays for a registration's packets."""

    source: str
    grant: Grant | None


@dataclass(slots=True)
class _Rate:
    """A pair, of bytes and of packets."""

    bytes: float = math.inf
    packets: float = math.inf


@dataclass(slots=True)
class _Account:
    number: int
    rate: _Rate
    takes_part: bool = True
    """In what all share: a subject does; a source does for those who came without a token."""
    token_id: str | None = None
    allowance: float = math.inf
    owners: int = 0
    used: dict[MeterId, list[float]] = field(default_factory=dict)
    """Since the last `share`: bytes, packets, and those that were dropped."""
    recent: dict[MeterId, list[float]] = field(default_factory=dict)
    """Bytes and packets a second that were let through lately."""
    active_at: float = -math.inf
    is_changed: bool = True
    """Since its rates were told."""
    told: dict[MeterId, Charge] = field(default_factory=dict)
    part: _Rate = field(default_factory=_Rate)
    """Of the relay's own rate, as last shared."""


class Charging:
    """All accounts of one relay. Nothing is kept, and nothing told, while no limit is set."""

    def __init__(self, limits: ForwardLimits, payer_of: Callable[[int], Payer | None]) -> None:
        """`payer_of` says who pays for an owner; None: there is no such owner (any more)."""
        self._limits = limits
        self._payer_of = payer_of
        self._meters: tuple[MeterId, ...] = ()
        self._accounts: dict[str, _Account] = {}
        self._by_number: dict[int, _Account] = {}
        self._free: deque[int] = deque()  # the longest free first: a late report is nobody's
        self._keys_by_owner: dict[int, tuple[str, ...]] = {}
        self._active: dict[int, _Account] = {}
        self._tokens: dict[str, float] = {}  # bytes that were forwarded by each
        self._shared_at = -math.inf

    @property
    def is_active(self) -> bool:
        """Whether there is anything to be shared or counted."""
        return bool(self._accounts)

    def set_meters(self, meters: Sequence[MeterId]) -> None:
        """These forward from now on."""
        self._meters = tuple(meters)
        for account in self._accounts.values():
            account.told.clear()
            account.recent.clear()

    def follow(self, changes: Sequence[Change]) -> list[Change]:
        """The registry's changes, and what they mean for who pays."""
        followed: list[Change] = []
        for change in changes:
            followed.append(change)
            match change:
                case OwnerMoved(owner, _):
                    followed.extend(self._charge(owner))
                case OwnerRemoved(owner, _):
                    self._release(self._keys_by_owner.pop(owner, ()))
        return followed

    def change_limits(self, limits: ForwardLimits) -> None:
        """From now on these; `revisit` then tells the forwarders, owner by owner."""
        self._limits = limits

    def revisit(self, owners: Iterable[int]) -> list[Change]:
        """What the present limits mean for these owners, where that is not known yet."""
        return [change for owner in owners for change in self._charge(owner)]

    def describe(self, owner: int) -> list[Change]:
        """For a forwarder that hears of this owner for the first time."""
        keys = self._keys_by_owner.get(owner, ())
        if not keys:
            return []
        return [OwnerCharged(owner, tuple(self._first_charge(self._accounts[k]) for k in keys))]

    def used(self, meter: MeterId, reports: Iterable[Used], now: float) -> None:
        """A forwarder reports."""
        for bucket, size, packets, dropped_size, dropped_packets in reports:
            account = self._by_number.get(bucket)
            if account is None:
                continue  # it is gone meanwhile
            sums = account.used.setdefault(meter, [0.0] * 4)
            for index, more in enumerate((size, packets, dropped_size, dropped_packets)):
                sums[index] += more
            account.active_at = now
            self._active[bucket] = account
            if account.token_id is not None:
                self._tokens[account.token_id] = self._tokens.get(account.token_id, 0.0) + size
                while len(self._tokens) > _MAX_TOKENS:
                    del self._tokens[next(iter(self._tokens))]

    def share(self, now: float) -> dict[MeterId, list[Charge]]:
        """New rates, where they have changed; to be called some ten times a second."""
        elapsed = max(1e-3, min(1.0, now - self._shared_at))
        self._shared_at = now
        for number, account in list(self._active.items()):
            if account.active_at <= now - _FORGET_S and not account.is_changed:
                account.recent.clear()
                del self._active[number]
        active = list(self._active.values())
        kept = math.exp(-elapsed / _FADES_S)
        for account in active:
            self._remember(account, elapsed, kept)
        if self._limits.has_total:
            self._share_total([each for each in active if each.takes_part])
        told: dict[MeterId, list[Charge]] = {}
        for account in active:
            for meter, charge in zip(self._meters, self._split(account), strict=True):
                if _differs(account.told.get(meter), charge):
                    account.told[meter] = charge
                    told.setdefault(meter, []).append(charge)
            account.used.clear()
            account.is_changed = False
        return told

    def is_used_up(self, grant: Grant) -> bool:
        """Whether all that this token permits was forwarded already."""
        return self._tokens.get(grant.token_id, 0.0) >= self._allowance(grant)

    # Who pays.

    def _charge(self, owner: int) -> list[Change]:
        payer = self._payer_of(owner)
        if payer is None:
            return []
        keys = tuple(self._keys(payer))
        before = self._keys_by_owner.get(owner, ())
        if keys:
            self._keys_by_owner[owner] = keys
        else:
            self._keys_by_owner.pop(owner, None)
        for key in keys:
            self._open(key, payer).owners += 1
        self._release(before)
        if keys == before:
            return []
        charges = tuple(self._first_charge(self._accounts[key]) for key in keys)
        return [OwnerCharged(owner, charges)]

    def _keys(self, payer: Payer) -> Iterable[str]:
        limits, grant = self._limits, payer.grant
        if grant is not None:
            rate, allowance = self._token_rate(grant), self._allowance(grant)
            if limits.has_total or not math.isinf(min(rate.bytes, rate.packets, allowance)):
                yield _TOKEN + grant.subject
        of_source = min(limits.bytes_per_s_per_source, limits.packets_per_s_per_source)
        if not math.isinf(of_source) or (limits.has_total and grant is None):
            yield _SOURCE + payer.source

    def _open(self, key: str, payer: Payer) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            number = self._free.popleft() if self._free else len(self._accounts) + 1
            account = _Account(number, _Rate())
            self._accounts[key] = self._by_number[number] = account
        is_token = key.startswith(_TOKEN)
        account.takes_part = is_token or payer.grant is None
        if is_token and payer.grant is not None:
            account.rate = self._token_rate(payer.grant)
            account.token_id = payer.grant.token_id
            account.allowance = self._allowance(payer.grant)
        else:
            limits = self._limits
            account.rate = _Rate(limits.bytes_per_s_per_source, limits.packets_per_s_per_source)
        self._active[account.number] = account
        account.is_changed = True
        return account

    def _release(self, keys: Iterable[str]) -> None:
        for key in keys:
            account = self._accounts[key]
            account.owners -= 1
            if not account.owners:
                del self._accounts[key]
                del self._by_number[account.number]
                self._active.pop(account.number, None)
                self._free.append(account.number)

    def _token_rate(self, grant: Grant) -> _Rate:
        limits = self._limits
        return _Rate(
            grant.limits.bytes_per_s or limits.bytes_per_s_per_token,
            grant.limits.packets_per_s or limits.packets_per_s_per_token,
        )

    def _allowance(self, grant: Grant) -> float:
        return grant.limits.bytes or self._limits.bytes_per_token

    # How fast.

    def _first_charge(self, account: _Account) -> Charge:
        """For a forwarder of which nothing is known: an equal part."""
        if self._is_used_up(account):
            return Charge(account.number, 0.0, account.rate.packets)
        size, packets = account.rate.bytes, account.rate.packets
        if account.takes_part:
            beginners = min(len(self._accounts), _BEGINNERS + len(self._active))
            size = min(size, self._limits.bytes_per_s / beginners)
            packets = min(packets, self._limits.packets_per_s / beginners)
        parts = max(1, len(self._meters))
        return Charge(account.number, size / parts, packets / parts)

    def _remember(self, account: _Account, elapsed: float, kept: float) -> None:
        """What was used since the last `share` becomes part of what was used lately.

        :param kept: the share of what was used before that still counts.
        """
        for meter in self._meters:
            used = account.used.get(meter, _NONE)
            before = account.recent.get(meter, _NONE)
            account.recent[meter] = [max(used[k] / elapsed, kept * before[k]) for k in (0, 1)]

    def _share_total(self, accounts: Sequence[_Account]) -> None:
        """Give each account its part of the relay's own rate."""
        limits = self._limits
        size = self._allotted(accounts, limits.bytes_per_s, 0)
        packets = self._allotted(accounts, limits.packets_per_s, 1)
        for account, *part in zip(accounts, size, packets, strict=True):
            account.part = _Rate(*part)

    def _allotted(self, accounts: Sequence[_Account], total: float, kind: int) -> list[float]:
        caps = [each.rate.packets if kind else each.rate.bytes for each in accounts]
        wanted = [sum(_wanted(each, meter, kind) for meter in self._meters) for each in accounts]
        # One that has just come, or has stopped, wants a beginner's part.
        least = total / (_BEGINNERS + len(accounts)) if accounts else 0.0
        return allot(total, caps, [max(each, least) for each in wanted])

    def _split(self, account: _Account) -> list[Charge]:
        if self._is_used_up(account):
            shut = Charge(account.number, 0.0, account.rate.packets)
            return [shut] * len(self._meters)
        shares = account.takes_part and self._limits.has_total
        part = account.part if shares else _Rate()
        size = min(account.rate.bytes, part.bytes)
        packets = min(account.rate.packets, part.packets)
        sizes = self._split_one(account, size, 0)
        counts = self._split_one(account, packets, 1)
        return [Charge(account.number, *both) for both in zip(sizes, counts, strict=True)]

    def _split_one(self, account: _Account, total: float, kind: int) -> Sequence[float]:
        parts = len(self._meters)
        if math.isinf(total) or parts == 1:
            return [total] * parts
        wanted = [_wanted(account, meter, kind) for meter in self._meters]
        floor = total * _FLOOR / parts
        left = total - floor * parts
        return [floor + share for share in allot(left, [left] * parts, wanted)]

    def _is_used_up(self, account: _Account) -> bool:
        token = account.token_id
        return token is not None and self._tokens.get(token, 0.0) >= account.allowance


def _wanted(account: _Account, meter: MeterId, kind: int) -> float:
    """What somebody is thought to want of a forwarder in a second; infinity if he did not get what
    he wanted.

    :param kind: 0 for bytes, 1 for packets.
    """
    if account.used.get(meter, _NONE)[2 + kind]:
        return math.inf
    return _HEADROOM * account.recent.get(meter, _NONE)[kind]


def _differs(before: Charge | None, now: Charge) -> bool:
    if before is None:
        return True
    return any(
        old != new and (math.isinf(old) or math.isinf(new) or abs(new - old) > _CHANGE * old)
        for old, new in zip(before[1:], now[1:], strict=True)
    )
