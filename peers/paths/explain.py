"""What the agent is about, in words."""

from .birthday import BirthdayProbing, Phase
from .search import Search


def describe_search(
    search: Search, birthday: BirthdayProbing, *, obstacle: str, is_direct: bool, now: float
) -> str:
    """One line: what is tried now, when next, or why nothing is.

    :param obstacle: why no search is possible at all; empty: it is.
    """
    if obstacle:
        return obstacle
    if birthday.is_active:
        return f"birthday probing: {birthday.phase.value}, {birthday.sent} probes sent"
    if search.round is not None:
        return f"round {search.round.number}"
    if is_direct:
        return "none needed"
    tried = _describe_birthday(birthday)
    if search.gave_up:
        return search.gave_up + tried
    next_at = search.next_round_at()
    if next_at is None:
        return "waiting for the other end" + tried
    return f"next round in {max(0.0, next_at - now):.1f} s" + tried


def _describe_birthday(birthday: BirthdayProbing) -> str:
    if birthday.phase is Phase.IDLE:
        return ""
    return f"; birthday probing: {birthday.phase.value}, {birthday.sent} probes sent"
