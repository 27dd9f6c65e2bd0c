"""A rate shared fairly (max-min): nobody gets more than he asks for while another lacks it."""

import math
from collections.abc import Sequence


def max_min(total: float, wanted: Sequence[float]) -> list[float]:
    """Shares of `total`, in the order of `wanted`; each may want any amount, infinity too.

    Who wants less than an equal share gets what he wants; the rest is shared equally by the others.
    """
    shares = [0.0] * len(wanted)
    left, waiting = total, len(wanted)
    for index in sorted(range(len(wanted)), key=wanted.__getitem__):
        shares[index] = min(wanted[index], left / waiting)
        left -= shares[index]
        waiting -= 1
    return shares


def allot(total: float, caps: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """The same, but what nobody wants is given away too, equally, up to each one's cap: whoever
    wants more in a moment has room for it.

    :param caps: what each may have at most; infinity: anything.
    """
    if math.isinf(total):
        return list(caps)
    shares = max_min(total, [min(pair) for pair in zip(caps, wanted, strict=True)])
    spare = max(0.0, total - sum(shares))
    room = [cap - share for cap, share in zip(caps, shares, strict=True)]
    return [share + more for share, more in zip(shares, max_min(spare, room), strict=True)]
