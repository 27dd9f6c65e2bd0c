"""How much one relay takes on: in all, of one peer, source and token. Says no by exceptions."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from relay.wire.address import Address

from .admission import Grant
from .limits import source_of


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """How much one relay takes on."""

    lease_s: float = 180.0
    """Seconds; the original's dialer is silent for up to 60 s while it waits, and never renews."""
    max_registrations: int = 100_000
    max_connection_ids: int = 1_000_000
    """In all registrations together."""
    max_registrations_per_source: int = 2_000
    """Of one IPv4 address or IPv6 /64, which may be a whole site behind its NAT."""
    max_connection_ids_per_source: int = 50_000
    """In all of these together: 25 for each; no source alone keeps the others out."""
    max_registrations_per_token: int = 64
    """Of one subject, whose tokens say nothing else."""
    max_connection_ids_per_token: int = 4_096
    """In all of these together."""
    max_connection_ids_per_registration: int = 4096
    max_registrations_per_peer: int = 64
    """One HTTP/3 connection holds, and one address has, at most so many: when it moves, or is heard
    of, each of them is touched."""
    retry_after_s: float = 30.0
    """What a refused client is told to wait, in seconds: leases end all the time."""


class RegistryRefusal(StrEnum):
    """Why a registration was not taken. The value is its name in every report."""

    CID_TAKEN = "cid_taken"
    """Another key holds one of its connection IDs."""
    TOKEN_EXPIRED = "token_expired"
    """It would be a new one, but the token that came with it is over."""
    LEAVING = "relay_leaving"
    """The relay drains, or hands over."""
    FULL = "registrations_full"
    CIDS_FULL = "cids_full"
    CIDS_OF_REGISTRATION_FULL = "cids_of_registration_full"
    PEER_FULL = "registrations_of_peer_full"
    SOURCE_FULL = "registrations_of_source_full"
    """Or its connection IDs."""
    TOKEN_FULL = "registrations_of_token_full"
    TOKEN_CIDS_FULL = "cids_of_token_full"
    ALLOWANCE_USED = "allowance_used"
    """All that the token permits to be forwarded was forwarded."""


class RegistrationRefused(Exception):
    """The relay does not take the registration."""

    def __init__(self, what: str, reason: RegistryRefusal) -> None:
        super().__init__(what)
        self.reason = reason


class ConnectionIdTaken(RegistrationRefused):
    """A connection ID of this key is held by another key."""

    def __init__(self, what: str) -> None:
        super().__init__(what, RegistryRefusal.CID_TAKEN)


class TokenOver(RegistrationRefused):
    """The token has expired, and there is no registration that could go on with it."""

    def __init__(self) -> None:
        super().__init__("the token has expired: ask for a new one", RegistryRefusal.TOKEN_EXPIRED)


class RegistryFull(RegistrationRefused):
    """A limit is reached; `retry_after_s` says when to try again, in seconds."""

    def __init__(self, what: str, reason: RegistryRefusal, retry_after_s: float) -> None:
        super().__init__(what, reason)
        self.retry_after_s = retry_after_s


class RelayLeaves(RegistrationRefused):
    """The relay is about to end, and takes nothing new; `retry_after_s` as in `RegistryFull`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            "this relay is about to end, and takes no new registrations", RegistryRefusal.LEAVING
        )
        self.retry_after_s = retry_after_s


class _Use(NamedTuple):
    registrations: int
    connection_ids: int


_NONE = _Use(0, 0)


class _Uses:
    """Who has how much. It remembers those only that have something."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def of(self, who: str) -> _Use:
        return self._uses.get(who, _NONE)

    def add(self, who: str | None, registrations: int, connection_ids: int) -> None:
        """Count more, or less if the numbers are negative; for None, nothing."""
        if who is None:
            return
        use = self.of(who)
        now = _Use(use.registrations + registrations, use.connection_ids + connection_ids)
        if now == _NONE:
            self._uses.pop(who, None)
        else:
            self._uses[who] = now


