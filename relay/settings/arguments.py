"""The flags of all settings, for argparse."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from relay.settings.declare import Setting, Source, sections
from relay.settings.kinds import Choice, Flag, Kind, Several, Unfit
from relay.settings.load import Given

_HELP_WIDTH = 100


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and shows help of at most 100 characters a line."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of `argparse.ArgumentParser`."""
        super().__init__(**options, formatter_class=_HelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=_HELP_WIDTH)


def add_flags(parser: argparse.ArgumentParser, model: type) -> None:
    """Give the parser a flag for every setting of the dataclass that may have one."""
    for section in sections(model):
        group = (
            parser.add_argument_group(f"[{section.key}]", section.help) if section.key else parser
        )
        for setting in section.settings:
            if Source.FLAG in setting.sources:
                _add(group, setting)


def flag_values(options: argparse.Namespace, model: type) -> dict[tuple[str, ...], Given]:
    """What the parsed flags say.

    :raises Unfit: too many of a list; names the flag.
    """
    values = {}
    for section in sections(model):
        for setting in section.settings:
            value = getattr(options, _destination(setting), None)
            if value is None:
                continue
            if isinstance(setting.kind, Several):
                try:
                    value = setting.kind.of(value)
                except Unfit as error:
                    raise Unfit(f"{setting.flag}: {error}") from None
            values[setting.path] = Given(value, setting.flag)
    return values


def default_text(setting: Setting) -> str:
    """What the setting is if nobody says anything, for people; empty if that needs no words."""
    if setting.default_help is not None:
        return setting.default_help
    return show(setting.default)


def show(value: object) -> str:
    """A value, for people."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case int():
            return f"{value:,}"
        case tuple() if type(value) is tuple:  # an address is one, too, but says itself
            return ", ".join(map(show, value)) or "none"
    return str(value)


def _add(group: "argparse._ActionsContainer", setting: Setting) -> None:
    default = default_text(setting)
    text = f"{setting.help} (default: {default})" if default else setting.help
    text = text.replace("%", "%%")
    kind = setting.kind
    common: dict[str, Any] = {"dest": _destination(setting), "default": None, "help": text}
    if isinstance(kind, Flag):
        group.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **common)
    elif isinstance(kind, Several):
        common["help"] = text + "; repeatable"
        metavar = kind.metavar
        group.add_argument(
            setting.flag, action="append", type=reader(kind.each), metavar=metavar, **common
        )
    else:
        metavar = (
            "{" + ",".join(kind.metavar.split("|")) + "}"
            if isinstance(kind, Choice)
            else (kind.metavar)
        )
        group.add_argument(setting.flag, type=reader(kind), metavar=metavar, **common)


def reader(kind: Kind[Any]) -> Callable[[str], Any]:
    """The `type` of an argparse argument.

    :param kind: of what the argument is.
    """

    def read(text: str) -> Any:
        try:
            return kind.from_text(text)
        except Unfit as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _destination(setting: Setting) -> str:
    return "setting_" + "_".join(setting.path)


def flags_of(model: type) -> Sequence[str]:
    """All flags, for tests and documents."""
    return [
        setting.flag
        for section in sections(model)
        for setting in section.settings
        if Source.FLAG in setting.sources
    ]
