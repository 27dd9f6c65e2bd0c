"""How much one relay takes on: in all, of one peer, and of one source. Says no by exceptions."""

from dataclasses import dataclass
from typing import NamedTuple

from relay.wire.address import Address

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
    max_connection_ids_per_registration: int = 4096
    max_registrations_per_peer: int = 64
    """One HTTP/3 connection holds, and one address has, at most so many: when it moves, or is heard
    of, each of them is touched."""
    retry_after_s: float = 30.0
    """What a refused client is told to wait, in seconds: leases end all the time."""


class RegistrationRefused(Exception):
    """The relay does not take the registration."""


class ConnectionIdTaken(RegistrationRefused):
    """A connection ID of this key is held by another key."""


class RegistryFull(RegistrationRefused):
    """A limit is reached; `retry_after_s` says when to try again, in seconds."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class _Use(NamedTuple):
    registrations: int
    connection_ids: int


_NONE = _Use(0, 0)


class SourceQuota:
    """What each source has (see `limits.source_of`). It remembers those only that have something.

    A registration counts for one source. When its peer moves, it counts for the new source if there
    is room, else still for the old one: so no move is refused, and yet whoever has two sources gets
    two shares and no more, however often the registrations are moved to and fro.
    """

    def __init__(self, limits: RegistryLimits) -> None:
        self._limits = limits
        self._uses: dict[str, _Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

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
        limits = self._limits
        raise RegistryFull(
            f"one source has at most {limits.max_registrations_per_source} registrations and "
            f"{limits.max_connection_ids_per_source} connection IDs, and yours has no room for "
            "this; end some, or let them expire",
            limits.retry_after_s,
        )

    def add(self, source: str, registrations: int, connection_ids: int) -> None:
        """Count more for a source, or less if the numbers are negative."""
        use = self._uses.get(source, _NONE)
        now = _Use(use.registrations + registrations, use.connection_ids + connection_ids)
        if now == _NONE:
            self._uses.pop(source, None)
        else:
            self._uses[source] = now

    def _has_room(self, source: str, registrations: int, connection_ids: int) -> bool:
        use, limits = self._uses.get(source, _NONE), self._limits
        return (
            use.registrations + registrations <= limits.max_registrations_per_source
            and use.connection_ids + connection_ids <= limits.max_connection_ids_per_source
        )
