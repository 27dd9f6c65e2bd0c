"""Plots as SVG, written by hand: bars for capacity, lines for latency against load."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from bench.forwarders import TITLES
from bench.measure import Result

WIDTH = 800
COLOURS = {
    "none": "#9aa0a6",
    "c": "#5f6368",
    "c-gro": "#5f6368",
    "coturn": "#c58b00",
    "plain": "#7fb3d5",
    "batch": "#1a5fb4",
    "xdp": "#26a269",
}
_FONT = 'font-family="sans-serif" font-size="12"'
_BAR = 18
_LABELS = 250
_LEFT, _TOP, _BOTTOM, _RIGHT = 70, 40, 50, 270


def bars(title: str, results: Sequence[Result]) -> str:
    """Packets/s of each forwarder, in groups by scenario; the thin line is the range."""
    most = max(sample.per_second for each in results for sample in each.samples)
    scale = (WIDTH - _LABELS - 90) / most
    parts = [_text(10, 24, title, size=15)]
    y = 40
    conditions = None
    for each in results:
        scenario = each.scenario
        if scenario.conditions != conditions:
            conditions = scenario.conditions
            y += 22
            receiver = ", receiver with GRO" if scenario.receiver_gro else ""
            ids = "1 connection ID" if scenario.ids == 1 else f"{scenario.ids:,} connection IDs"
            parts.append(_text(10, y, f"{scenario.size} bytes, {ids}{receiver}"))
            y += 8
        values = [sample.per_second for sample in each.samples]
        low, high = (_LABELS + value * scale for value in (min(values), max(values)))
        middle = y + _BAR / 2
        parts += [
            _text(_LABELS - 8, middle + 4, TITLES[each.forwarder], anchor="end"),
            f'<rect x="{_LABELS}" y="{y}" width="{each.per_second * scale:.1f}" '
            f'height="{_BAR - 4}" fill="{COLOURS[each.forwarder]}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle - 2}" y2="{middle - 2}" '
            'stroke="#000"/>',
            _text(high + 6, middle + 3, f"{each.per_second:,.0f}"),
        ]
        y += _BAR
    return _document(y + 20, parts)


def lines(title: str, results: Sequence[Result]) -> str:
    """Latency against load, both axes logarithmic: p50, and dashed p99."""
    height = 420
    names = list(dict.fromkeys(each.forwarder for each in results))
    points = {
        (name, quantile): [
            (each.scenario.rate or 1.0, max(1.0, each.latency(quantile)))
            for each in results
            if each.forwarder == name
        ]
        for name in names
        for quantile in ("p50", "p99")
    }
    x = _Scale([rate for line in points.values() for rate, _ in line], _LEFT, WIDTH - _RIGHT)
    y = _Scale([delay for line in points.values() for _, delay in line], height - _BOTTOM, _TOP)
    parts = [_text(10, 24, f"{title}: p50, and dashed p99", size=15)]
    for rate in x.ticks():
        parts.append(_line(x(rate), _TOP, x(rate), height - _BOTTOM))
        parts.append(_text(x(rate), height - _BOTTOM + 18, f"{rate:,.0f}", anchor="middle"))
    for delay in y.ticks():
        parts.append(_line(_LEFT, y(delay), WIDTH - _RIGHT, y(delay)))
        parts.append(_text(_LEFT - 8, y(delay) + 4, f"{delay:,.0f}", anchor="end"))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, height - 12, "packets/s", anchor="middle"))
    parts.append(_text(_LEFT - 8, height - _BOTTOM + 18, "us", anchor="end"))
    for (name, quantile), line in points.items():
        path = " ".join(f"{x(rate):.1f},{y(delay):.1f}" for rate, delay in line)
        dashes = ' stroke-dasharray="2 4"' if quantile == "p99" else ""
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" '
            f'stroke-width="2"{dashes}/>'
        )
    for index, name in enumerate(names):
        at = _TOP + 20 + 20 * index
        parts.append(
            f'<rect x="{WIDTH - _RIGHT + 10}" y="{at - 9}" width="10" height="10" '
            f'fill="{COLOURS[name]}"/>'
        )
        parts.append(_text(WIDTH - _RIGHT + 26, at, TITLES[name]))
    return _document(height, parts)


class _Scale:
    """A logarithmic axis from pixel `start` to pixel `end`."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.log10(min(values)) - 0.05
        self._high = max(math.log10(max(values)) + 0.05, self._low + 0.1)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> Iterator[float]:
        for power in range(math.floor(self._low), math.ceil(self._high) + 1):
            for step in (1, 2, 5):
                value = step * 10.0**power
                if self._low <= math.log10(value) <= self._high:
                    yield value


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    font = _FONT if size == 12 else f'font-family="sans-serif" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {font}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        'stroke="#ddd" stroke-width="1"/>'
    )


def _document(height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
