"""Both sides of a hand-over in one process: what each may expect of the other, and what if not."""

import asyncio
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from relay.core.path import Path as PeerPath
from relay.core.registry import Registry, RegistryLimits
from relay.forwarding.sockets import Listener, ListenRequest, open_listeners
from relay.lifecycle import successor
from relay.lifecycle.ask import Asking, RelayGone
from relay.lifecycle.inherited import close_all
from relay.lifecycle.local_socket import LocalConnection, LocalServer, Message
from relay.lifecycle.predecessor import HandOverFailed, OtherRelay, Predecessor
from relay.lifecycle.successor import VERSION, HandOver
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterRequest

PATIENCE_S = 20.0
LOOPBACK = ListenRequest(Address("127.0.0.1", 0))


class OldRelay:
    """The relay that leaves, in a thread of its own with its own event loop."""

    def __init__(self, path: Path, listeners: list[Listener]) -> None:
        self.path = path
        self.listeners = listeners
        self.log: list[str] = []
        ids = iter(range(10**6))
        self.registry = Registry(RegistryLimits(), lambda: f"{next(ids):032x}")
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> "OldRelay":
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)

    def register(self, number: int) -> None:
        """In its loop, and before this returns."""
        done = threading.Event()

        def register() -> None:
            path = PeerPath(Address("127.0.0.2", 1000 + number), 0, "127.0.0.1")
            request = RegisterRequest(number.to_bytes(32, "big"), 3, Derivation.BLAKE3)
            self.registry.register(request, path, holder=number, now=self._loop.time())
            self.hand_over.apply(self.registry.take_changes())
            done.set()

        self._loop.call_soon_threadsafe(register)
        assert done.wait(PATIENCE_S)

    def wait_for(self, *log: str) -> None:
        """Until this is what has happened."""
        deadline = time.monotonic() + PATIENCE_S
        while self.log != list(log):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def wait_until_free(self) -> None:
        """Until it has noticed that a successor is gone."""
        deadline = time.monotonic() + PATIENCE_S
        while self.hand_over.is_busy:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def freeze(self) -> None:
        self.log.append("freeze")

    def thaw(self) -> None:
        self.log.append("thaw")

    async def leave(self, successor: int | None) -> None:
        assert successor == os.getpid()
        self.log.append("leave")

    def gone(self) -> None:
        self.log.append("gone")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.hand_over = HandOver(self.listeners, self.registry, self)

        async def handle(request: Message, connection: LocalConnection) -> None:
            await self.hand_over.serve(request, connection)

        server = LocalServer(self.path, handle)
        server.open()
        self._ready.set()
        await self._end.wait()
        await server.close()


@pytest.fixture
def old(tmp_path: Path) -> Iterator[OldRelay]:
    with ExitStack() as undo:
        listeners = open_listeners([LOOPBACK, LOOPBACK], 3)
        for each in listeners:
            undo.callback(each.close)
        yield undo.enter_context(OldRelay(tmp_path / "control.sock", listeners))


def requests_of(old: OldRelay) -> list[ListenRequest]:
    return [ListenRequest(each.address) for each in old.listeners]


def take_over(
    old: OldRelay, before_serving: Callable[[], None] = lambda: None
) -> dict[int, frozenset[bytes]]:
    """Everything right; returns the connection IDs by owner."""

    async def main() -> dict[int, frozenset[bytes]]:
        found = Predecessor.find(old.path, requests_of(old))
        assert found is not None
        found.follow()
        records = await found.take_registrations([each.address for each in old.listeners])
        assert found.is_complete
        before_serving()
        await found.release()
        found.close()
        return {record.owner: record.connection_ids for record in records}

    return asyncio.run(main())


def expected(old: OldRelay) -> dict[int, frozenset[bytes]]:
    found = [old.registry.record(owner, 0.0) for owner in old.registry.owners()]
    return {each.owner: each.connection_ids for each in found if each is not None}


def test_sockets_and_registrations_go_over(old: OldRelay) -> None:
    for number in range(500):
        old.register(number)

    def check() -> None:
        assert old.log == ["freeze"]

    assert take_over(old, check) == expected(old)
    old.wait_for("freeze", "leave", "gone")


def test_the_sockets_are_the_same_and_in_order(old: OldRelay) -> None:
    found = Predecessor.find(old.path, requests_of(old)[1:])
    assert found is not None
    ((address, sockets),) = found.sockets.items()
    assert address == old.listeners[1].address
    ours, theirs = (
        [os.fstat(each.fileno()).st_ino for each in group]
        for group in (sockets, old.listeners[1].sockets)
    )
    assert ours == theirs
    found.close()
    assert sockets[0].fileno() == -1  # what nobody took is closed


def test_a_relay_on_any_port_is_taken_over_by_the_same_words(old: OldRelay) -> None:
    found = Predecessor.find(old.path, [LOOPBACK])
    assert found is not None
    assert list(found.sockets) == [LOOPBACK.address]
    found.close()


def test_what_changes_meanwhile_goes_over_too(old: OldRelay) -> None:
    async def main() -> None:
        found = Predecessor.find(old.path, requests_of(old))
        assert found is not None
        found.follow()
        for number in range(300):
            await asyncio.to_thread(old.register, number)
        records = await found.take_registrations([each.address for each in old.listeners])
        assert {each.owner: each.connection_ids for each in records} == expected(old)
        await found.release()

    old.register(1000)
    asyncio.run(main())


def test_nobody_listens(tmp_path: Path) -> None:
    assert Predecessor.find(tmp_path / "none", [LOOPBACK]) is None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(tmp_path / "dead"))
    assert Predecessor.find(tmp_path / "dead", [LOOPBACK]) is None


