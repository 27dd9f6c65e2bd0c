"""The relay's control: registrations, their leases, and the HTTP/3 server, over no socket at all.

`Control` is given datagrams that may be HTTP/3 and a way to send the answers; it tells forwarders
what changed. The processes and sockets are around it (relay/service.py), or a test is.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from relay.access import Access
from relay.app import create_app
from relay.certificate import ServerCertificate
from relay.core.admission import Grant
from relay.core.destinations import DestinationRefused
from relay.core.leases import LeaseSource
from relay.core.limits import RateLimits
from relay.core.path import Path
from relay.core.registry import HolderId, Record, Registry, RegistryLimits
from relay.core.rendezvous import RendezvousLimits
from relay.core.table import Change
from relay.forwarding.feed import StateSource
from relay.gate import Gate
from relay.http3.server import Http3Counters, Http3Limits, Http3Server
from relay.limits import Limits
from relay.rendezvous_app import RendezvousApp
from relay.requests import RegisterGuard
from relay.slots_app import SlotsApp
from relay.wire.address import Address
from relay.wire.registration import RegisterAnswer, RegisterRequest

logger = logging.getLogger(__name__)

_EXPIRIES_PER_TURN = 1000
"""Leases looked at in one turn of the event loop: a millisecond or two."""

_RETRY_S = 1.0
"""Seconds until the expiry is tried again, should it have failed."""


class Forwarder(Protocol):
    """Whoever forwards: the workers, the kernel, a table in a test."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the changes, in order; return at once and never raise."""


