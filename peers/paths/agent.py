"""The path agent of one pipe: it finds, proves, chooses and keeps the direct path.

Pure: it takes what happened and `now`, in seconds of any steady clock, and says what to do. After
a call look at `next_timer`: what is due at once is due now. `poll` gives the actions in the order
in which they must be done. docs/protocol.md §13.
"""

import random
from collections.abc import Sequence

from relay.wire.address import Address

from ..nat.outlook import Mapping
from .birthday import BirthdayPermits
from .candidate import LocalView, SocketId
from .engine import NEVER, Engine
from .explain import describe_search
from .message import Birthday, Hello, Punch, Relayed, Stage, Sync, Synced
from .path import Action, AddIds, Direct, Path, PathPolicy, RemoveIds
from .probe import Probe, ProbeKind, ProbeSender
from .report import PathReport

__all__ = ["BirthdayPermits", "PathAgent"]


class PathAgent:
    """One for each open pipe. It starts on the relay."""

    def __init__(
        self,
        *,
        is_dialer: bool,
        now: float,
        policy: PathPolicy = PathPolicy.ANY,
        permits: BirthdayPermits | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """The pipe is open, through the relay.

        :param permits: shared by the agents of one endpoint; None: this one has its own.
        :param chance: for tests; None: the system's.
        """
        self._engine = Engine(
            is_dialer=is_dialer,
            now=now,
            policy=policy,
            permits=permits or BirthdayPermits(),
            chance=chance or random.SystemRandom(),
        )
        self._due = now
        receiver = self._engine.prober.receiver
        self._engine.tell(Hello(receiver.key, self._relay_only))
        if not self._relay_only:
            receiver.start()

    # What is known of our network

    def set_local(self, view: LocalView, now: float) -> None:
        """What is known of our network now. Call it again whenever something of it changes.

        Nothing is announced and nobody is probed before the first call. A path in use whose socket
        is no longer named is given up at once.
        """
        if not self._relay_only:
            self._due = now
            self._engine.set_view(view, now)

    def network_changed(self, now: float) -> None:
        """Our network may be another one: prove the path in use again at once, search anew."""
        self._due = now
        if self._engine.usage.watch is not None:
            self._engine.usage.watch.suspect("our network has changed", now)
        self._engine.search.change(now, urgent=True)

    def sockets_opened(self, sockets: Sequence[SocketId], now: float) -> None:
        """The answer to `OpenSockets`; none: the system has no more."""
        self._due = now
        self._engine.birthday.opened(sockets, now)

    # What arrives

    def receive_message(self, body: bytes, now: float) -> None:
        """One message of the control stream. A malformed one is counted and ignored."""
        self._due = now
        engine = self._engine
        match engine.inbox.open(body, now):
            case Hello() as hello:
                self._greet(hello, now)
            case Punch(number):
                engine.begin_round(number, now)
            case Sync(number):
                engine.prober.receiver.expect(number)
                engine.tell(Synced(number))
            case Synced(number):
                engine.prober.synced(number)
            case Birthday() as birthday:
                self._receive_birthday(birthday, now)
            case Relayed(number):
                if number >= engine.usage.round:  # else it is of an earlier path
                    engine.fall_back("the other end went back to the relay", now, tell=False)

    def receive_probe(self, datagram: bytes, socket: SocketId, source: Address, now: float) -> bool:
        """One datagram whose destination ID is ours. False: it was dropped, and counted."""
        engine = self._engine
        probe = engine.prober.open(datagram)
        if probe is None or engine.knowledge.view is None:
            return False
        self._due = now
        if probe.kind is ProbeKind.RESPONSE:
            return self._answered(probe, socket, source, now)
        pair = engine.pair_of(socket, source)
        engine.prober.respond(probe, socket, source, pair, now)
        if pair is not None:
            engine.authentic.add((socket, source), now)
            pair.request_came(now)
            if probe.use:
                engine.follow((socket, source), probe.number)
        return True

    def accepts(self, socket: SocketId, source: Address) -> bool:
        """Whether a packet of the pipe may come from there: an authentic probe did. Cheap."""
        return (socket, source) in self._engine.authentic

    # What the pipe does. At most one call of each per batch: they are cheap

    def sent(self, now: float) -> None:
        """The pipe sent ack-eliciting packets (RFC 9002 §2) by the current path."""
        watch = self._engine.usage.watch
        if watch is not None:
            watch.sent(now)
            self._due = min(self._due, watch.next_due())

    def acknowledged(self, now: float) -> None:
        """The other end acknowledged a packet that was sent since the last switch.

        Where the caller cannot tell which one it was, any new acknowledgement will do.
        """
        if self._engine.usage.watch is not None:
            self._engine.usage.watch.acknowledged(now)

    def heard(self, path: Path, now: float) -> None:
        """Packets of the pipe came by this path."""
        engine = self._engine
        engine.usage.heard(path, now)
        if engine.usage.watch is not None:
            self._due = min(self._due, engine.usage.watch.next_due())
        if isinstance(path, Direct) and self.accepts(path.socket, path.address):
            key = (path.socket, path.address)
            engine.authentic.refresh(key, now)
            if not engine.is_dialer and engine.target is None:
                engine.target, self._due = key, now

    def measured(self, round_trip_s: float, now: float) -> None:
        """The pipe's own smoothed round-trip time on the current path."""
        self._engine.usage.measured(round_trip_s)

    # What to do

    def poll(self, now: float) -> list[Action]:
        """What is to be done now, in order."""
        engine = self._engine
        if not self._relay_only:
            engine.run(now)
        actions = list(engine.actions)
        engine.actions.clear()
        receiver = engine.prober.receiver
        if receiver.added:  # before any message says that they are expected
            actions.insert(0, AddIds(tuple(receiver.added)))
        if receiver.removed:
            actions.append(RemoveIds(tuple(receiver.removed)))
        receiver.added, receiver.removed = [], []
        self._due = NEVER if self._relay_only else engine.next_due(now)
        return actions

    def next_timer(self) -> float | None:
        """When to call `poll` at the latest; None: when something happens. Cheap."""
        return None if self._due == NEVER else self._due

    # What to tell

    @property
    def current(self) -> Path:
        """The path that the pipe should be sent by."""
        return self._engine.usage.path

    @property
    def has_given_up(self) -> bool:
        """Whether nothing more will be tried until something changes."""
        engine = self._engine
        if engine.usage.is_direct:
            return False
        return bool(engine.knowledge.obstacle or engine.search.gave_up)

    def report(self, now: float) -> PathReport:
        """A snapshot, for people."""
        engine = self._engine
        usage, knowledge = engine.usage, engine.knowledge
        return PathReport(
            current=usage.path,
            reason=usage.reason,
            since=usage.since,
            searching=describe_search(
                engine.search,
                engine.birthday,
                obstacle=knowledge.obstacle or knowledge.missing,
                is_direct=usage.is_direct,
                now=now,
            ),
            mapping=knowledge.mapping,
            peer_mapping=knowledge.peer_mapping,
            relay_round_trip_s=usage.relay_round_trip_s,
            pairs=tuple(pair.report() for pair in engine.checklist.pairs.values()),
            refused=dict(engine.checklist.refused),
            dropped=dict(engine.prober.dropped + engine.inbox.dropped),
            probes_sent=engine.prober.sent,
            probes_received=engine.prober.received,
            changes=tuple(usage.changes),
            has_given_up=self.has_given_up,
        )

    # Inside

    @property
    def _relay_only(self) -> bool:
        return self._engine.knowledge.relay_only

    def _greet(self, hello: Hello, now: float) -> None:
        engine = self._engine
        if engine.knowledge.peer_has_greeted:
            engine.inbox.dropped["message: a second hello"] += 1
            return
        engine.knowledge.peer_has_greeted = True
        engine.knowledge.peer_relay_only = hello.relay_only
        engine.prober.sender = None if hello.relay_only else ProbeSender(hello.key)
        engine.search.change(now)

    def _answered(self, response: Probe, socket: SocketId, source: Address, now: float) -> bool:
        engine = self._engine
        awaited = engine.prober.match(response, socket, source)
        if awaited is None:
            return False
        pair = engine.pair_of(socket, source)
        if pair is None:
            return True
        engine.authentic.add((socket, source), now)
        pair.answer_came(awaited.size, awaited.sent_at, now)
        if response.challenge:
            pair.request_came(now)
            engine.prober.answer_challenge(response, socket, source, now)
        if pair is engine.usage.pair and engine.usage.watch is not None:
            engine.usage.watch.answered(awaited.sent_at, now)
        return True

    def _receive_birthday(self, message: Birthday, now: float) -> None:
        engine = self._engine
        if message.stage is not Stage.OFFER:
            engine.birthday.receive(message, now)
            return
        ends = engine.knowledge.birthday_ends(Mapping.INDEPENDENT, Mapping.DEPENDENT)
        if ends is None or engine.usage.is_direct:
            engine.tell(Birthday(Stage.END, 0))
        else:
            engine.birthday.accept(*ends, message.window, now)
