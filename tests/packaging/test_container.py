"""The container file, as far as that can be seen without a container engine."""

import json
import re
import tomllib
from pathlib import PurePosixPath

from tests.lab.processes import PROJECT

FILE = PROJECT / "packaging" / "container" / "Containerfile"

Step = tuple[str, str]


def steps() -> list[Step]:
    """Instructions with their arguments, lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    parts = (line.partition(" ") for line in whole.splitlines() if line.strip())
    return [(name, " ".join(rest.split())) for name, _, rest in parts]


def arguments(name: str) -> list[str]:
    return [rest for step, rest in steps() if step == name]


def project() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    return found


def test_all_that_is_built_is_copied_and_nothing_that_is_not_there() -> None:
    copied = [each.split()[:-1] for each in arguments("COPY") if not each.startswith("--from")]
    names = {name for group in copied for name in group}
    assert all((PROJECT / name).exists() for name in names), names
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    installed = packages & {"relay", "peers", "bpf"}
    about = project()["project"]
    assert names == installed | {"pyproject.toml", str(about["readme"]), "LICENSE"}


def test_what_it_runs_is_what_was_installed() -> None:
    (built,) = (each for each in arguments("RUN") if "venv" in each)
    (copied,) = (each for each in arguments("COPY") if each.startswith("--from"))
    folder = copied.split()[-1]
    assert f"-m venv {folder} " in built
    assert f"{folder}/bin/pip install" in built
    assert f"PATH={folder}/bin:$PATH" in arguments("ENV")[0]
    scripts = project()["project"]["scripts"]
    assert isinstance(scripts, dict)
    commands = [json.loads(each)[0] for each in arguments("ENTRYPOINT")]
    commands += [json.loads(each.partition("CMD ")[2])[0] for each in arguments("HEALTHCHECK")]
    assert [each for each in commands if each not in scripts] == []


def test_it_runs_as_its_own_user_who_owns_its_folders() -> None:
    (user,) = arguments("USER")
    (made,) = (each for each in arguments("RUN") if "useradd" in each)
    assert made.split("&&")[0].split()[-1] == user
    folders = re.findall(r"(?:STATE|RUNTIME)_DIRECTORY=(\S+)", arguments("ENV")[0])
    assert len(folders) == 2
    owned = made.split("&&")[1].split()
    assert owned[:2] == ["install", "-d"]
    assert owned[owned.index("-o") + 1] == user
    assert all(folder in owned for folder in folders)
    assert all(PurePosixPath(each).is_absolute() for each in folders)
    assert set(arguments("VOLUME")) <= set(folders)
    order = [name for name, _ in steps()]
    assert order.index("USER") > max(at for at, name in enumerate(order) if name == "RUN")


def test_its_port_and_signal_are_the_relays() -> None:
    from relay.config import DEFAULT_PORT

    assert arguments("EXPOSE") == [f"{DEFAULT_PORT}/udp"]
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
