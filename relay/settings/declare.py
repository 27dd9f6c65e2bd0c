"""How a field of a frozen dataclass becomes a setting: `field: int = setting(5, Integer(1, 9), …)`.

A setting `max-things` of the section `limits` is, in each source:

- in the file: `max-things = 5` under `[limits]`;
- in the environment: `QUICPIPE_RELAY_LIMITS_MAX_THINGS=5`;
- as a flag: `--limits-max-things 5`.

A field `limits: LimitSettings = section(LimitSettings(), …)` holds the settings of a section.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, TypeVar

from relay.settings.kinds import Kind

ENVIRONMENT_PREFIX = "QUICPIPE_RELAY_"

_METADATA = "relay.settings"

_T = TypeVar("_T")
_D = TypeVar("_D")


class Source(Flag):
    """Where a setting may be said."""

    FILE = auto()
    ENVIRONMENT = auto()
    FLAG = auto()
    EVERYWHERE = FILE | ENVIRONMENT | FLAG
    NOT_ON_COMMAND_LINE = FILE | ENVIRONMENT
    """All users of a machine can read command lines."""


@dataclass(frozen=True, slots=True)
class _Declared:
    kind: Kind[Any]
    help: str
    name: str | None
    default_help: str | None
    reload: bool
    secret: bool
    sources: Source


@dataclass(frozen=True, slots=True)
class _Section:
    help: str
    prefix: str | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, found in a dataclass."""

    path: tuple[str, ...]
    """The fields that lead to it."""
    keys: tuple[str, ...]
    """As the file names it: the section, if any, and the key."""
    kind: Kind[Any]
    default: Any
    help: str
    default_help: str | None
    """Said instead of the default; empty: nothing is said."""
    reload: bool
    """Whether a change takes effect at a reload; else at the next start."""
    secret: bool
    """Never shown."""
    sources: Source
    variable: str
    """In the environment."""

    @property
    def key(self) -> str:
        """For people: `limits.max-things`."""
        return ".".join(self.keys)

    @property
    def flag(self) -> str:
        """On the command line."""
        return "--" + "-".join(self.keys)


@dataclass(frozen=True, slots=True)
class SettingsSection:
    """A group of settings, for --help and the file."""

    key: str
    """Empty: those of no section."""
    help: str
    settings: tuple[Setting, ...]
    prefix: str
    """Of all its variables."""


def setting(
    default: _D,
    kind: Kind[_T],
    help: str,
    *,
    name: str | None = None,
    default_help: str | None = None,
    reload: bool = False,
    secret: bool = False,
    sources: Source = Source.EVERYWHERE,
) -> _D:
    """Declare a field of a frozen dataclass as a setting.

    :param help: one sentence, without its full stop; the default is added.
    :param name: the key, if it is not the field's name with hyphens.
    :param default_help: said instead of the default; empty: nothing.
    :param reload: whether SIGHUP changes it in a running relay.
    :param secret: never shown; it should not be allowed on the command line either.
    """
    declared = _Declared(kind, help, name, default_help, reload, secret, sources)
    return dataclasses.field(default=default, repr=not secret, metadata={_METADATA: declared})


def section(default: _D, help: str, *, prefix: str | None = None) -> _D:
    """Declare a field whose value is a dataclass of settings.

    :param prefix: of its variables, if it is not QUICPIPE_RELAY_ and the field's name.
    """
    return dataclasses.field(default=default, metadata={_METADATA: _Section(help, prefix)})


def sections(model: type) -> list[SettingsSection]:
    """All settings that a dataclass declares, by section; those of no section come first.

    Fields that are declared as neither are none of the operator's.
    """
    plain = tuple(_settings(model, (), (), ENVIRONMENT_PREFIX))
    found = [SettingsSection("", "", plain, ENVIRONMENT_PREFIX)]
    for field in dataclasses.fields(model):
        declared = field.metadata.get(_METADATA)
        if isinstance(declared, _Section):
            key = field.name.replace("_", "-")
            prefix = declared.prefix or f"{ENVIRONMENT_PREFIX}{field.name.upper()}_"
            inner = tuple(_settings(type(field.default), (field.name,), (key,), prefix))
            found.append(SettingsSection(key, declared.help, inner, prefix))
    return found


def _settings(
    model: type, path: tuple[str, ...], keys: tuple[str, ...], prefix: str
) -> Iterator[Setting]:
    for field in dataclasses.fields(model):
        declared = field.metadata.get(_METADATA)
        if isinstance(declared, _Declared):
            key = declared.name or field.name.replace("_", "-")
            yield Setting(
                path=(*path, field.name),
                keys=(*keys, key),
                kind=declared.kind,
                default=field.default,
                help=declared.help,
                default_help=declared.default_help,
                reload=declared.reload,
                secret=declared.secret,
                sources=declared.sources,
                variable=prefix + key.replace("-", "_").upper(),
            )
