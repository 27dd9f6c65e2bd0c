"""Messages of the other end: read, counted, and no more of them than an honest one sends."""

from collections import Counter

from .allowance import Allowance
from .message import Candidates, Malformed, Message, Punch, parse

MESSAGES_BURST, MESSAGES_PER_S = 60, 5.0
PUNCHES_BURST, PUNCHES_PER_S = 10, 0.5
CANDIDATES_BURST, CANDIDATES_PER_S = 10, 0.5


class Inbox:
    """See the module's text."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._messages = Allowance(MESSAGES_BURST, MESSAGES_PER_S)
        self._punches = Allowance(PUNCHES_BURST, PUNCHES_PER_S)
        self._lists = Allowance(CANDIDATES_BURST, CANDIDATES_PER_S)
        self._candidates: Candidates | None = None

    def open(self, body: bytes, now: float) -> Message | None:
        """What it says; None: nothing to be done, or it was dropped and counted.

        A list of candidates is kept for `take_candidates`: of several only the latest counts.
        """
        if not self._messages.take(now):
            self.dropped["message: too many"] += 1
            return None
        message = parse(body)
        if isinstance(message, Malformed):
            self.dropped["message: malformed, or of a later version"] += 1
            return None
        if isinstance(message, Punch) and not self._punches.take(now):
            self.dropped["message: too many"] += 1
            return None
        if isinstance(message, Candidates):
            self._candidates = message
            return None
        return message

    def take_candidates(self, now: float) -> Candidates | None:
        """The latest list, if there is a new one and it is not too soon after the last ones."""
        if self._candidates is None or not self._lists.take(now):
            return None
        taken, self._candidates = self._candidates, None
        return taken

    def next_due(self, now: float) -> float | None:
        """When a list that waits may be taken."""
        return None if self._candidates is None else self._lists.when(now)