class Control:
    """Registry, HTTP/3 server and expiry timer. It is the application's `RegistrationService`."""

    def __init__(
        self,
        *,
        certificate: ServerCertificate,
        forwarders: Sequence[Forwarder],
        send: Callable[[bytes, Path], None],
        registry_limits: RegistryLimits | None = None,
        http3_limits: Http3Limits | None = None,
        rate_limits: RateLimits | None = None,
        access: Access | None = None,
        rendezvous_limits: RendezvousLimits | None = None,
        restored: Iterable[Record] = (),
        listeners: Sequence[Address] = (),
    ) -> None:
        """To be made and used in a running event loop; `start` before anything else.

        :param send: takes datagrams of HTTP/3; may drop them, never raises.
        :param rate_limits: requests of one source, whatever `access` says.
        :param restored: registrations of an earlier run of this relay.
        :param listeners: the relay's own addresses, which it tells peers.
        """
        self._loop = asyncio.get_running_loop()
        self._access = access = access or Access()
        self._gate = Gate(access.verifier, max_requests=access.requests_per_token)
        rate_limits = rate_limits or access.source_rate
        self._guard = RegisterGuard(rate_limits, access.token_rate, access.total_rate)
        self._refused = Counter[str]()
        self._registry = Registry(
            registry_limits or RegistryLimits(), new_id=lambda: secrets.token_hex(16)
        )
        self._registry.restore(restored, self._loop.time())
        self._forwarders = forwarders
        self._rendezvous = RendezvousApp(
            certificate.fingerprint, limits=rendezvous_limits, rate_limits=rate_limits
        )
        self._slots = SlotsApp(rate_limits=rate_limits)
        self._server = Http3Server(
            self._gate.before(
                create_app(
                    self,
                    guard=self._guard,
                    listeners=listeners,
                    more=[*self._rendezvous.routes, *self._slots.routes],
                )
            ),
            certificate=certificate,
            send=send,
            on_moved=self.connection_moved,
            on_closed=self.connection_closed,
            limits=http3_limits or Http3Limits(),
        )
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin to serve HTTP/3; the forwarders hear of what was restored."""
        await self._server.start()
        self._follow()

    async def stop(self) -> None:
        """Tell the clients and end, well within a second. Registrations stay as they are."""
        await self._server.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def receive_http3(self, datagram: bytes, path: Path) -> None:
        """Take a datagram that may be HTTP/3. Never raises."""
        self._server.receive_datagram(datagram, path)

    def seen(self, sources: Iterable[Address]) -> None:
        """Datagrams came from these addresses since the last call."""
        self._registry.seen(sources, self._loop.time())
        self._follow()

    def register(
        self,
        request: RegisterRequest,
        path: Path,
        holder: HolderId,
        grant: Grant | None = None,
    ) -> RegisterAnswer:
        """Register, and tell the forwarders before the client is answered.

        :raises RegistrationRefused: nothing changed.
        :raises DestinationRefused: nothing changed.
        """
        self._check_destination(path)
        answer = self._registry.register(request, path, holder, self._loop.time(), grant)
        self._follow()
        return answer

    def delete(self, registration_id: str) -> bool:
        """End a registration; whether there was one of that name."""
        was_there = self._registry.delete(registration_id)
        self._follow()
        return was_there

    def connection_moved(self, holder: HolderId, path: Path) -> None:
        """An HTTP/3 connection has validated another path: its registrations follow, unless it is
        one that the relay would not have registered."""
        try:
            self._check_destination(path)
        except DestinationRefused:
            return
        self._registry.move(holder, path)
        self._follow()

    def connection_closed(self, holder: HolderId) -> None:
        """An HTTP/3 connection has ended: the leases of its registrations begin to run."""
        self._rendezvous.connection_closed(holder)
        self._registry.release(holder, self._loop.time())
        self._follow()

    def change_access(self, access: Access) -> None:
        """From now on these rules; what is revoked by them ends at once."""
        self._access = access
        self._gate.verifier = access.verifier
        self._gate.max_requests = access.requests_per_token
        self._guard.change_all(access.source_rate, access.token_rate, access.total_rate)
        if access.verifier is not None:
            self.revoke(access.verifier.revoked)

    def change_limits(self, limits: Limits, lease_s: float) -> None:
        """From now on these; what there is over them stays until it ends."""
        self._registry.change_limits(limits.registry(lease_s))
        self._server.change_limits(limits.http3())

    def revoke(self, token_ids: Collection[str]) -> int:
        """End what was registered by these tokens; returns how many registrations that were.

        That they are not let in any more, `change_access` or `add_revoked` says.
        """
        count = self._registry.revoke(token_ids) if token_ids else 0
        self._follow()
        return count

    def add_revoked(self, token_id: str) -> int:
        """Revoke a token until the list is read again; returns how many registrations ended."""
        verifier = self._access.verifier
        if verifier is not None:
            verifier.revoked |= {token_id}
        return self.revoke({token_id})

    @property
    def state(self) -> StateSource:
        """The present state, for a forwarder that must be filled."""
        return self._registry

    @property
    def leases(self) -> LeaseSource:
        """For a forwarder that outlives this process."""
        return self._registry

    @property
    def registrations(self) -> int:
        """How many there are now."""
        return len(self._registry)

    @property
    def connection_ids(self) -> int:
        """How many are registered now."""
        return self._registry.connection_ids

    @property
    def http3_counters(self) -> Http3Counters:
        """What the HTTP/3 server counted."""
        return self._server.counters

    def refused_counters(self) -> Mapping[str, int]:
        """What was not admitted or not registered, by reason."""
        return {
            **self._gate.refused,
            **{reason.value: count for reason, count in self._registry.refused.items()},
            **self._refused,
            "too_often_by_source": self._guard.refused,
            "too_often_by_token": self._guard.refused_token,
            "too_often_in_all": self._guard.refused_total,
        }

    def rendezvous_counters(self) -> Mapping[str, int]:
        """What the rendezvous and its slots counted."""
        return {**self._rendezvous.counters(), **self._slots.counters()}

    def _check_destination(self, path: Path) -> None:
        try:
            self._access.destinations.check(path)
        except DestinationRefused as error:
            self._refused[error.reason.value] += 1
            raise

    def _follow(self) -> None:
        """After each call of the registry: pass its changes on, and see when it next expires."""
        changes = self._registry.take_changes()
        if changes:
            for forwarder in self._forwarders:
                forwarder.apply(changes)
        due = self._registry.next_expiry()
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return  # a timer that fires early finds nothing to do and sets the next
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        try:
            self._registry.expire(self._loop.time(), _EXPIRIES_PER_TURN)
            self._follow()
        except Exception:
            # Registrations that never end would be worse than one line a second.
            logger.exception("ending registrations failed")
            self._timer = self._loop.call_later(_RETRY_S, self._expire)
