"""The command `quicpipe-relay check-config`: are all settings right, and what are they?"""

import os
import sys
from collections.abc import Iterator, Sequence

from relay.admin.settings import AdminTokenError, load_token
from relay.certificate import CertificateError, ServerCertificate
from relay.config import Config, choose, config_parser, load_or_exit
from relay.settings.arguments import show
from relay.settings.declare import Setting, sections
from relay.settings.load import Loaded, SettingsError, value_of

_EXAMPLES = """\
It takes the relay's own flags too, starts nothing and changes nothing.

examples:
  quicpipe-relay check-config
      the settings of the environment and of the default file
  quicpipe-relay check-config --config relay.toml && systemctl reload quicpipe-relay
      reload only what is right
  quicpipe-relay check-config --all
      each setting, what it is, and who said so

exit code: 0 all is right, 2 something is not
"""


def run_check_config(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    parser = config_parser(
        prog="quicpipe-relay check-config",
        usage="%(prog)s [--all] [--SETTING VALUE ...]",
        description="Say whether all settings are right, and what they are.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--all", action="store_true", help="show defaults, too")
    everything = parser.parse_args(arguments).all
    loaded = load_or_exit(parser, choose(parser, arguments, os.environ))
    try:
        _check_files(loaded.settings)
    except SettingsError as error:
        parser.error(str(error))
    for line in _lines(loaded, everything=everything):
        sys.stdout.write(line + "\n")
    return 0


def changed(before: Config, after: Config) -> list[Setting]:
    """The settings in which two configurations differ."""
    return [
        setting
        for section in sections(Config)
        for setting in section.settings
        if value_of(before, setting) != value_of(after, setting)
    ]


def _check_files(config: Config) -> None:
    """Look at what the settings name.

    :raises SettingsError: it is no use.
    """
    if config.certificate is not None and config.private_key is not None:
        try:
            ServerCertificate.load(config.certificate, config.private_key)
        except CertificateError as error:
            raise SettingsError(str(error)) from None
    try:
        load_token(config.admin)
    except AdminTokenError as error:
        raise SettingsError(str(error)) from None


def _lines(loaded: Loaded[Config], *, everything: bool) -> Iterator[str]:
    yield f"settings are right ({loaded.file or 'no file'})"
    for section in sections(Config):
        for setting in section.settings:
            if everything or setting.path in loaded.given:
                value = value_of(loaded.settings, setting)
                text = "(not shown)" if setting.secret and value is not None else show(value)
                yield f"  {setting.key} = {text}  ({loaded.said_by(setting)})"
