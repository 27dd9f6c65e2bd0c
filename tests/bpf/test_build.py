"""What is said when the program cannot be built; it needs neither rights nor bcc."""

import sys
from pathlib import Path

import pytest

from bpf import loader
from bpf.build import BuildFailed, load_bcc, main
from bpf.loader import KernelPathUnavailable
from bpf.pins import Pins, PinsInUse, PinSizes

SIZES = PinSizes(64, 64)


def test_without_bcc_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="apt install python3-bpfcc"):
        load_bcc(tmp_path)


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "raise OSError('libbcc')"])
def test_a_bcc_that_does_not_load(tmp_path: Path, text: str) -> None:
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text(text)
    with pytest.raises(BuildFailed, match="does not load"):
        load_bcc(tmp_path)
    assert "bcc" not in sys.modules


def test_only_bcc_is_taken_from_the_distribution(tmp_path: Path) -> None:
    for name in ("bcc", "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("VALUE = 7")
    before = list(sys.path)
    try:
        assert load_bcc(tmp_path).VALUE == 7
        assert sys.path == before
        with pytest.raises(ModuleNotFoundError):
            __import__("another")
    finally:
        sys.modules.pop("bcc", None)


def test_the_reason_is_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No maps are pinned there: whatever it is that fails here, it is told in one line."""
    with pytest.raises(KernelPathUnavailable) as failure:
        loader.build(Pins(tmp_path), SIZES)
    assert str(failure.value).startswith("building the XDP program failed: ")
    assert "\n" not in str(failure.value)


def test_wrong_use_of_the_builder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--pins"])
    assert "usage" in capsys.readouterr().err


def test_one_relay_at_a_time(tmp_path: Path) -> None:
    first, second = Pins(tmp_path / "x"), Pins(tmp_path / "x")
    first.lock()
    with pytest.raises(PinsInUse, match="another relay uses"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_left_overs_are_removed_and_nothing_else(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    for name in ("maps_00000000/owners", f"{pins.maps.name}/owners", "program", "program_next"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pins.remove_left_overs()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"{pins.maps.name}/owners", "program"}
    pins.remove()
    assert not tmp_path.exists()
