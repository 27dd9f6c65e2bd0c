"""Pins: labels that stand for fingerprints, in a file that is nobody else's."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers import KnownPeers, PeersError, UsageError
from peers.errors import FileUnusable, IdentityInvalid
from peers.known_peers import default_pins_path, editing

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "known_peers"


def test_what_is_pinned_is_known_again(path: Path) -> None:
    with editing(path) as pins:
        pins.add("Laptop", ONE.upper().replace("SHA256:", ""))
        pins.add("desktop.home", TWO)
    found = KnownPeers.load(path)
    assert list(found) == [("desktop.home", TWO), ("laptop", ONE)]
    assert found.get(" LAPTOP ") == ONE
    assert found.get("nobody") is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"desktop.home {TWO}\nlaptop {ONE}\n"


def test_no_file_is_nobody(path: Path) -> None:
    assert len(KnownPeers.load(path)) == 0


def test_a_pin_is_not_replaced_unasked() -> None:
    pins = KnownPeers()
    pins.add("laptop", ONE)
    pins.add("laptop", ONE)
    with pytest.raises(UsageError, match="stands for sha256:1"):
        pins.add("laptop", TWO)
    assert pins.get("laptop") == ONE
    pins.add("laptop", TWO, replace=True)
    assert pins.get("laptop") == TWO
    pins.remove("LAPTOP")
    with pytest.raises(UsageError, match="no pin"):
        pins.remove("laptop")


@pytest.mark.parametrize("label", ["", "7-crossword-puppet", "a b", "a" * 64, "1" * 64, ONE, "é"])
def test_what_is_no_label(label: str) -> None:
    with pytest.raises(UsageError, match="not a label"):
        KnownPeers().add(label, ONE)


def test_what_is_no_fingerprint() -> None:
    with pytest.raises(IdentityInvalid):
        KnownPeers().add("laptop", "sha256:12")


def test_comments_and_empty_lines(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"# mine\n\n  laptop   {ONE}  \r\n")
    path.chmod(0o600)
    assert list(KnownPeers.load(path)) == [("laptop", ONE)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("laptop", "line 1"),
        (f"laptop {ONE}\nlaptop {TWO}", "line 2: 'laptop' stands there twice"),
        (f"laptop {ONE}\nLAPTOP {TWO}", "twice"),
        (f"7 {ONE}", "not a label"),
        (f"{ONE} laptop", "not a fingerprint"),
        ("laptop sha256:12", "not a fingerprint"),
        ("\0\xff", "line 1"),
    ],
)
def test_a_file_that_is_none(path: Path, text: str, said: str) -> None:
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(FileUnusable, match=said) as refused:
        KnownPeers.load(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(FileUnusable), editing(path) as pins:
        pins.add("desktop", ONE)
    assert path.read_bytes() == text.encode("latin-1")  # and it is left as it is


@given(st.binary(max_size=300))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("pins") / "known_peers"
    path.write_bytes(raw)
    path.chmod(0o600)
    try:
        KnownPeers.load(path)
    except PeersError as error:
        told = str(error)
    else:
        told = ""
    assert "\n" not in told


def test_a_file_that_others_can_write(path: Path) -> None:
    with editing(path) as pins:
        pins.add("laptop", ONE)
    path.chmod(0o620)
    with pytest.raises(FileUnusable, match=r"can be written by others \(mode 0620\)"):
        KnownPeers.load(path)
    path.chmod(0o644)
    assert len(KnownPeers.load(path)) == 1


def test_a_file_that_is_too_long(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"#" * (2 * 1024 * 1024 + 1))
    with pytest.raises(FileUnusable, match="longer than"):
        KnownPeers.load(path)


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(FileUnusable, match="cannot read"):
        KnownPeers.load(path)


def test_nobodys_change_is_lost(path: Path) -> None:
    """Many at a time: each reads what the one before it has written."""

    def pin(number: int) -> None:
        with editing(path) as pins:
            pins.add(f"peer{number}", f"sha256:{number:064x}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(pin, range(40)))
    assert len(KnownPeers.load(path)) == 40
    assert sorted(os.listdir(path.parent)) == [".known_peers.lock", "known_peers"]


def test_the_file_is_beside_the_identity(tmp_path: Path) -> None:
    assert default_pins_path(tmp_path / "me.pem") == tmp_path / "known_peers"
    assert default_pins_path().name == "known_peers"
