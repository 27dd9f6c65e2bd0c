"""What file, environment and flags say together: a flag wins over a variable, that over the file.

A key that nobody knows is refused, for it is a setting misspelt; the message proposes one.
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from relay.settings.declare import (
    ENVIRONMENT_PREFIX,
    Setting,
    SettingsSection,
    Source,
    sections,
)
from relay.settings.kinds import Unfit, describe, quote

CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"
"""Names the file in the environment."""

_OF_PEERS = (ENVIRONMENT_PREFIX + "FINGERPRINT",)
"""What the command `quicpipe` reads: a user may try both in one shell."""

_MAX_FILE = 2**20
"""Bytes of a settings file."""


class SettingsError(Exception):
    """A setting is not as it should be; one line: where, which, and what was expected."""


class Checked(Protocol):
    """A dataclass of settings that must fit each other may say what does not."""

    def problem(self) -> tuple[str, str] | None:
        """The name of the field to blame, and what is wrong with it; None if nothing is."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and who said it."""

    value: Any
    said_by: str
    """For people: `--workers`, `QUICPIPE_RELAY_WORKERS`, `/etc/quicpipe/relay.toml: workers`."""


Values = Mapping[tuple[str, ...], Given]
"""By `Setting.path`."""

_M = TypeVar("_M")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[_M]):
    """All settings, and who said each; what nobody said has its default."""

    settings: _M
    given: Values
    file: Path | None

    def said_by(self, setting: Setting) -> str:
        """For people."""
        given = self.given.get(setting.path)
        return given.said_by if given else "default"


def load(
    model: Callable[..., _M],
    *,
    flags: Values,
    environment: Mapping[str, str],
    file: Path | None,
    must_exist: bool = True,
    check: bool = True,
) -> Loaded[_M]:
    """Put it all together; `model` is the dataclass.

    :param must_exist: whether it is a mistake if there is no such file.
    :param check: whether the settings must fit each other: see `Checked`.
    :raises SettingsError: for the first mistake that is found.
    """
    found = sections(cast(type, model))
    given: dict[tuple[str, ...], Given] = {}
    if file is not None:
        table = _read(file, must_exist)
        if table is None:
            file = None
        else:
            given.update(_from_table(found, table, file))
    given.update(_from_environment(found, environment))
    given.update(flags)
    settings, parts = _build(cast(type[_M], model), found, given)
    for prefix, part in parts if check else ():
        _check(part, prefix, found, given)
    return Loaded(settings, given, file)


def value_of(settings: object, setting: Setting) -> object:
    """What a setting is now."""
    for name in setting.path:
        settings = getattr(settings, name)
    return settings


def _read(file: Path, must_exist: bool) -> dict[str, object] | None:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FILE + 1)
    except FileNotFoundError:
        if must_exist:
            raise SettingsError(f"{file}: there is no such file") from None
        return None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise SettingsError(f"{file}: has more than {_MAX_FILE} bytes; that is no settings file")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise SettingsError(f"{file}: is not UTF-8 text; expected TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: is not TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{file}: is not TOML: nested too deeply") from None


def _from_table(
    found: Sequence[SettingsSection], table: Mapping[str, object], file: Path
) -> dict[tuple[str, ...], Given]:
    by_key = {section.key: section for section in found}
    top = by_key.pop("")
    values: dict[tuple[str, ...], Given] = {}
    for key, value in table.items():
        inner = by_key.get(key)
        if inner is None:
            values.update(_from_section(top, {key: value}, file, [*by_key]))
        elif isinstance(value, dict):
            values.update(_from_section(inner, value, file, []))
        else:
            raise SettingsError(
                f"{file}: {key}: {describe(value)} is no section: expected [{key}] and its keys"
            )
    return values