class SourceQuota(_Uses):
    """What each source has (see `limits.source_of`).

    A registration counts for one source. When its peer moves, it counts for the new source if there
    is room, else still for the old one: so no move is refused, and yet whoever has two sources gets
    two shares and no more, however often the registrations are moved to and fro.
    """

    def __init__(self, limits: RegistryLimits) -> None:
        super().__init__()
        self.limits = limits

    def choose(self, remote: Address, before: str | None, held: int, more: int) -> str:
        """The source that a registration at `remote` is to count for; changes nothing.

        :param before: the one it counts for now; None if it is new.
        :param held: the connection IDs that it has.
        :param more: those that it is to have besides.
        :raises RegistryFull: there is no room for it, or for more; never if `more` is 0 and it is
            not new.
        """
        here = source_of(remote)
        if before != here and self._has_room(here, 1, held + more):
            return here
        if before is not None and (not more or self._has_room(before, 0, more)):
            return before
        limits = self.limits
        raise RegistryFull(
            f"one source has at most {limits.max_registrations_per_source} registrations and "
            f"{limits.max_connection_ids_per_source} connection IDs, and yours has no room for "
            "this; end some, or let them expire",
            RegistryRefusal.SOURCE_FULL,
            limits.retry_after_s,
        )

    def _has_room(self, source: str, registrations: int, connection_ids: int) -> bool:
        use, limits = self.of(source), self.limits
        return (
            use.registrations + registrations <= limits.max_registrations_per_source
            and use.connection_ids + connection_ids <= limits.max_connection_ids_per_source
        )


class TokenQuota(_Uses):
    """What each subject has: what came by its tokens, and was shown none of another since."""

    def __init__(self, limits: RegistryLimits) -> None:
        super().__init__()
        self.limits = limits

    def check(self, grant: Grant, before: str | None, held: int, more: int) -> None:
        """See whether a registration may count for this grant's subject; changes nothing.

        :param before: the subject that it counts for now, if any.
        :param held: the connection IDs that it has.
        :param more: those that it is to have besides.
        :raises RegistryFull: there is no room for it, or for more.
        """
        is_new = before != grant.subject
        if not is_new and not more:
            return
        use, limits = self.of(grant.subject), self.limits
        most = grant.limits.registrations or limits.max_registrations_per_token
        if is_new and use.registrations >= most:
            raise RegistryFull(
                f"your token permits {most} registrations at a time; end some, or let them expire",
                RegistryRefusal.TOKEN_FULL,
                limits.retry_after_s,
            )
        most = grant.limits.connection_ids or limits.max_connection_ids_per_token
        if use.connection_ids + more + (held if is_new else 0) > most:
            raise RegistryFull(
                f"your token permits {most} connection IDs in all your registrations; end some, "
                "or let them expire",
                RegistryRefusal.TOKEN_CIDS_FULL,
                limits.retry_after_s,
            )


def check_room(
    limits: RegistryLimits, registrations: int, connection_ids: int, held: int | None, more: int
) -> None:
    """See whether the relay has room for `more` connection IDs.

    :param registrations: that there are in all; `connection_ids` likewise.
    :param held: the connection IDs of the registration already; None: it is a new one.
    :raises RegistryFull: it has not.
    """
    if held is None and registrations >= limits.max_registrations:
        raise RegistryFull(
            "the relay has no room for more registrations",
            RegistryRefusal.FULL,
            limits.retry_after_s,
        )
    if (held or 0) + more > limits.max_connection_ids_per_registration:
        raise RegistryFull(
            f"one registration has at most {limits.max_connection_ids_per_registration} "
            f"connection IDs; this one has {held or 0}",
            RegistryRefusal.CIDS_OF_REGISTRATION_FULL,
            limits.retry_after_s,
        )
    if connection_ids + more > limits.max_connection_ids:
        raise RegistryFull(
            "the relay has no room for more connection IDs",
            RegistryRefusal.CIDS_FULL,
            limits.retry_after_s,
        )
