"""The state file follows the registry, survives what happens to it, and says what it could not."""

import asyncio
import errno
import itertools
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path as FilePath

import pytest

from relay.core.path import Path
from relay.core.registry import Record, Registry, RegistryLimits
from relay.lifecycle import state_file
from relay.lifecycle.journal import Clock
from relay.lifecycle.state_file import StateFile, StateFileInUse
from relay.wire.address import Address
from relay.wire.connection_id import Derivation
from relay.wire.registration import RegisterRequest

LISTENERS = [Address("127.0.0.1", 4433)]
LEASE_S = 60.0
PATIENCE_S = 20.0


class Relay:
    """A registry, and a state file that follows it."""

    def __init__(self, path: FilePath, clock: Callable[[], Clock] | None = None) -> None:
        ids = itertools.count()
        self.registry = Registry(RegistryLimits(lease_s=LEASE_S), lambda: f"{next(ids):032x}")
        self.file = StateFile(path, LISTENERS, LEASE_S, clock)

    def begin(self) -> list[Record]:
        self.file.lock()
        restored = self.file.restore()
        self.registry.restore(restored, time.monotonic())
        self.registry.take_changes()
        self.file.begin(self.registry, self.registry.owners())
        return restored

    def register(self, number: int, num: int = 2) -> str:
        path = Path(Address("192.0.2.1", 1000 + number), 0, "127.0.0.1")
        request = RegisterRequest(number.to_bytes(32, "big"), num, Derivation.BLAKE3)
        answer = self.registry.register(request, path, holder=number, now=time.monotonic())
        self.follow()
        return answer.id

    def follow(self) -> None:
        self.file.apply(self.registry.take_changes())

    def records(self) -> dict[int, frozenset[bytes]]:
        found = [self.registry.record(owner, 0.0) for owner in self.registry.owners()]
        return {each.owner: each.connection_ids for each in found if each is not None}


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(limited())


def restored(path: FilePath) -> dict[int, frozenset[bytes]]:
    """What a relay finds there now."""
    found = StateFile(path, LISTENERS, LEASE_S).restore()
    return {each.owner: each.connection_ids for each in found}


async def until_kept(relay: Relay, path: FilePath) -> None:
    for _ in range(round(PATIENCE_S / 0.02)):
        if restored(path) == relay.records():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it is not kept")


def test_a_crash_loses_nothing_that_is_older_than_a_moment(tmp_path: FilePath) -> None:
    path = tmp_path / "state"

    async def main() -> None:
        relay = Relay(path)
        assert relay.begin() == []
        ids = [relay.register(number) for number in range(5)]
        await until_kept(relay, path)
        assert relay.registry.delete(ids[2])
        relay.follow()
        relay.register(3, num=4)
        began = time.monotonic()
        await until_kept(relay, path)
        assert time.monotonic() - began < 5.0
        # No close: it crashes here.

    run(main)
    assert len(restored(path)) == 4
    registry = Registry(RegistryLimits(lease_s=LEASE_S), lambda: "")
    found = StateFile(path, LISTENERS, LEASE_S).restore()
    assert registry.restore(found, time.monotonic()) == 4


def test_only_its_user_can_read_it(tmp_path: FilePath) -> None:
    path = tmp_path / "folder" / "state"

    async def main() -> None:
        relay = Relay(path)
        relay.begin()
        relay.register(1)
        await until_kept(relay, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        await relay.file.close()
        assert sorted(each.name for each in path.parent.iterdir()) == ["state", "state.lock"]

    run(main)


def test_an_end_in_order_writes_what_is_left(tmp_path: FilePath) -> None:
    path = tmp_path / "state"

    async def main() -> None:
        relay = Relay(path)
        relay.begin()
        for number in range(1000):
            relay.register(number)
        await relay.file.close()
        assert restored(path) == relay.records()

    run(main)


def test_it_is_written_anew_before_it_grows_without_bound(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "_WORTH_A_REWRITE", 20)
    monkeypatch.setattr(state_file, "FLUSH_S", 0.001)
    path = tmp_path / "state"

    async def main() -> None:
        relay = Relay(path)
        relay.begin()
        for number in range(100):
            relay.registry.delete(relay.register(number))
            relay.register(10_000)
            relay.registry.seen([Address("192.0.2.1", 11_000)], time.monotonic())
            await asyncio.sleep(0.005)
        await until_kept(relay, path)
        assert len(path.read_bytes().splitlines()) < 50
        await relay.file.close()

    run(main)


def test_two_relays_do_not_share_one(tmp_path: FilePath) -> None:
    async def main() -> None:
        first, second = Relay(tmp_path / "state"), Relay(tmp_path / "state")
        first.begin()
        with pytest.raises(StateFileInUse, match="another relay keeps its state there"):
            second.begin()
        await first.file.close()
        second.begin()
        await second.file.close()

    run(main)


def make_fifo(path: FilePath) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"junk\n"), "does not begin like a state file"),
        (lambda path: path.write_bytes(b""), "does not begin like a state file"),
        (lambda path: path.chmod(0o622), "others may have written it"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (make_fifo, "it is no regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "symbolic links"),
        (lambda path: os.truncate(path, state_file.MAX_FILE + 1), "it has more than"),
    ],
)
def test_a_file_that_is_no_use_is_said_and_ignored(
    tmp_path: FilePath,
    spoil: Callable[[FilePath], object],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "state"

    async def main() -> None:
        relay = Relay(path)
        relay.begin()
        relay.register(1)
        await relay.file.close()

    run(main)
    spoil(path)
    with caplog.at_level(logging.WARNING):
        assert restored(path) == {}
    (line,) = caplog.messages
    assert str(path) in line
    assert said in line


def test_damaged_lines_are_said_and_left_out(
    tmp_path: FilePath, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state"

    async def main() -> None:
        relay = Relay(path)
        relay.begin()
        relay.register(1)
        relay.register(2)
        await relay.file.close()

    run(main)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"a", b"b"), *lines[2:]]))
    with caplog.at_level(logging.WARNING):
        assert len(restored(path)) == 1
    assert caplog.messages == [f"the state file {path}: 1 damaged lines are left out"]


