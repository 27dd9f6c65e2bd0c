"""The state file: the registrations, kept up to date so that they are there after a crash.

Changes are appended as they come; when the file has grown, it is written anew beside itself and
renamed. What cannot be written is said once, and tried again; the relay goes on meanwhile.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

from relay.core.leases import LeaseSource, Record
from relay.core.table import Change
from relay.lifecycle import journal, records
from relay.lifecycle.journal import BadJournal, Clock, Journal
from relay.lifecycle.records import BadRecord
from relay.wire.address import Address

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_FILE = 2**30
"""Bytes; a million registrations have less. What is larger is none of ours."""

FLUSH_S = 0.1
"""So old may be what a crash loses."""
ALIVE_S = 5.0
"""So often the file says that the relay runs; by so much a lease may end early after a crash."""
_OWNERS_PER_TURN = 200
"""Written in one turn of the event loop: two milliseconds."""
_WORTH_A_REWRITE = 2_000
"""Lines that are out of date, besides as many as there are registrations."""
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_CLOSE_PATIENCE_S = 0.4


class StateFileInUse(Exception):
    """Another relay keeps its state there."""


class StateFile:
    """Keeps the registrations of one relay in a file. A `relay.control.Forwarder`."""

    def __init__(
        self,
        path: Path,
        listeners: Sequence[Address],
        lease_s: float,
        clock: Callable[[], Clock] | None = None,
    ) -> None:
        """Nothing is touched before `lock`.

        :param listeners: the relay's addresses, by the index that `Path.listener` says.
        """
        self._path = path
        self._listeners = listeners
        self._lease_s = lease_s
        self._clock = clock or now
        self._lock: int | None = None
        self._file: int | None = None
        self._leases: LeaseSource | None = None
        self._dirty: dict[int, None] = {}  # owners to be written, in order
        self._owners: set[int] = set()  # that the file has
        self._lines = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._writer = ThreadPoolExecutor(1, "state-file")
        self.failures = 0
        """How often writing failed."""

    def lock(self) -> None:
        """Make it this relay's.

        :raises StateFileInUse: it is another's.
        :raises OSError: the folder cannot be used.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self._path.with_name(self._path.name + ".lock")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StateFileInUse(f"{self._path}: another relay keeps its state there") from None
        self._lock = descriptor

    def restore(self) -> list[Record]:
        """What an earlier run left, as far as it can be read; the log says what cannot."""
        try:
            left = self._read()
        except FileNotFoundError:
            return []
        except (OSError, BadJournal) as error:
            what = error.strerror if isinstance(error, OSError) else error
            logger.warning("the state file %s is ignored: %s", self._path, what)
            return []
        if left.damaged:
            logger.warning(
                "the state file %s: %d damaged lines are left out", self._path, left.damaged
            )
        found = list(self._records(left))
        logger.info("the state file has %d registrations", len(found))
        return found

    def begin(self, leases: LeaseSource, owners: Iterable[int]) -> None:
        """From now on follow changes; the file is written anew, with these owners first."""
        self._leases = leases
        self._dirty.update(dict.fromkeys(owners))
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the registry."""
        if self._leases is not None:
            for change in changes:
                self._dirty[change.owner] = None
            self._wake.set()

    async def close(self) -> None:
        """Write what is still to be written, in at most a moment, and let go of the file."""
        if self._task is not None:
            self._closing.set()
            self._wake.set()
            await asyncio.wait({self._task}, timeout=_CLOSE_PATIENCE_S)
            self._task.cancel()
            done, _ = await asyncio.wait({self._task}, timeout=_CLOSE_PATIENCE_S)
            if not done:  # a disk that hangs: its thread uses the descriptor still
                self._file = None
            self._task = None
        self._writer.shutdown(wait=False)
        self._close_file()
        self._leases = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read(self) -> Journal:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadJournal("it is no regular file")
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                raise BadJournal("others may have written it; expected mode 0600 and our own")
            if status.st_size > MAX_FILE:
                raise BadJournal(f"it has more than {MAX_FILE} bytes")
            return journal.read(_lines(file.read()))

    def _records(self, left: Journal) -> Iterator[Record]:
        """Leases run from when the relay was last there: what extended them meanwhile is lost."""
        now = self._clock()
        shift = left.lease_shift(now)
        # Rather too long than too short: a lease that packets kept alive is not in the file.
        earliest_end = left.clock.monotonic + shift + ALIVE_S + self._lease_s
        for entry in left.entries.values():
            try:
                record = records.decode(entry, self._listeners)
            except BadRecord as error:
                logger.debug("a registration in the state file is left out: %s", error)
                continue
            lease_end = max(record.lease_end + shift, earliest_end)
            valid_until = record.valid_until + shift
            yield replace(record, lease_end=lease_end, valid_until=valid_until)

    async def _keep(self) -> None:
        """Write, until cancelled."""
        retry_s = _FIRST_RETRY_S
        is_broken = False
        while True:
            try:
                await self._rewrite()
                if is_broken:
                    logger.info("the state file %s is written again", self._path)
                is_broken, retry_s = False, _FIRST_RETRY_S
                await self._follow()
                if self._closing.is_set():
                    return
            except OSError as error:
                self.failures += 1
                if not is_broken:
                    logger.warning(
                        "the state file %s cannot be written: %s; after a crash registrations "
                        "would be missing",
                        self._path,
                        error.strerror or error,
                    )
                is_broken = True
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def _follow(self) -> None:
        """Append, until the file is worth to be written anew.

        :raises OSError: the file can no longer be used.
        """
        alive_at = self._clock().monotonic
        while self._lines < 2 * len(self._owners) + _WORTH_A_REWRITE:
            if not self._dirty and not self._closing.is_set():
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ALIVE_S):
                        await self._wake.wait()
                await self._rest()
            clock = self._clock()
            data = self._next_lines()
            is_last = self._closing.is_set() and not self._dirty
            if self._owners and (is_last or clock.monotonic >= alive_at + ALIVE_S):
                data += journal.alive_line(clock)
                alive_at = clock.monotonic
            if data:
                await self._append(data)
            if is_last:
                return

    async def _rest(self) -> None:
        """Let changes gather: what comes together is written together."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._closing.wait()

    async def _rewrite(self) -> None:
        """Write everything to a new file in place of the old one."""
        self._close_file()
        self._dirty.update(dict.fromkeys(self._owners))
        self._owners.clear()
        unfinished = self._path.with_name(f".{self._path.name}.new")
        descriptor = await self._in_thread(_create, unfinished)
        try:
            self._file, self._lines = descriptor, 0
            await self._append(journal.first_line(self._clock()))
            while self._dirty:
                await self._append(self._next_lines())
            await self._in_thread(_finish, descriptor, unfinished, self._path)
        except BaseException:
            self._close_file()
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def _next_lines(self) -> bytes:
        """What is to be written of some owners."""
        if self._leases is None:
            return b""
        lines = []
        now = self._clock().monotonic
        for owner in list(islice(self._dirty, _OWNERS_PER_TURN)):
            del self._dirty[owner]
            record = self._leases.record(owner, now)
            if record is not None:
                self._owners.add(owner)
                lines.append(journal.set_line(records.encode(record, self._listeners)))
            elif owner in self._owners:
                self._owners.discard(owner)
                lines.append(journal.end_line(owner))
        self._lines += len(lines)
        return b"".join(lines)

    async def _append(self, data: bytes) -> None:
        if self._file is None:
            raise OSError("it is not open")
        await self._in_thread(_write, self._file, data)

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        """Call it where waiting for a disk holds nobody up; cancelled, wait until it is done."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._writer, call, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])  # it uses the descriptor
            raise

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def now() -> Clock:
    """This moment."""
    return Clock(_boot_id(), time.monotonic(), time.time())


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux
        return ""


def _lines(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def _create(path: Path) -> int:
    path.unlink(missing_ok=True)  # of a crash
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _finish(descriptor: int, unfinished: Path, path: Path) -> None:
    """Make it the file: whole or not at all, even if the machine stops just now."""
    os.fsync(descriptor)
    unfinished.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
