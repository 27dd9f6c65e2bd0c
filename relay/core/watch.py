"""From the registry's changes to events that people understand. Pure: the clocks are arguments.

It follows the registry as a forwarder does, and knows of each registration what is still to be said
when that is gone: its name, where it was, and whose.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.wire.address import Address

from .events import Cause, Event, EventHub, EventKind
from .owner_index import OwnerIndex
from .registration import Registration
from .table import Change, ConnectionIdsAdded, OwnerMoved, OwnerRemoved
from .traffic import Traffic


class Observer(Protocol):
    """Whoever is told what happens at the relay's door. Nothing here may raise or take long."""

    def follow(self, changes: Sequence[Change], cause: Cause) -> None:
        """The registry has changed; `cause` says why whatever has ended has."""

    def renewed(self, owner: int) -> None:
        """The key of this owner's registration was shown, and it is not new."""

    def refused(self, reason: str, remote: Address | None, subject: str | None = None) -> None:
        """A request was refused."""


@dataclass(slots=True)
class _Known:
    name: str
    remote: Address
    subject: str | None


class Watch:
    """The `Observer` that publishes events and keeps the rows of `Traffic`."""

    def __init__(
        self,
        registrations: Mapping[int, Registration],
        hub: EventHub,
        traffic: Traffic,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """What there is already is nothing new: no events.

        :param registrations: by owner, as the registry has them at any time.
        :param clock: of `Traffic`; gives seconds.
        :param wall_clock: gives seconds since 1970.
        """
        self._registrations = registrations
        self._hub = hub
        self._traffic = traffic
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: dict[int, _Known] = {}
        self._owners_at = OwnerIndex[Address]()
        for owner, registration in registrations.items():
            self._learn(owner, registration)

    def follow(self, changes: Sequence[Change], cause: Cause) -> None:
        """See `Observer`."""
        for change in changes:
            match change:
                case OwnerMoved(owner, path):
                    self._moved(owner, path.remote)
                case OwnerRemoved(owner, _):
                    self._removed(owner, cause)
                case ConnectionIdsAdded():
                    pass

    def renewed(self, owner: int) -> None:
        """See `Observer`."""
        registration = self._registrations.get(owner)
        known = self._known.get(owner)
        if registration is not None and known is not None:
            known.name, known.subject = registration.id_hash, registration.subject
            self._publish(EventKind.RENEWED, known)

    def refused(self, reason: str, remote: Address | None, subject: str | None = None) -> None:
        """See `Observer`."""
        address = None if remote is None else str(remote)
        self._hub.refuse(reason, address, subject, self._wall_clock())

    def forwarded(self, source: Address, packets: int, bytes: int) -> None:
        """The workers have forwarded so much more from there.

        Of several registrations at one address, the one that came first stands for all.
        """
        owners = self._owners_at.get(source)
        if owners:
            self._traffic.add(owners[0], packets, bytes)

    def idle(self, owners: Iterable[int]) -> None:
        """Nothing is forwarded for these any more."""
        for owner in owners:
            known = self._known.get(owner)
            if known is not None:
                self._publish(EventKind.IDLE, known)

    def _learn(self, owner: int, registration: Registration) -> _Known:
        remote = registration.path.remote
        known = _Known(registration.id_hash, remote, registration.subject)
        self._known[owner] = known
        self._owners_at.add(remote, owner)
        self._traffic.begin(owner, self._clock())
        return known

    def _moved(self, owner: int, remote: Address) -> None:
        registration = self._registrations.get(owner)
        if registration is None:  # it is gone already: a later change says so
            return
        known = self._known.get(owner)
        if known is None:
            self._publish(EventKind.CREATED, self._learn(owner, registration))
            return
        known.name, known.subject = registration.id_hash, registration.subject
        before = known.remote
        if remote == before:
            return
        self._owners_at.discard(before, owner)
        self._owners_at.add(remote, owner)
        known.remote = remote
        self._publish(EventKind.MOVED, known, before=str(before))

    def _removed(self, owner: int, cause: Cause) -> None:
        known = self._known.pop(owner, None)
        if known is None:
            return
        self._owners_at.discard(known.remote, owner)
        self._traffic.end(owner)
        self._publish(EventKind.CLOSED, known, reason=cause.value)

    def _publish(
        self,
        kind: EventKind,
        known: _Known,
        *,
        reason: str | None = None,
        before: str | None = None,
    ) -> None:
        at, where = self._wall_clock(), str(known.remote)
        self._hub.publish(Event(kind, at, known.name, where, known.subject, reason, before))
