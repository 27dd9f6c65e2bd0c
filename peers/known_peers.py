"""Pins: which label stands for which peer's fingerprint. One line each, `label sha256:…`.

Whoever can write this file can name himself as anybody, so it must be nobody's but its owner's. It
holds no secret.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from relay.wire.rendezvous import is_name

from .errors import FileUnusable, IdentityInvalid, UsageError, printable
from .identity import default_path, parse_fingerprint
from .private_file import write_private

FILE_NAME = "known_peers"
MAX_PINS = 10_000
_MAX_FILE = 2 * 1024 * 1024
_WRITABLE_BY_OTHERS = 0o022


class KnownPeers:
    """Labels with their fingerprints, in memory. Labels are written as names are (`is_name`)."""

    def __init__(self, pins: dict[str, str] | None = None) -> None:
        self._pins = dict(pins or {})

    def __len__(self) -> int:
        return len(self._pins)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Label and fingerprint, by label."""
        return iter(sorted(self._pins.items()))

    @classmethod
    def load(cls, path: Path) -> "KnownPeers":
        """Read the file; no file: nobody is known.

        :raises FileUnusable: and says what is wrong with it.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & _WRITABLE_BY_OTHERS:
                    raise FileUnusable(
                        f"{path} can be written by others (mode {mode:04o}), who could pin"
                        f" themselves: look through it, then 'chmod 600 {path}'"
                    )
                content = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise FileUnusable(f"cannot read {path}: {why}") from None
        if len(content) > _MAX_FILE:
            raise FileUnusable(f"{path} is longer than {_MAX_FILE} bytes: no file of pins")
        return cls(_parse(content, path))

    def save(self, path: Path) -> None:
        """Write the file with mode 0600, whole or not at all, and its folder if there is none.

        :raises FileUnusable: it cannot be written.
        """
        lines = [f"{label} {fingerprint}\n" for label, fingerprint in self]
        write_private(path, "".join(lines).encode(), overwrite=True, make_folder=True)

    def get(self, label: str) -> str | None:
        """The fingerprint behind a label; None: there is no such pin."""
        return self._pins.get(label.strip().lower())

    def add(self, label: str, fingerprint: str, *, replace: bool = False) -> None:
        """Pin a fingerprint under a label.

        :raises UsageError: the label is none, or stands for another peer and `replace` is not set.
        :raises IdentityInvalid: the fingerprint is none.
        """
        label, fingerprint = check_label(label), parse_fingerprint(fingerprint)
        there = self._pins.get(label)
        if there not in {None, fingerprint} and not replace:
            raise UsageError(
                f"{label} stands for {there} already: remove that first, with 'quicpipe unpin"
                f" {label}', if it has really another identity now"
            )
        if there is None and len(self._pins) >= MAX_PINS:
            raise UsageError(f"there are {MAX_PINS} pins already: remove some")
        self._pins[label] = fingerprint

    def remove(self, label: str) -> None:
        """Forget a pin.

        :raises UsageError: there is none.
        """
        if self._pins.pop(label.strip().lower(), None) is None:
            raise UsageError(f"there is no pin '{printable(label, 70)}'")


@contextlib.contextmanager
def editing(path: Path) -> Iterator[KnownPeers]:
    """Read the pins, let the caller change them, and write them back, one process at a time.

    :raises FileUnusable: it cannot be read or written.
    """
    with _locked(path):
        pins = KnownPeers.load(path)
        yield pins
        pins.save(path)


def default_pins_path(identity: Path | None = None) -> Path:
    """Beside the identity, which is `identity` or the usual one.

    :raises UsageError: there is no home folder to keep either in.
    """
    return (identity or default_path()).with_name(FILE_NAME)


def check_label(text: str) -> str:
    """A label in its one form: lower case.

    :raises UsageError: it is none.
    """
    label = text.strip().lower()
    if not is_name(label):
        raise UsageError(
            f"'{printable(text, 70)}' is not a label: expected a letter, then letters, digits, '.',"
            " '_' and '-', at most 63"
        )
    return label


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise FileUnusable(f"cannot write {path}: {why}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _parse(content: bytes, path: Path) -> dict[str, str]:
    pins: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        label, _, fingerprint = text.partition(" ")
        try:
            # Twice the same label would mean that one of the two is not looked at.
            if label.lower() in pins:
                raise UsageError(f"'{label}' stands there twice")
            pins[check_label(label)] = parse_fingerprint(fingerprint)
        except (UsageError, IdentityInvalid) as error:
            raise FileUnusable(f"{path}, line {number}: {error}") from None
        if len(pins) > MAX_PINS:
            raise FileUnusable(f"{path} has more than {MAX_PINS} pins")
    return pins
