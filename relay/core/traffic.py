"""What was forwarded for each registration, as columns by owner number. Pure.

A packet counts for its *sender*. Whoever forwards counts on: the workers tell what came to what
they told before, the kernel its totals. Once a second `sample` looks at all owners at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IDLE_AFTER_S = 60.0
"""Seconds in which nothing was forwarded for it, after which a registration is idle."""

_FIRST_ROWS = 1_024
_SMOOTHING = 0.5
"""Of the last second's rate in the rate that is shown."""

Column = NDArray[np.uint64]


class Count(NamedTuple):
    """Packets, and the bytes of their UDP payload."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Use:
    """What one registration has had forwarded."""

    userspace: Count
    kernel: Count
    packets_per_s: float
    bytes_per_s: float
    began: float
    """When it was first seen here, by the clock that `now` is of."""
    forwarded_at: float | None
    """When something was last forwarded for it, give or take a second; None: never."""

    @property
    def total(self) -> Count:
        """By whomever."""
        return Count(
            self.userspace.packets + self.kernel.packets, self.userspace.bytes + self.kernel.bytes
        )


class Traffic:
    """One row for each owner number."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []
        self._make(_FIRST_ROWS)
        self._used = 0
        self._sampled_at: float | None = None
        self.kernel_bytes = 0
        """Forwarded in the kernel in all, for those that are gone, too."""

    def begin(self, owner: int, now: float) -> None:
        """There is an owner of this number."""
        if owner >= len(self._in_use):
            self._make(max(2 * len(self._in_use), owner + 1))
        self._used = max(self._used, owner + 1)
        for each in self._arrays:
            each[..., owner] = 0
        self._in_use[owner] = True
        self._began[owner] = now
        self._forwarded_at[owner] = -np.inf

    def end(self, owner: int) -> None:
        """It is gone."""
        if owner < self._used:
            self._in_use[owner] = False
            self._rates[:, owner] = 0.0

    def add(self, owner: int, packets: int, bytes: int) -> None:
        """The workers have forwarded so much more for it."""
        if owner < self._used and self._in_use[owner]:
            self._userspace[0, owner] += np.uint64(packets)
            self._userspace[1, owner] += np.uint64(bytes)

    def set_kernel(self, packets: Column, bytes: Column) -> None:
        """What the kernel has counted of each owner, by number; it may know fewer of them.

        Where a number is less than before, the kernel has begun anew, and it counts from nought.
        """
        count = min(len(packets), len(bytes), self._used)
        told = np.stack((packets[:count], bytes[:count])).astype(np.uint64)
        before = self._kernel_told[:, :count]
        more = np.where(told >= before, told - before, told)
        more[:, ~self._in_use[:count]] = 0
        self._kernel[:, :count] += more
        self._kernel_told[:, :count] = told
        self.kernel_bytes += int(more[1].sum())
        # What was counted before we looked for the first time was not forwarded just now.
        new = ~self._kernel_known[:count]
        self._sampled[:, :count][:, new] += more[:, new]
        self._kernel_known[:count] = True

    def sample(self, now: float) -> list[int]:
        """See what came since the last sample; returns owners that have become idle."""
        used = self._used
        total = (self._userspace + self._kernel)[:, :used]
        more = total - self._sampled[:, :used]
        self._sampled[:, :used] = total
        since, self._sampled_at = self._sampled_at, now
        if since is not None and now > since:
            rates = self._rates[:, :used]
            rates += _SMOOTHING * (more / (now - since) - rates)
            rates[rates < 0.5] = 0.0
        active = more[0] > 0
        self._forwarded_at[:used][active] = now
        self._is_active[:used][active] = True
        idle = self._is_active[:used] & (now - self._forwarded_at[:used] >= IDLE_AFTER_S)
        self._is_active[:used][idle] = False
        owners: list[int] = np.flatnonzero(idle & self._in_use[:used]).tolist()
        return owners

    def use(self, owner: int) -> Use | None:
        """What one owner has had; None if there is no such owner."""
        if owner >= self._used or not self._in_use[owner]:
            return None
        forwarded_at = float(self._forwarded_at[owner])
        packets_per_s, bytes_per_s = self._rates[:, owner].tolist()
        return Use(
            Count(*self._userspace[:, owner].tolist()),
            Count(*self._kernel[:, owner].tolist()),
            packets_per_s,
            bytes_per_s,
            float(self._began[owner]),
            forwarded_at if forwarded_at > -np.inf else None,
        )

    def busiest(self, count: int, *, by: str = "bytes_per_s") -> list[int]:
        """Owners that have the most, most first.

        :param by: bytes_per_s, packets_per_s, bytes, packets, or began (the latest first).
        """
        used = self._used
        values = self._order(by)[:used]
        here = np.flatnonzero(self._in_use[:used])
        if len(here) > count:
            here = here[np.argpartition(-values[here], count - 1)[:count]]
        # Of those that have the same, the lower number first: so that a list does not jump.
        owners: list[int] = here[np.lexsort((here, -values[here]))].tolist()
        return owners

    def _order(self, by: str) -> NDArray[np.float64]:
        row = 0 if by.startswith("packets") else 1
        values: NDArray[np.float64]
        if by in ("bytes_per_s", "packets_per_s"):
            values = self._rates[row]
        elif by in ("bytes", "packets"):
            values = (self._userspace[row] + self._kernel[row]).astype(np.float64)
        elif by == "began":
            values = self._began
        else:
            raise ValueError(f"there is no order by {by}")
        return values

    def _make(self, rows: int) -> None:
        """Make all arrays anew with so many rows, and keep what they hold."""
        made: list[NDArray[Any]] = []
        for shape, kind in _SHAPES:
            made.append(np.zeros((*shape, rows), kind))
        for new, old in zip(made, self._arrays, strict=False):
            new[..., : old.shape[-1]] = old
        self._arrays = made
        self._in_use, self._is_active, self._kernel_known = made[:3]
        self._began, self._forwarded_at, self._rates = made[3:6]
        self._userspace, self._kernel, self._kernel_told, self._sampled = made[6:]


_PAIR = (2,)
"""Packets and bytes."""

_SHAPES: Sequence[tuple[tuple[int, ...], type]] = (
    *[((), np.bool_)] * 3,
    *[((), np.float64)] * 2,
    (_PAIR, np.float64),
    *[(_PAIR, np.uint64)] * 4,
)
"""As `Traffic._make` takes them."""
