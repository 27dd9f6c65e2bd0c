"""Kernel headers for bcc, also where the running kernel has none (containers, micro-VMs).

bcc looks in /lib/modules/<release>/build. For XDP programs the headers of another version serve as
well, since all that they use is stable interface. Debian splits its packages in two halves that are
of use only together: they are merged as links in a cache folder, and the system is not touched.
"""

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

SYSTEM_SOURCES = Path("/usr/src")
_WANTED = (Path("include/linux/kconfig.h"), Path("include/generated/autoconf.h"))
"""What bcc includes first: in Debian's packages one is in each half."""
_MERGED_FOLDERS = ("include", "arch/x86", "arch/arm64", "arch/riscv")


class HeadersMissing(Exception):
    """No kernel headers on this machine; the text says what to install."""


def find_headers(
    cache: Path,
    sources: Path = SYSTEM_SOURCES,
    modules: Path = Path("/lib/modules"),
    archive: Path = Path("/sys/kernel/kheaders.tar.xz"),
) -> Path | None:
    """The tree for BCC_KERNEL_SOURCE; None where bcc finds the running kernel's by itself.

    :raises HeadersMissing: if there is nothing to use.
    """
    if (modules / platform.release() / "build" / _WANTED[0]).exists():
        return None
    if archive.exists():
        return None
    for tree in _newest_first(sources):
        if _complete(tree):
            return tree
        common = _other_half(tree)
        if common is not None:
            return _merged(common, tree, cache)
    raise HeadersMissing(
        "no kernel headers found; install them (Debian: apt install linux-headers-amd64; "
        "those of another kernel version will do)"
    )


def default_cache() -> Path:
    """/var/cache/quicpipe for root, else the user's cache folder."""
    if os.geteuid() == 0:
        return Path("/var/cache/quicpipe")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quicpipe"


def _newest_first(sources: Path) -> list[Path]:
    """Trees that have been configured: those with the generated half."""
    trees = [tree for tree in sources.glob("linux-headers-*") if (tree / _WANTED[1]).exists()]
    return sorted(trees, key=_version, reverse=True)


def _version(tree: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", tree.name)]


def _complete(tree: Path) -> bool:
    return all((tree / wanted).exists() for wanted in _WANTED)


def _other_half(tree: Path) -> Path | None:
    common = tree.with_name(tree.name.rsplit("-", 1)[0] + "-common")
    return common if (common / _WANTED[0]).exists() else None


def _merged(common: Path, generated: Path, cache: Path) -> Path:
    """A tree of links: folders that only one half has are one link each."""
    target = cache / generated.name
    if _complete(target):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{generated.name}.", dir=cache))
    for folder in _MERGED_FOLDERS:
        _link(made / folder, [half / folder for half in (generated, common)])
    shutil.rmtree(target, ignore_errors=True)  # of headers that have been removed since
    try:
        made.rename(target)
    except OSError:
        shutil.rmtree(made)  # another process was quicker
    return target


def _link(target: Path, halves: list[Path]) -> None:
    present = [half for half in halves if half.exists()]
    if len(present) == 2 and all(half.is_dir() for half in present):
        target.mkdir(parents=True)
        for name in sorted({entry.name for half in present for entry in half.iterdir()}):
            _link(target / name, [half / name for half in present])
    elif present:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(present[0])
