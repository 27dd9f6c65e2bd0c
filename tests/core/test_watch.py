"""From the registry's changes to events."""

from relay.core.admission import Grant
from relay.core.events import Cause, Event, EventHub, EventKind, Told
from relay.core.path import Path
from relay.core.registration import id_hash
from relay.core.registry import Registry, RegistryLimits
from relay.core.traffic import Traffic
from relay.core.watch import Watch
from relay.wire.address import Address
from relay.wire.registration import RegisterRequest

KEY = b"0123456789abcdef"
HERE, THERE = Address("198.51.100.7", 5000), Address("198.51.100.8", 6000)


class Scene:
    def __init__(self) -> None:
        self.ids = iter(range(1, 100))
        self.registry = Registry(RegistryLimits(), new_id=lambda: f"{next(self.ids):032x}")
        self.hub, self.traffic = EventHub(), Traffic()
        self.make_watch()

    def make_watch(self) -> None:
        self.watch = Watch(
            self.registry.by_owner, self.hub, self.traffic, lambda: 0.0, lambda: 1000.0
        )
        self.watcher = self.hub.watch(tuple(EventKind), lambda: None)

    def register(self, at: Address = HERE, key: bytes = KEY, grant: Grant | None = None) -> str:
        path = Path(at, 0, "192.0.2.1")
        answer = self.registry.register(RegisterRequest(key, 1), path, 1, 0.0, grant)
        self.follow()
        return id_hash(answer.id)

    def follow(self, cause: Cause = Cause.EXPIRED) -> None:
        self.watch.follow(self.registry.take_changes(), cause)

    def happened(self) -> list[Event]:
        return [each.event for each in self.watcher.take() if isinstance(each, Told)]


def test_a_registration_is_created_moves_is_renewed_and_ends() -> None:
    scene = Scene()
    grant = Grant("alice", "t1", 2e9, 3600.0)
    name = scene.register(grant=grant)
    scene.register(at=THERE, grant=grant)
    scene.watch.renewed(0)
    scene.registry.end(name)
    scene.follow(Cause.OPERATOR)
    here, there = str(HERE), str(THERE)
    assert scene.happened() == [
        Event(EventKind.CREATED, 1000.0, name, here, "alice"),
        Event(EventKind.MOVED, 1000.0, name, there, "alice", before=here),
        Event(EventKind.RENEWED, 1000.0, name, there, "alice"),
        Event(EventKind.CLOSED, 1000.0, name, there, "alice", reason="ended_by_operator"),
    ]


def test_what_was_there_before_is_nothing_new() -> None:
    scene = Scene()
    name = scene.register()
    scene.make_watch()
    assert scene.traffic.use(0) is not None
    scene.register()
    assert scene.happened() == []
    scene.registry.end(name)
    scene.follow()
    assert [each.kind for each in scene.happened()] == [EventKind.CLOSED]


def test_a_new_token_is_no_move() -> None:
    scene = Scene()
    scene.register(grant=Grant("alice", "t1", 2e9, 3600.0))
    scene.register(grant=Grant("alice", "t2", 3e9, 7200.0))
    assert [each.kind for each in scene.happened()] == [EventKind.CREATED]


def test_packets_count_for_the_first_of_those_at_one_address() -> None:
    scene = Scene()
    first = scene.register(key=b"1" * 16)
    scene.register(key=b"2" * 16)
    scene.watch.forwarded(HERE, 3, 300)
    scene.watch.forwarded(THERE, 3, 300)
    use = scene.traffic.use(0)
    assert use is not None
    assert use.total == (3, 300)
    scene.registry.end(first)
    scene.follow()
    scene.watch.forwarded(HERE, 1, 10)
    use = scene.traffic.use(1)
    assert use is not None
    assert use.total == (1, 10)


def test_a_refusal_says_why_and_whence() -> None:
    scene = Scene()
    scene.watch.refused("registrations_full", HERE, "alice")
    scene.watch.refused("token_missing", None)
    assert scene.happened() == [
        Event(EventKind.REFUSED, 1000.0, None, str(HERE), "alice", "registrations_full"),
        Event(EventKind.REFUSED, 1000.0, reason="token_missing"),
    ]


def test_idle_owners_are_named() -> None:
    scene = Scene()
    name = scene.register()
    scene.happened()
    scene.watch.idle([0, 77])
    assert scene.happened() == [Event(EventKind.IDLE, 1000.0, name, str(HERE))]