@pytest.mark.parametrize(("down_s", "left"), [(LEASE_S, 1), (LEASE_S + 30.0, 0)])
def test_leases_run_while_the_relay_is_down(tmp_path: FilePath, down_s: float, left: int) -> None:
    """Rather too long than too short: by as much as the file may be behind."""
    path = tmp_path / "state"
    clock = Clock("boot", time.monotonic(), 1e9)

    async def main() -> None:
        relay = Relay(path, lambda: clock)
        relay.begin()
        relay.register(1)
        await relay.file.close()

    run(main)
    later = Clock("boot", clock.monotonic + down_s, 0.0)
    records = StateFile(path, LISTENERS, LEASE_S, lambda: later).restore()
    alive = [each for each in records if each.lease_end > later.monotonic]
    assert len(alive) == left


def test_after_a_start_of_the_machine_times_are_by_the_new_clock(tmp_path: FilePath) -> None:
    path = tmp_path / "state"
    before = Clock("before", time.monotonic(), 1e9)

    async def main() -> None:
        relay = Relay(path, lambda: before)
        relay.begin()
        relay.register(1)
        await relay.file.close()

    run(main)
    after = Clock("after", 12.0, before.wall + 10.0)
    (record,) = StateFile(path, LISTENERS, LEASE_S, lambda: after).restore()
    assert record.lease_end == pytest.approx(12.0 - 10.0 + LEASE_S + state_file.ALIVE_S, abs=0.1)


def test_a_full_disk_is_said_once_and_the_file_is_whole_again_after(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state_file, "_FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(state_file, "_LAST_RETRY_S", 0.02)
    path = tmp_path / "state"
    is_full = False
    write = os.write

    def write_if_there_is_room(descriptor: int, data: bytes) -> int:
        if is_full:
            write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_if_there_is_room)

    async def main() -> None:
        nonlocal is_full
        relay = Relay(path)
        relay.begin()
        relay.register(1)
        await until_kept(relay, path)
        is_full = True
        for number in range(2, 5):
            relay.register(number)
            await asyncio.sleep(0.15)
        assert relay.file.failures > 2
        assert 0 in restored(path)  # what was written stays
        is_full = False
        await until_kept(relay, path)
        await relay.file.close()

    with caplog.at_level(logging.INFO):
        run(main)
    said = [each for each in caplog.messages if "the state file has" not in each]
    assert said[0].startswith(f"the state file {path} cannot be written: No space left on device;")
    assert [each for each in said if "damaged" not in each][1:] == [
        f"the state file {path} is written again"
    ]


def test_a_disk_that_hangs_does_not_hold_the_end_up(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write = os.write

    def slow(descriptor: int, data: bytes) -> int:
        time.sleep(1.5)
        return write(descriptor, data)

    async def main() -> None:
        relay = Relay(path)
        relay.begin()
        relay.register(1)
        await until_kept(relay, path)
        monkeypatch.setattr(os, "write", slow)
        relay.register(2)
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await relay.file.close()
        assert time.monotonic() - began < 1.2

    run(main)


def test_a_folder_that_cannot_be_used_is_an_error_of_the_system(tmp_path: FilePath) -> None:
    (tmp_path / "file").write_text("")

    async def main() -> None:
        with pytest.raises(OSError, match=r"Not a directory|File exists"):
            StateFile(tmp_path / "file" / "state", LISTENERS, LEASE_S).lock()

    run(main)