def _from_section(
    section: SettingsSection, table: Mapping[str, object], file: Path, others: Sequence[str]
) -> dict[tuple[str, ...], Given]:
    by_key = {setting.keys[-1]: setting for setting in section.settings}
    values = {}
    for key, value in table.items():
        where = f"{file}: {section.key + '.' if section.key else ''}{key}"
        setting = by_key.get(key)
        if setting is None:
            known = [*by_key, *others]
            raise SettingsError(f"{where}: there is no such setting{_proposal(key, known)}")
        if Source.FILE not in setting.sources:
            raise SettingsError(f"{where}: not in a file; {_elsewhere(setting)}")
        try:
            read = setting.kind.from_toml(value)
        except Unfit as error:
            raise SettingsError(f"{where}: {_without_secret(setting, error)}") from None
        values[setting.path] = Given(_resolved(read, file), where)
    return values


def _from_environment(
    found: Sequence[SettingsSection], environment: Mapping[str, str]
) -> dict[tuple[str, ...], Given]:
    by_variable = {
        setting.variable: setting
        for section in found
        for setting in section.settings
        if Source.ENVIRONMENT in setting.sources
    }
    prefixes = tuple(section.prefix for section in found)
    values = {}
    for variable in sorted(environment):
        if not variable.startswith(prefixes) or variable in (CONFIG_VARIABLE, *_OF_PEERS):
            continue
        setting = by_variable.get(variable)
        if setting is None:
            known = [*by_variable, CONFIG_VARIABLE]
            raise SettingsError(f"{variable} is not known{_proposal(variable, known)}")
        text = environment[variable].strip()
        if not text:
            continue  # set to nothing: as if it were not set
        try:
            values[setting.path] = Given(setting.kind.from_text(text), variable)
        except Unfit as error:
            raise SettingsError(f"{variable}: {_without_secret(setting, error)}") from None
    return values


def _build(
    model: type[_M], found: Sequence[SettingsSection], given: Values
) -> tuple[_M, list[tuple[tuple[str, ...], object]]]:
    """The settings; and their parts, the whole at last, with the fields that lead to each."""
    chosen: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    parts: list[tuple[tuple[str, ...], object]] = []
    for path, each in given.items():
        if len(path) == 1:
            chosen[path[0]] = each.value
        else:
            inside.setdefault(path[0], {})[path[1]] = each.value
    of_sections = {setting.path[0] for each in found if each.key for setting in each.settings}
    for field in dataclasses.fields(cast(Any, model)):
        if field.name in of_sections:
            made = dataclasses.replace(cast(Any, field.default), **inside.get(field.name, {}))
            parts.append(((field.name,), made))
            chosen[field.name] = made
    everything = model(**chosen)
    return everything, [*parts, ((), everything)]


def _check(
    part: object, prefix: tuple[str, ...], found: Sequence[SettingsSection], given: Values
) -> None:
    problem = getattr(part, "problem", None)
    mistake = cast(Checked, part).problem() if problem is not None else None
    if mistake is None:
        return
    name, text = mistake
    path = (*prefix, name)
    keys = {setting.path: setting.key for each in found for setting in each.settings}
    where = given[path].said_by if path in given else keys[path]
    raise SettingsError(f"{where}: {text}")


def _proposal(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {quote(close[0])}?"
    shown = ", ".join(sorted(known))
    return f"; there are {shown}" if len(shown) <= 400 else "; check-config --all shows all"


def _elsewhere(setting: Setting) -> str:
    places = []
    if Source.ENVIRONMENT in setting.sources:
        places.append(setting.variable)
    if Source.FLAG in setting.sources:
        places.append(setting.flag)
    return f"use {' or '.join(places)}"


def _without_secret(setting: Setting, error: Unfit) -> str:
    return "is not what it should be (its value is not shown)" if setting.secret else str(error)


def _resolved(value: object, file: Path) -> object:
    """A relative path in a file is relative to the file's folder."""
    if isinstance(value, Path):
        return file.parent / value
    if type(value) is tuple:  # a list; what has fields of its own (NamedTuple) has no paths
        return tuple(_resolved(each, file) for each in value)
    return value
