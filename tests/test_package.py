"""The wheel, installed away from the checkout, must work whole."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel, and sees our dependencies but not us."""
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    _run(*build, "--outdir", str(folder), str(_copy_of_the_sources(folder)))
    (wheel,) = folder.glob("quicpipe-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    scheme = sysconfig.get_path("purelib", "venv", {"base": str(environment)})
    # Only the folder is added: the checkout's own editable .pth in it is not followed.
    (Path(scheme) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = (sys.executable, "-m", "pip", "--python", str(environment), "install", "--quiet")
    _run(*install, "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel))
    return environment / "bin"


def test_every_package_comes_from_the_wheel(installed: Path) -> None:
    code = "import relay, peers, bpf; print(relay.__file__, peers.__file__, bpf.__file__)"
    paths = _run(str(installed / "python"), "-c", code).split()
    assert all(path.startswith(str(installed.parent)) for path in paths), paths


@pytest.mark.parametrize("command", ["quicpipe", "quicpipe-relay"])
def test_the_commands_answer(installed: Path, command: str) -> None:
    assert "usage" in _run(str(installed / command), "--help").lower()


def test_every_source_file_travels(installed: Path) -> None:
    (site,) = (installed.parent / "lib").glob("python*/site-packages")
    wanted = [
        path.relative_to(ROOT)
        for package in ("relay", "peers", "bpf")
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".c", ".h", ".txt", ".typed", ".html"}
    ]
    assert [str(path) for path in wanted if not (site / path).exists()] == []


def test_the_unrelated_bcc_of_the_index_is_no_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    assert not [line for group in groups for line in group if line.startswith("bcc")]


@pytest.mark.parametrize("name", ["aioquic", "hypercorn"])
def test_what_we_know_inside_out_has_an_upper_bound(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = [line for line in project["dependencies"] if line.startswith(name)]
    assert "<" in line


def _copy_of_the_sources(folder: Path) -> Path:
    """A build writes beside its sources, so it gets its own."""
    copy = folder / "sources"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "relay", "peers", "bpf"):
        _run("cp", "-r", str(ROOT / name), str(copy))
    return copy


def _run(*command: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
