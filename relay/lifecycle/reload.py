"""A reload: which settings take effect at once, and which at the next start."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from relay.config import Config
from relay.settings.check import changed
from relay.settings.declare import Setting
from relay.settings.load import value_of


class ReloadFailed(Exception):
    """Nothing was changed; one line for the operator."""


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload is to do."""

    config: Config
    """With everything that takes effect now; the rest as it was."""
    applied: tuple[str, ...]
    """The keys of settings that are others now."""
    waiting: tuple[str, ...]
    """The keys of settings that are others in the file, but take effect at the next start only."""
    certificate: str | None = None
    """The fingerprint of another certificate than before; None: it is the same."""
    revoked: int | None = None
    """How many ids the list of revoked tokens has; None: there is no list."""

    def __str__(self) -> str:
        said = f"changed: {', '.join(self.applied)}" if self.applied else "no setting changed"
        if self.certificate is not None:
            said += f"; the certificate is another one, {self.certificate}"
        if self.revoked is not None:
            said += f"; revoked tokens: {self.revoked}"
        if self.waiting:
            said += f"; only a restart or upgrade changes {', '.join(self.waiting)}"
        return said


def plan(running: Config, wanted: Config) -> Reload:
    """See what is other.

    :raises ReloadFailed: what takes effect at once does not fit what takes effect later.
    """
    differing = changed(running, wanted)
    now = [setting for setting in differing if setting.reload]
    config = running
    for setting in now:
        config = _with(config, setting, value_of(wanted, setting))
    later = tuple(setting.key for setting in differing if not setting.reload)
    for part in (config, *_sections(config)):
        if later and (problem := part.problem()) is not None:
            raise ReloadFailed(f"{', '.join(later)} cannot change without a restart: {problem[1]}")
    return Reload(config, tuple(setting.key for setting in now), later)


def listening_as(wanted: Config, running: Config) -> Config:
    """For a relay that listens where the service manager wants it."""
    return replace(wanted, listen=running.listen)


def _with(config: Config, setting: Setting, value: object) -> Config:
    *outer, name = setting.path
    change: dict[str, Any] = {name: value}
    if outer:
        change = {outer[0]: replace(getattr(config, outer[0]), **change)}
    return replace(config, **change)


def _sections(config: Config) -> Sequence[Any]:
    parts = [getattr(config, name) for name in config.__slots__]
    return [part for part in parts if hasattr(part, "problem")]
