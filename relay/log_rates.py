"""How often the same thing is logged: a client must not be able to fill a disk, nor to hide what
matters among its own lines.

The same thing is what the same call logs, whatever the values in it. Each may be said a few times
at once, and then every few seconds; the next line says how many were left out before it.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass

BURST = 20
"""Lines of one kind at once."""
INTERVAL_S = 5.0
"""Seconds in which one more may be said."""
MAX_KINDS = 512
"""Kinds that are remembered; libraries make up texts, and so kinds, of their own."""

Kind = tuple[str, int, str]
"""Logger, level, and the text without its values."""


@dataclass(slots=True)
class _Said:
    left: float
    """Of the burst."""
    at: float
    left_out: int = 0


class LogRates:
    """Decides which lines are said. Pure."""

    def __init__(self, burst: int = BURST, interval_s: float = INTERVAL_S) -> None:
        self._burst = burst
        self._interval_s = interval_s
        self._said: OrderedDict[Kind, _Said] = OrderedDict()

    def take(self, kind: Kind, now: float) -> int | None:
        """How many of this kind were left out before this line; None: it is left out, too.

        :param now: seconds, by any clock.
        """
        said = self._said.get(kind)
        if said is None:
            if len(self._said) >= MAX_KINDS:
                self._said.popitem(last=False)
            said = self._said[kind] = _Said(float(self._burst), now)
        self._said.move_to_end(kind)
        elapsed = max(0.0, now - said.at)
        said.left = min(float(self._burst), said.left + elapsed / self._interval_s)
        said.at = now
        if said.left < 1.0:
            said.left_out += 1
            return None
        said.left -= 1.0
        left_out, said.left_out = said.left_out, 0
        return left_out

    def take_left_out(self) -> dict[Kind, int]:
        """What was left out and not told of yet."""
        left_out = {kind: said.left_out for kind, said in self._said.items() if said.left_out}
        for kind in left_out:
            self._said[kind].left_out = 0
        return left_out


class RateFilter(logging.Filter):
    """Lets records through at these rates. What ends the program, and what was asked for, always;
    and what is for finding faults: who chooses the level `debug` wants it all."""

    def __init__(self, rates: LogRates, always: str) -> None:
        """:param always: the logger of what was asked for."""
        super().__init__()
        self._rates = rates
        self._always = always

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is logged."""
        is_free = record.levelno >= logging.CRITICAL or record.levelno <= logging.DEBUG
        if is_free or record.name == self._always:
            return True
        left_out = self._rates.take((record.name, record.levelno, str(record.msg)), record.created)
        if left_out is None:
            return False
        if left_out:
            fields = getattr(record, "fields", {})
            record.fields = {**fields, "not_logged_before": left_out}
        return True