def test_a_relay_that_listens_elsewhere_keeps_its_sockets(old: OldRelay) -> None:
    with pytest.raises(OtherRelay, match=str(old.listeners[0].address)):
        Predecessor.find(old.path, [ListenRequest(Address("127.0.0.3", 1))])
    assert old.log == []


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"version": VERSION + 1, "listen": ["127.0.0.1:0"]}, "it hands over by version 1"),
        ({"version": VERSION}, "names no addresses"),
        ({"version": VERSION, "listen": ["127.0.0.1:0"] * 65}, "names no addresses"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    old: OldRelay, request_: dict[str, object], said: str
) -> None:
    with Asking(old.path, PATIENCE_S) as asking:
        asking.send(request_)
        assert said in asking.receive()["error"]
        assert asking.take_descriptors() == []
    assert old.log == []


def test_a_refusal_ends_the_successor(old: OldRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.lifecycle.predecessor.VERSION", VERSION + 1)
    with pytest.raises(HandOverFailed, match="hands over by version 1, and we take over by 2"):
        Predecessor.find(old.path, requests_of(old))


def test_only_one_takes_over_at_a_time(old: OldRelay) -> None:
    first = Predecessor.find(old.path, requests_of(old))
    assert first is not None
    with pytest.raises(HandOverFailed, match="another process takes over just now"):
        Predecessor.find(old.path, requests_of(old))
    first.close()
    old.wait_until_free()
    old.register(1)
    assert take_over(old) == expected(old)  # the first was given up


def ask(old: OldRelay) -> Asking:
    """A successor by hand, that has its sockets."""
    asking = Asking(old.path, PATIENCE_S)
    listen = [str(each) for each in requests_of(old)]
    asking.send({"command": "hand-over", "version": VERSION, "listen": listen})
    while "offered" not in asking.receive():
        pass
    for descriptor in asking.take_descriptors():
        os.close(descriptor)
    return asking


def receive_final(asking: Asking) -> None:
    asking.send({"prepared": True})
    while "final" not in asking.receive():
        pass


def test_a_successor_that_dies_while_it_prepares_changes_nothing(old: OldRelay) -> None:
    old.register(1)
    ask(old).close()
    old.wait_until_free()
    assert take_over(old) == expected(old)
    old.wait_for("freeze", "leave", "gone")


def test_a_successor_that_dies_before_it_serves_changes_nothing(old: OldRelay) -> None:
    old.register(1)
    asking = ask(old)
    receive_final(asking)
    asking.close()
    old.wait_for("freeze", "thaw")
    old.wait_until_free()
    old.register(2)
    assert take_over(old) == expected(old)


def test_a_successor_that_hangs_is_told_that_it_is_too_late(
    old: OldRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successor, "SERVE_PATIENCE_S", 0.3)
    asking = ask(old)
    receive_final(asking)
    old.wait_for("freeze", "thaw")
    assert "it took too long" in asking.receive()["error"]
    with suppress(RelayGone):
        asking.send({"serving": True})
    with pytest.raises(RelayGone):
        asking.receive()
    asking.close()
    assert old.log == ["freeze", "thaw"]


@pytest.mark.parametrize("word", [{"serving": True}, {"junk": 1}])
def test_a_successor_that_says_something_else_changes_nothing(old: OldRelay, word: Message) -> None:
    asking = ask(old)
    asking.send(word)
    assert not any("final" in each for each in asking.receive_all())
    asking.close()
    assert old.log == []
    old.wait_until_free()
    take_over(old)


class FakeRelay:
    """Answers a successor with given lines, and then closes the connection."""

    def __init__(self, path: Path, *lines: Message) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(os.fspath(path))
        self._listening.listen()
        self._lines = lines
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE_S)
        self._listening.close()

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        with client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            client.settimeout(PATIENCE_S)
            client.recv(65536)
            given = {"listener": "127.0.0.1:1", "asked": str(LOOPBACK), "sockets": 1}
            socket.send_fds(client, [json.dumps(given).encode() + b"\n"], [udp.fileno()])
            for line in self._lines:
                client.sendall(json.dumps(line).encode() + b"\n")


RECORD = {
    "owner": 1,
    "id_hash": "00" * 16,
    "key_hash": "11" * 16,
    "peer": ["127.0.0.2", 5],
    "relay": ["127.0.0.1", 1],
    "lease_end": 1e9,
    "connection_ids": "22" * 12,
}


def test_a_relay_that_dies_in_the_midst_leaves_what_it_had_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    told: list[Message] = [
        {"offered": 1},
        {"set": RECORD},
        {"set": {**RECORD, "owner": 2, "id_hash": "?"}},
    ]

    async def main() -> None:
        found = await asyncio.to_thread(Predecessor.find, path, [LOOPBACK])
        assert found is not None
        found.follow()
        records = await found.take_registrations([Address("127.0.0.1", 1)])
        assert [record.owner for record in records] == [1]
        assert not found.is_complete
        await found.release()

    with FakeRelay(path, *told), caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "has ended in the midst of the hand-over" in caplog.text


def test_a_relay_that_goes_on_after_all_ends_the_successor(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        found = await asyncio.to_thread(Predecessor.find, path, [LOOPBACK])
        assert found is not None
        found.follow()
        with pytest.raises(HandOverFailed, match="the relay that runs goes on: too late"):
            await found.take_registrations([Address("127.0.0.1", 1)])
        close_all(found.sockets)
        found.close()

    with FakeRelay(path, {"offered": 1}, {"error": "too late"}):
        asyncio.run(main())


def test_a_relay_that_does_not_answer_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with FakeRelay(path), pytest.raises(HandOverFailed, match="does not answer"):
        Predecessor.find(path, [LOOPBACK])
