"""The relay's control: registrations, their leases, and the HTTP/3 server, over no socket at all.

`Control` is given datagrams that may be HTTP/3 and a way to send the answers; it tells forwarders
what changed. The processes and sockets are around it (relay/service.py), or a test is.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from relay.access import Access
from relay.app import create_app
from relay.certificate import ServerCertificate
from relay.core.admission import Grant, TokenRefusal
from relay.core.charging import ForwardLimits
from relay.core.destinations import DestinationRefusal, DestinationRefused
from relay.core.events import Cause
from relay.core.leases import Registrations
from relay.core.limits import RateLimits
from relay.core.path import Path
from relay.core.quota import RegistryRefusal, RelayLeaves
from relay.core.registration import id_hash
from relay.core.registry import (
    HolderId,
    Record,
    RegistrationRefused,
    Registry,
    RegistryFull,
    RegistryLimits,
)
from relay.core.rendezvous import RendezvousLimits
from relay.core.table import Change
from relay.core.watch import Observer
from relay.forwarding.feed import StateSource
from relay.forwarding.joining import Forwarder, Joining
from relay.gate import Gate
from relay.http3.server import Http3Counters, Http3Limits, Http3Server
from relay.limits import Limits
from relay.metering import Metered, Metering
from relay.rendezvous_app import RendezvousApp
from relay.requests import (
    TOO_OFTEN_BY_SOURCE,
    TOO_OFTEN_BY_TOKEN,
    TOO_OFTEN_IN_ALL,
    RegisterGuard,
)
from relay.slots_app import SlotsApp
from relay.wire.address import Address
from relay.wire.registration import RegisterAnswer, RegisterRequest

logger = logging.getLogger(__name__)

_EXPIRIES_PER_TURN = 1000
"""Leases looked at in one turn of the event loop: a millisecond or two."""

_FROZEN_RETRY_S = 1.0
_DRAINING_RETRY_S = 300.0
"""What a client is told to wait: by then there is another relay, or none."""

_ALLOWANCE_RETRY_S = 3600.0
"""What a client is told to wait whose token is used up: another token may come at any time."""

_RETRY_S = 1.0
"""Seconds until the expiry is tried again, should it have failed."""


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
        forward_limits: ForwardLimits | None = None,
        access: Access | None = None,
        rendezvous_limits: RendezvousLimits | None = None,
        restored: Iterable[Record] = (),
        listeners: Sequence[Address] = (),
        is_core_short: Callable[[], bool] = lambda: False,
    ) -> None:
        """To be made and used in a running event loop; `start` before anything else.

        :param send: takes datagrams of HTTP/3; may drop them, never raises.
        :param rate_limits: requests of one source, whatever `access` and the slots say.
        :param restored: registrations of an earlier run of this relay.
        :param listeners: the relay's own addresses, which it tells peers.
        :param is_core_short: whether newcomers must wait, since others want the core.
        """
        self._loop = asyncio.get_running_loop()
        self._access = access = access or Access()
        self._observer: Observer | None = None
        self._gate = Gate(
            access.verifier, max_requests=access.requests_per_token, on_refused=self._tell_refused
        )
        source_rate = rate_limits or access.source_rate
        self._guard = RegisterGuard(
            source_rate, access.token_rate, access.total_rate, on_refused=self._tell_refused
        )
        self._refused = Counter[str]()
        self._registry = Registry(
            registry_limits or RegistryLimits(), new_id=lambda: secrets.token_hex(16)
        )
        self._registry.restore(restored, self._loop.time())
        self._forwarders = list(forwarders)
        self._metering = Metering(self._registry, forward_limits, self._tell)
        self._is_frozen = False
        self.is_draining = False
        """Whether only what is registered already may be, and the relay ends when that has."""
        self._rendezvous = RendezvousApp(
            certificate.fingerprint, limits=rendezvous_limits, rate_limits=source_rate
        )
        self._slots = SlotsApp(rate_limits=rate_limits)  # else it has its own: a claim is a guess
        self._server = Http3Server(
            self._gate.before(
                create_app(
                    self,
                    guard=self._guard,
                    listeners=listeners,
                    more=[*self._rendezvous.routes, *self._slots.routes],
                    is_leaving=lambda: self.is_draining,
                )
            ),
            certificate=certificate,
            send=send,
            on_moved=self.connection_moved,
            on_closed=self.connection_closed,
            limits=http3_limits or Http3Limits(),
            is_core_short=is_core_short,
            is_known=self._registry.has_source,
        )
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin to serve HTTP/3; the forwarders hear of what was restored."""
        await self._server.start()
        self._follow()

    def observe(self, observer: Observer) -> None:
        """From now on tell this one what happens."""
        self._observer = observer

    async def stop(self) -> None:
        """Tell the clients and end, well within a second. Registrations stay as they are."""
        await self._server.stop()
        self._metering.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def join(self, forwarder: Forwarder) -> None:
        """One more follows from now on. It hears of everything first, piece by piece."""
        joining = Joining(forwarder, self._metering)
        self._forwarders.append(joining)
        for _ in joining.rounds():
            await asyncio.sleep(0)
        self._forwarders[self._forwarders.index(joining)] = forwarder

    def meter(self, metered: Metered) -> None:
        """These keep the senders' buckets, too: they share what is allowed."""
        self._metering.add(metered)

    def freeze(self) -> None:
        """From now on nothing is registered, moved or ended; clients wait for their answers."""
        self._is_frozen = True

    def thaw(self) -> None:
        """Go on."""
        self._is_frozen = False
        self._follow()

    def receive_http3(self, datagram: bytes, path: Path) -> None:
        """Take a datagram that may be HTTP/3. Never raises."""
        if self._is_frozen:
            return  # the client sends it again
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
        if self._is_frozen or (self.is_draining and not self._registry.knows(request)):
            self._refused[RegistryRefusal.LEAVING.value] += 1
            raise RelayLeaves(_FROZEN_RETRY_S if self._is_frozen else _DRAINING_RETRY_S)
        self._check_destination(path)
        is_known = self._registry.knows(request)
        self._check_allowance(grant, path.remote)
        try:
            answer = self._registry.register(request, path, holder, self._loop.time(), grant)
        except RegistrationRefused as error:
            self._tell_refused(error.reason.value, path.remote, grant.subject if grant else None)
            raise
        self._follow()
        if is_known and self._observer is not None:
            renewed = self._registry.find(id_hash(answer.id))
            if renewed is not None:
                self._observer.renewed(renewed.owner)
        return answer

    def delete(self, registration_id: str) -> bool:
        """End a registration; whether there was one of that id."""
        was_there = self._registry.delete(registration_id)
        self._follow(Cause.DELETED)
        return was_there

    def end(self, name: str) -> bool:
        """The operator ends a registration, by the hash of its id; whether there was one."""
        was_there = self._registry.end(name)
        self._follow(Cause.OPERATOR)
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

    def change_certificate(self, certificate: ServerCertificate) -> None:
        """From now on new clients see this one."""
        self._server.change_certificate(certificate)
        self._rendezvous.change_certificate(certificate.fingerprint)

    def change_access(self, access: Access) -> None:
        """From now on these rules; what is revoked by them ends at once."""
        self._access = access
        self._gate.verifier = access.verifier
        self._gate.max_requests = access.requests_per_token
        self._guard.change_all(access.source_rate, access.token_rate, access.total_rate)
        self._rendezvous.change_rate(access.source_rate)
        if access.verifier is not None:
            self.revoke(access.verifier.revoked)

    def change_limits(self, limits: Limits, lease_s: float) -> None:
        """From now on these; what there is over them stays until it ends."""
        self._registry.change_limits(limits.registry(lease_s))
        self._metering.change_limits(limits.forwarding())
        self._server.change_limits(limits.http3())

    def revoke(self, token_ids: Collection[str]) -> int:
        """End what was registered by these tokens; returns how many registrations that were.

        That they are not let in any more, `change_access` or `add_revoked` says.
        """
        count = self._registry.revoke(token_ids) if token_ids else 0
        self._follow(Cause.REVOKED)
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
        return self._metering

    @property
    def leases(self) -> Registrations:
        """For a forwarder that outlives this process, and for a successor."""
        return self._registry

    @property
    def registry(self) -> Registry:
        """To be looked at only."""
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
        """What was not admitted or not registered, by reason; all that there are."""
        return {
            **dict.fromkeys((*TokenRefusal, *RegistryRefusal, *DestinationRefusal), 0),
            **self._gate.refused,
            **{reason.value: count for reason, count in self._registry.refused.items()},
            **self._refused,
            TOO_OFTEN_BY_SOURCE: self._guard.refused,
            TOO_OFTEN_BY_TOKEN: self._guard.refused_token,
            TOO_OFTEN_IN_ALL: self._guard.refused_total,
        }

    def rendezvous_counters(self) -> Mapping[str, int]:
        """What the rendezvous and its slots counted."""
        return {**self._rendezvous.counters(), **self._slots.counters()}

    def _check_destination(self, path: Path) -> None:
        try:
            self._access.destinations.check(path)
        except DestinationRefused as error:
            self._refused[error.reason.value] += 1
            self._tell_refused(error.reason.value, path.remote)
            raise

    def _check_allowance(self, grant: Grant | None, remote: Address) -> None:
        if grant is not None and self._metering.is_used_up(grant):
            reason = RegistryRefusal.ALLOWANCE_USED
            self._refused[reason.value] += 1
            self._tell_refused(reason.value, remote, grant.subject)
            raise RegistryFull(
                "all that your token permits to be forwarded was forwarded: ask for another one",
                reason,
                min(grant.left_s, _ALLOWANCE_RETRY_S),
            )

    def _tell_refused(
        self, reason: str, remote: Address | None, subject: str | None = None
    ) -> None:
        fields = {"reason": reason, "from": str(remote), "subject": subject}
        logger.info("refused a request", extra={"fields": fields})
        if self._observer is not None:
            self._observer.refused(reason, remote, subject)

    def _tell(self, changes: Sequence[Change]) -> None:
        for forwarder in self._forwarders:
            forwarder.apply(changes)

    def _follow(self, cause: Cause = Cause.EXPIRED) -> None:
        """After each call of the registry: pass its changes on, and see when it next expires.

        :param cause: of what has ended.
        """
        changes = self._registry.take_changes()
        if changes:
            changes = self._metering.follow(changes)
            self._tell(changes)
            if self._observer is not None:
                self._observer.follow(changes, cause)
        due = self._registry.next_expiry()
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return  # a timer that fires early finds nothing to do and sets the next
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._is_frozen:
            return  # `thaw` sets the next
        try:
            self._registry.expire(self._loop.time(), _EXPIRIES_PER_TURN)
            self._follow()
        except Exception:
            # Registrations that never end would be worse than one line a second.
            logger.exception("ending registrations failed")
            self._timer = self._loop.call_later(_RETRY_S, self._expire)
