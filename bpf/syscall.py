"""bpf(2) without compiler or library: maps, pins, programs, and a program's run on one frame.

Linux only, and in practice with CAP_BPF, CAP_NET_ADMIN or root. Everything raises OSError with the
kernel's errno.
"""

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_BATCH = 4096
"""Entries per call when a whole map is read or written."""
_TEST_RUN_ROOM = 4096
"""Bytes for the frame that comes out: a linear XDP frame is never longer than a page."""


class Command(IntEnum):
    """linux/bpf.h, enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    OBJECT_PIN = 6
    OBJECT_GET = 7
    PROGRAM_TEST_RUN = 10
    PROGRAM_BY_ID = 13
    OBJECT_INFO = 15
    MAP_LOOKUP_BATCH = 24
    MAP_LOOKUP_AND_DELETE_BATCH = 25
    MAP_UPDATE_BATCH = 26


class MapType(IntEnum):
    """linux/bpf.h, enum bpf_map_type: those that we use."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    DEVMAP_HASH = 25


MAPPABLE = 1 << 10
"""BPF_F_MMAPABLE: an array whose values userspace reads and writes as memory."""


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a map is made of; `value_size` is that of one CPU's value."""

    type: MapType
    key_size: int
    value_size: int
    capacity: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says about a loaded program."""

    id: int
    name: str
    run_time_ns: int
    """Counted only while the sysctl kernel.bpf_stats_enabled is on, as is `runs`."""
    runs: int


@dataclass(frozen=True, slots=True)
class FrameRun:
    """What a program did with one frame."""

    action: int
    frame: bytes
    duration_ns: int
    """Average over the repetitions."""


class Map:
    """One map, open. Keys and values are bytes; the shape says how many."""

    def __init__(self, descriptor: int, shape: MapShape) -> None:
        self.descriptor = descriptor
        self.shape = shape
        size = shape.value_size
        if shape.type is MapType.PERCPU_ARRAY:
            size = -(-size // 8) * 8 * possible_cpus()
        self._value_room = size

    @classmethod
    def create(cls, name: str, shape: MapShape) -> Self:
        """Make a new map; `name` is what tools show, at most 15 characters."""
        numbers = (shape.type, shape.key_size, shape.value_size, shape.capacity, shape.flags, 0, 0)
        return cls(_bpf(Command.MAP_CREATE, struct.pack("=7I16s", *numbers, name.encode())), shape)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a pinned map."""
        descriptor = open_pin(path)
        try:
            values = struct.unpack("=6I", _info(descriptor, 24))
            type_, _, key_size, value_size, capacity, flags = values
            # The kernel adds flags of its own to some types.
            shape = MapShape(MapType(type_), key_size, value_size, capacity, flags & MAPPABLE)
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise OSError(errno.EINVAL, f"{path} is no map of ours") from error
        return cls(descriptor, shape)

    def close(self) -> None:
        """Give up the descriptor; the map lives on in its pin and in the programs that use it."""
        os.close(self.descriptor)

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. A per-CPU map gives the values of all CPUs, 8-byte aligned."""
        value = ctypes.create_string_buffer(self._value_room)
        try:
            self._element(Command.MAP_LOOKUP, key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Insert or overwrite."""
        self._element(Command.MAP_UPDATE, key, ctypes.create_string_buffer(value, len(value)))

    def delete(self, key: bytes) -> bool:
        """Remove; returns whether it was there."""
        try:
            self._element(Command.MAP_DELETE, key, None)
        except FileNotFoundError:
            return False
        return True

    def put_all(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Insert or overwrite many."""
        for start in range(0, len(entries), _BATCH):
            part = entries[start : start + _BATCH]
            keys = ctypes.create_string_buffer(b"".join(key for key, _ in part))
            values = ctypes.create_string_buffer(b"".join(value for _, value in part))
            attributes = (0, 0, ctypes.addressof(keys), ctypes.addressof(values), len(part))
            _bpf(
                Command.MAP_UPDATE_BATCH,
                struct.pack("=4QIIQQ", *attributes, self.descriptor, 0, 0),
            )

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a hash, as they were when they were read; some may be missed or repeated
        if the map changes meanwhile."""
        return self._read_all(Command.MAP_LOOKUP_BATCH)

    def drain(self) -> list[tuple[bytes, bytes]]:
        """Take all entries out of a hash."""
        return list(self._read_all(Command.MAP_LOOKUP_AND_DELETE_BATCH))

    def memory(self) -> mmap.mmap:
        """The values of a MAPPABLE array as shared memory."""
        return mmap.mmap(self.descriptor, self.shape.value_size * self.shape.capacity)

    def _element(
        self, command: Command, key: bytes, value: "ctypes.Array[ctypes.c_char] | None"
    ) -> None:
        key_room = ctypes.create_string_buffer(key, self.shape.key_size)
        value_at = 0 if value is None else ctypes.addressof(value)
        _bpf(
            command,
            struct.pack("=IIQQQ", self.descriptor, 0, ctypes.addressof(key_room), value_at, 0),
        )

    def _read_all(self, command: Command) -> Iterator[tuple[bytes, bytes]]:
        key_size, value_size = self.shape.key_size, self._value_room
        room = max(_BATCH, 1)
        keys = ctypes.create_string_buffer(key_size * room)
        values = ctypes.create_string_buffer(value_size * room)
        here, after = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
        position = 0
        more = True
        while more:
            attributes = ctypes.create_string_buffer(
                struct.pack(
                    "=4QIIQQ",
                    position,
                    ctypes.addressof(after),
                    ctypes.addressof(keys),
                    ctypes.addressof(values),
                    room,
                    self.descriptor,
                    0,
                    0,
                )
            )
            try:
                _bpf_in_place(command, attributes)
            except FileNotFoundError:
                more = False  # the end of the map; what was read is valid
            (count,) = struct.unpack_from("=I", attributes, 32)
            raw_keys, raw_values = keys.raw, values.raw
            for i in range(count):
                yield (
                    raw_keys[i * key_size : (i + 1) * key_size],
                    raw_values[i * value_size : (i + 1) * value_size],
                )
            here.raw = after.raw
            position = ctypes.addressof(here)


def pin(descriptor: int, path: Path) -> None:
    """Give a map or program a name in a bpffs, so that it outlives its process."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(Command.OBJECT_PIN, struct.pack("=QII", ctypes.addressof(name), descriptor, 0))


def open_pin(path: Path) -> int:
    """A descriptor of what is pinned at `path`."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(Command.OBJECT_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


def program_by_id(program_id: int) -> int:
    """A descriptor of a loaded program."""
    return _bpf(Command.PROGRAM_BY_ID, struct.pack("=III", program_id, 0, 0))


def program_info(descriptor: int) -> ProgramInfo:
    """What the kernel knows of a program."""
    raw = _info(descriptor, 208)
    (program_id,) = struct.unpack_from("=I", raw, 4)
    (name,) = struct.unpack_from("16s", raw, 64)
    run_time_ns, runs = struct.unpack_from("=QQ", raw, 192)
    return ProgramInfo(program_id, name.split(b"\0")[0].decode(), run_time_ns, runs)


def run_on_frame(program: int, frame: bytes, repeat: int = 1, ingress: int = 0) -> FrameRun:
    """Run an XDP program on `frame` (at least 14 bytes) as if an interface had received it: `lo`,
    or the one of index `ingress` in this network namespace.

    With `repeat`, each run gets the frame that the one before left behind.
    """
    # struct xdp_md; without one the kernel takes `lo`.
    context = struct.pack("=6I", 0, len(frame), 0, ingress, 0, 0) if ingress else b""
    context_room = ctypes.create_string_buffer(context, len(context)) if context else None
    context_at = ctypes.addressof(context_room) if context_room is not None else 0
    into = ctypes.create_string_buffer(frame, len(frame))
    out = ctypes.create_string_buffer(_TEST_RUN_ROOM)
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "=4IQQ4IQQ3I",
            *(program, 0, len(frame), _TEST_RUN_ROOM),
            *(ctypes.addressof(into), ctypes.addressof(out)),
            *(repeat, 0, len(context), 0),
            *(context_at, 0),
            *(0, 0, 0),
        )
    )
    _bpf_in_place(Command.PROGRAM_TEST_RUN, attributes)
    _, action, _, size = struct.unpack_from("=4I", attributes, 0)
    (duration,) = struct.unpack_from("=I", attributes, 36)
    return FrameRun(action, out.raw[:size], duration)


def possible_cpus() -> int:
    """How many values a per-CPU map holds for each key."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return 1 + max(int(part.split("-")[-1]) for part in text.split(","))


def sum_over_cpus(values: bytes) -> int:
    """One counter of a per-CPU array."""
    return sum(struct.unpack(f"={len(values) // 8}Q", values))


def close_all(maps: Iterable[Map]) -> None:
    """Close each of them."""
    for each in maps:
        each.close()


def _info(descriptor: int, size: int) -> bytes:
    room = ctypes.create_string_buffer(size)
    _bpf(Command.OBJECT_INFO, struct.pack("=IIQ", descriptor, size, ctypes.addressof(room)))
    return room.raw


def _bpf(command: Command, attributes: bytes) -> int:
    return _bpf_in_place(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _bpf_in_place(command: Command, attributes: "ctypes.Array[ctypes.c_char]") -> int:
    number = _SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known to us on {platform.machine()}")
    result: int = _libc.syscall(number, int(command), attributes, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{command.name.lower()}: {os.strerror(code)}")
    return result


_libc = ctypes.CDLL(None, use_errno=True)
