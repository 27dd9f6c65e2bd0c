"""Finding kernel headers, and merging the halves that Debian makes of them."""

from pathlib import Path

import pytest

from bpf.headers import HeadersMissing, find_headers

NOWHERE = Path("/nonexistent")


def halves(sources: Path, version: str) -> None:
    """As Debian's two packages lie in /usr/src; some folders are in both."""
    files = {
        f"linux-headers-{version}-common/include/linux/kconfig.h": "kconfig",
        f"linux-headers-{version}-common/include/linux/types.h": "types",
        f"linux-headers-{version}-common/arch/x86/include/asm/page.h": "page",
        f"linux-headers-{version}-common/scripts/unused": "",
        f"linux-headers-{version}-amd64/include/generated/autoconf.h": version,
        f"linux-headers-{version}-amd64/arch/x86/include/generated/asm/x.h": "generated",
    }
    for name, text in files.items():
        path = sources / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    return folder


def test_two_halves_become_one_tree(sources: Path, tmp_path: Path) -> None:
    halves(sources, "6.1.0-9")
    tree = find_headers(tmp_path / "cache", sources, NOWHERE, NOWHERE)
    assert tree is not None
    assert tree.is_relative_to(tmp_path / "cache")
    for name, text in (
        ("include/linux/kconfig.h", "kconfig"),
        ("include/generated/autoconf.h", "6.1.0-9"),
        ("arch/x86/include/asm/page.h", "page"),
        ("arch/x86/include/generated/asm/x.h", "generated"),
    ):
        assert (tree / name).read_text() == text
    assert not any(path.is_symlink() for path in sources.rglob("*"))  # nothing was touched


def test_the_tree_is_made_once(sources: Path, tmp_path: Path) -> None:
    halves(sources, "6.1.0-9")
    first = find_headers(tmp_path, sources, NOWHERE, NOWHERE)
    assert first is not None
    made = first.stat().st_ino
    again = find_headers(tmp_path, sources, NOWHERE, NOWHERE)
    assert again == first
    assert again.stat().st_ino == made


def test_a_tree_of_links_to_nowhere_is_made_anew(sources: Path, tmp_path: Path) -> None:
    halves(sources, "6.1.0-9")
    tree = find_headers(tmp_path, sources, NOWHERE, NOWHERE)
    assert tree is not None
    (tree / "include/generated").unlink()
    (tree / "include/generated").symlink_to("/nonexistent")
    assert find_headers(tmp_path, sources, NOWHERE, NOWHERE) == tree
    assert (tree / "include/generated/autoconf.h").exists()


def test_the_newest_version_is_taken(sources: Path, tmp_path: Path) -> None:
    for version in ("6.1.0-9", "6.1.0-56", "5.10.0-99"):
        halves(sources, version)
    tree = find_headers(tmp_path, sources, NOWHERE, NOWHERE)
    assert tree is not None
    assert (tree / "include/generated/autoconf.h").read_text() == "6.1.0-56"


def test_a_whole_tree_is_used_as_it_is(sources: Path, tmp_path: Path) -> None:
    whole = sources / "linux-headers-6.8.0-1"
    for name in ("include/linux/kconfig.h", "include/generated/autoconf.h"):
        (whole / name).parent.mkdir(parents=True)
        (whole / name).write_text("")
    assert find_headers(tmp_path, sources, NOWHERE, NOWHERE) == whole


def test_without_any_it_says_what_to_install(sources: Path, tmp_path: Path) -> None:
    (sources / "linux-headers-6.1.0-9-common/include/linux").mkdir(parents=True)
    with pytest.raises(HeadersMissing, match="apt install linux-headers-amd64"):
        find_headers(tmp_path, sources, NOWHERE, NOWHERE)
