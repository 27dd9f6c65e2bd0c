"""What `quicpipe-relay top` shows, as lines of text. Pure."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

_BIT_UNITS = ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_REASONS = 6
_BARS = " ▁▂▃▄▅▆▇█"

COLUMNS = (
    ("ID", 8, "<"),
    ("ADDRESS", 21, "<"),
    ("SUBJECT", 14, "<"),
    ("BY", 6, "<"),
    ("RATE", 11, ">"),
    ("PACKETS/S", 9, ">"),
    ("BYTES", 8, ">"),
    ("IDS", 5, ">"),
    ("SEEN", 6, ">"),
    ("HELD", 5, "<"),
)
"""Name, width and alignment; those that do not fit are left out."""


def lines(
    overview: Json,
    history: Sequence[Json],
    registrations: Sequence[Json],
    *,
    order: str,
    width: int,
    height: int,
) -> list[str]:
    """At most `height` lines of at most `width` characters; the first of the table is `HEAD`."""
    shown = [*_summary(overview, history, width), "", *_reasons(overview, width), ""]
    shown.append(_row([name for name, _, _ in COLUMNS], width))
    shown += [_row(_cells(each, overview["at"]), width) for each in registrations]
    if not registrations:
        shown.append("no registrations"[:width])
    left_out = overview["registrations"] - len(registrations)
    if len(shown) > height or left_out > 0:
        kept = shown[: max(0, height - 1)]
        table = len(shown) - len(registrations)
        missing = overview["registrations"] - max(0, len(kept) - table)
        shown = [*kept, f"… {missing:,} more; the first by {order.replace('_', ' ')}"]
    return [clean(line)[:width] for line in shown[:height]]


def head_of(shown: Sequence[str]) -> int | None:
    """Which line is the table's head."""
    return next((at for at, line in enumerate(shown) if line.startswith("ID ")), None)


def clean(text: str) -> str:
    """Without anything that a terminal would act on: a subject is whatever a token says."""
    return "".join(each if each.isprintable() else "?" for each in text)


def scaled(value: float, units: Sequence[str]) -> str:
    """With a unit, three digits."""
    unit = 0
    while value >= 1000 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[unit]}"


def bits(bytes_per_s: float) -> str:
    """A rate."""
    return scaled(bytes_per_s * 8, _BIT_UNITS)


def spark(values: Sequence[float], width: int) -> str:
    """A row of bars, the newest at the right."""
    values = values[-width:] if width > 0 else []
    most = max(values, default=0.0)
    if most <= 0:
        return " " * len(values)
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in values)


def _summary(now: Json, history: Sequence[Json], width: int) -> list[str]:
    state = "running" if now["status"] == "ok" else "DRAINING: nothing new is taken"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(now["started"]))
    http3, limits = now["http3"], now["limits"]
    by_kernel = now["kernel_packets"]
    share = "" if by_kernel is None else f", {by_kernel / max(1, now['packets']):.0%} by the kernel"
    drops = sum(now["drops_per_s"].values())
    rates = [step["bytes_per_s"] for step in history]
    return [
        f"quicpipe-relay: {state}, since {since}",
        f"throughput     {bits(now['bytes_per_s']):>12}  {now['packets_per_s']:,.0f} packets/s; "
        f"in all {scaled(now['bytes'], _BYTE_UNITS)}{share}",
        f"               {spark(rates, max(0, min(width - 16, 120)))}",
        f"registrations  {now['registrations']:>12,}  of {limits['registrations']:,}; "
        f"{now['connection_ids']:,} of {limits['connection_ids']:,} connection IDs",
        f"dropped        {drops:>10,.0f}/s  {sum(now['drops'].values()):,} since the start",
        f"refused        {sum(now['refused'].values()):>12,}  requests since the start; "
        f"{http3['connections']:,} HTTP/3 connections, {http3['half_open']:,} half open",
    ]


def _reasons(now: Json, width: int) -> list[str]:
    reasons = list(now["drops"].items())
    reasons += [(f"refused: {reason}", count) for reason, count in now["refused"].items()]
    reasons.sort(key=lambda each: -each[1])
    rates = now["drops_per_s"]
    return [
        f"  {count:>13,}  {reason.replace('_', ' ')}"
        + (f"  ({rates[reason]:,.0f}/s)" if rates.get(reason) else "")
        for reason, count in reasons[:_REASONS]
    ]


def _cells(one: Json, now: float) -> list[str]:
    return [
        str(one["id"])[:8],
        str(one["address"]),
        "-" if one["subject"] is None else str(one["subject"]),
        "kernel" if one["forwarded_by"] == "kernel" else "user",
        bits(one["bytes_per_s"]),
        f"{one['packets_per_s']:,.0f}",
        scaled(one["bytes"], _BYTE_UNITS),
        f"{one['connection_ids']:,}",
        _ago(now - one["last_seen"]),
        "yes" if one["held"] else "lease",
    ]


def _row(cells: Sequence[str], width: int) -> str:
    row = ""
    for cell, (_, size, align) in zip(cells, COLUMNS, strict=True):
        piece = f"{clean(cell)[:size]:{align}{size}}"
        if row and len(row) + 1 + len(piece) > width:
            break
        row += (" " if row else "") + piece
    return row.rstrip()


def _ago(seconds: float) -> str:
    for limit, divisor, unit in ((99.5, 1, "s"), (5940, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(0.0, seconds) / divisor:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"
