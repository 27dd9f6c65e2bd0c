"""The pinned maps: made before the program is compiled, found again after a restart.

    <folder>/                  one relay's folder in a bpffs; locked while its relay lives
        program                the program that is attached
        maps_<fingerprint>/    one pin per map; the fingerprint changes with the layout

Maps of another layout or size are not read: the relay starts clean and removes them.
"""

import ctypes
import errno
import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from . import layout
from .syscall import MAPPABLE, Map, MapShape, MapType, close_all, pin

BPFFS = Path("/sys/fs/bpf")
PROGRAM_FUNCTION = "quicpipe_relay"
"""The program's name, also in the kernel (at most 15 characters)."""
_MAPS_PREFIX = "maps_"


class PinSizes(NamedTuple):
    """How many entries the maps take."""

    cids: int
    owners: int
    buckets: int = 1
    links: int = 64
    misses: int = 4096


class PinsInUse(Exception):
    """Another relay that lives has this folder."""


class Pins:
    """One relay's folder of pins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "program"
        self.next_program = folder / "program_next"
        self.maps = folder / f"{_MAPS_PREFIX}{layout.fingerprint()}"
        self._lock: int | None = None

    def lock(self) -> None:
        """Make the folder, and keep other relays out of it while this process lives.

        :raises PinsInUse: if one is in it.
        :raises OSError: if the folder cannot be made; see `ensure_bpffs`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise PinsInUse(f"another relay uses {self.folder}") from None
        self._lock = descriptor

    def unlock(self) -> None:
        """Let others in; the pins stay."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def adopt_program(self) -> None:
        """What was built last is now what is attached."""
        self.next_program.rename(self.program)

    def remove_left_overs(self) -> None:
        """Remove maps of other layouts, and a program that was never attached."""
        self.next_program.unlink(missing_ok=True)
        for folder in self.folder.glob(f"{_MAPS_PREFIX}*"):
            if folder != self.maps:
                _remove_folder(folder)

    def remove_maps(self) -> None:
        """Remove this layout's maps; a program that uses them keeps them until it is gone."""
        _remove_folder(self.maps)

    def remove(self) -> None:
        """Remove everything."""
        for folder in self.folder.glob(f"{_MAPS_PREFIX}*"):
            _remove_folder(folder)
        _remove_folder(self.folder)


class KernelMaps:
    """All maps of one relay, open."""

    def __init__(self, maps: dict[str, Map]) -> None:
        self.owner_by_cid = maps["owner_by_cid"]
        self.owner_by_source = maps["owner_by_source"]
        self.relay_config = maps["relay_config"]
        self.outcomes = maps["outcomes"]
        self.links = maps["links"]
        self.missed_cids = maps["missed_cids"]
        self.egress = maps["egress"]
        self._all = list(maps.values())
        owners = maps["owners"]
        self._memory = owners.memory()
        self._words = memoryview(self._memory).cast("Q")
        buckets = maps["buckets"]
        self._bucket_memory = buckets.memory()
        self.bucket_words = memoryview(self._bucket_memory).cast("Q")
        """The same as `buckets`, as numbers of 8 bytes."""
        bucket_shape = layout.Bucket * buckets.shape.capacity
        self.buckets: ctypes.Array[layout.Bucket] = bucket_shape.from_buffer(self._bucket_memory)
        """Shared with the program, too."""
        shape = layout.Owner * owners.shape.capacity
        self.owners: ctypes.Array[layout.Owner] = shape.from_buffer(self._memory)
        """Shared with the program: what is written here counts at once."""

    @classmethod
    def create(cls, pins: Pins, sizes: PinSizes) -> Self:
        """Make and pin new maps, for which there is no pin yet.

        :raises OSError: without the rights, or without memory.
        """
        pins.maps.mkdir()
        maps = {}
        for name, shape in shapes(sizes).items():
            maps[name] = Map.create(name, shape)
            pin(maps[name].descriptor, pins.maps / name)
        return cls(maps)

    @classmethod
    def open(cls, pins: Pins) -> Self | None:
        """Open the maps of an earlier run, whatever their sizes; None if they are not all there.

        :raises OSError: without the rights.
        """
        maps: dict[str, Map] = {}
        for name, wanted in shapes(PinSizes(1, 1)).items():
            try:
                maps[name] = Map.open(pins.maps / name)
            except (FileNotFoundError, NotADirectoryError):
                close_all(maps.values())
                return None
            if replace(wanted, capacity=maps[name].shape.capacity) != maps[name].shape:
                close_all(maps.values())
                return None
        return cls(maps)

    @property
    def sizes(self) -> PinSizes:
        """How many entries the maps take."""
        return PinSizes(
            self.owner_by_cid.shape.capacity,
            len(self.owners),
            len(self.buckets),
            self.links.shape.capacity,
            self.missed_cids.shape.capacity,
        )

    def words(self, field: str) -> list[int]:
        """One 8-byte field of all owners: much quicker than owner by owner."""
        offset = layout.OWNER_WORDS[field]
        size = ctypes.sizeof(layout.Owner) // 8
        return self._words[offset::size].tolist()

    def close(self) -> None:
        """Close the maps; the pins and the program keep them. `owners` is not to be used again."""
        del self.owners, self.buckets
        self.bucket_words.release()
        self._words.release()
        close_all(self._all)


def shapes(sizes: PinSizes) -> dict[str, MapShape]:
    """Every map by name."""
    cid, entry = layout.CID_SIZE, ctypes.sizeof(layout.CidEntry)
    source, ref = layout.SOURCE_KEY_SIZE, ctypes.sizeof(layout.OwnerRef)
    owner, link = ctypes.sizeof(layout.Owner), ctypes.sizeof(layout.Link)
    config, bucket = ctypes.sizeof(layout.Config), ctypes.sizeof(layout.Bucket)
    return {
        "owner_by_cid": MapShape(MapType.LRU_HASH, cid, entry, sizes.cids),
        "owner_by_source": MapShape(MapType.HASH, source, ref, sizes.owners),
        "owners": MapShape(MapType.ARRAY, 4, owner, sizes.owners, MAPPABLE),
        "buckets": MapShape(MapType.ARRAY, 4, bucket, sizes.buckets, MAPPABLE),
        "relay_config": MapShape(MapType.ARRAY, 4, config, 1),
        "outcomes": MapShape(MapType.PERCPU_ARRAY, 4, 8, len(layout.KernelOutcome)),
        "links": MapShape(MapType.HASH, 4, link, sizes.links),
        "missed_cids": MapShape(MapType.LRU_HASH, cid, 4, sizes.misses),
        "egress": MapShape(MapType.DEVMAP_HASH, 4, 4, sizes.links),
    }


def ensure_bpffs(folder: Path) -> None:
    """Mount a bpffs at its usual place if `folder` lies there and none is mounted.

    :raises OSError: without the rights, or if `folder` lies in no bpffs.
    """
    if _is_in_bpffs(folder):
        return
    if not folder.is_relative_to(BPFFS):
        raise OSError(errno.EINVAL, "pins can only be in a bpffs, such as /sys/fs/bpf", str(folder))
    BPFFS.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(BPFFS), b"bpf", 0, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mounting a bpffs at {BPFFS}: {os.strerror(code)}")


def _is_in_bpffs(folder: Path) -> bool:
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [(place, kind) for place, kind in mounts if folder.is_relative_to(place)]
    # The innermost, and of several at one place the last.
    return max(enumerate(above), key=lambda at: (len(at[1][0]), at[0]))[1][1] == "bpf"


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
