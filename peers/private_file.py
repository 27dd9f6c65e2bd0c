"""Files that hold a secret: written whole or not at all, and readable by their owner only."""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from .errors import FileUnusable

PRIVATE_MODE = 0o600
_OTHERS = 0o077


def write_private(
    path: Path, content: bytes, *, overwrite: bool = False, make_folder: bool = False
) -> None:
    """Write `content` to `path` with mode 0600, atomically: no reader ever sees a part of it.

    :param make_folder: make the folders that are missing, with mode 0700.
    :raises FileUnusable: if the file exists and `overwrite` is not set, or cannot be written.
    """
    # One name per attempt, so that two processes at once do not write into the same file.
    temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}"
    try:
        if path.is_dir():
            raise FileUnusable(f"cannot write {path}: it is a folder; name a file in it")
        if not path.parent.is_dir():
            if not make_folder:
                # A mistyped name must not end up as a folder that nobody looks into.
                raise FileUnusable(
                    f"cannot write {path}: there is no folder {path.parent}; make it first, or"
                    " correct the name"
                )
            path.parent.mkdir(mode=0o700, parents=True)
        try:
            _write_new(temporary, content)
            if overwrite:
                temporary.replace(path)
            else:
                _rename_to_new(temporary, path)
        finally:
            # What writing began is removed, too. A second error must not hide the first.
            with contextlib.suppress(OSError):
                temporary.unlink()
    except (OSError, ValueError) as error:
        raise FileUnusable(f"cannot write {path}: {_why(error)}") from None


def read_private(path: Path, *, limit: int) -> bytes:
    """Read a file that nobody but its owner may read. Pipes and the like are taken as they are.

    :raises FileUnusable: if it cannot be read, is longer than `limit` bytes, or others can read it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS:
                raise FileUnusable(
                    f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}), so it"
                    f" is no secret: make a new one, or 'chmod 600 {path}' if nobody has seen it"
                )
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise FileUnusable(f"cannot read {path}: {_why(error)}") from None
    if len(content) > limit:
        raise FileUnusable(
            f"{path} is longer than {limit} bytes: not the kind of file expected here"
        )
    return content


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Give the finished file its name, unless that is taken: `rename` would replace silently."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # A file system without hard links: then the check and the rename are two steps.
        if path.exists():
            raise _exists(path) from None
        temporary.replace(path)


def _exists(path: Path) -> FileUnusable:
    return FileUnusable(f"{path} exists already and is not overwritten")


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
