"""The command line of `quicpipe`: which commands there are, their options, and their help."""

import argparse
import importlib.metadata
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import printable
from .options import (
    duration,
    file_path,
    fingerprint,
    is_code,
    key_file,
    label,
    listener_name,
    peer_or_label,
    relay_name,
    token_file,
    whom_to_dial,
)

USAGE = 2
"""The exit code for a command line that makes no sense."""

_DESCRIPTION = "One end-to-end encrypted QUIC connection between two devices, through a relay."
_EXAMPLES = """\
examples:
  quicpipe accept --code --relay relay.example
      prints a code to be read out, such as 7-crossword-puppet; then on the other machine:
  quicpipe dial 7-crossword-puppet --relay relay.example

  quicpipe accept --listen --anyone --relay relay.example
      prints this machine's fingerprint, sha256:…; then on the other machine:
  quicpipe dial sha256:… --relay relay.example

  quicpipe dial --relay relay.example --invite invite.json
      then bring invite.json to the other machine, and there:
  quicpipe accept --invite invite.json

'quicpipe COMMAND --help' says more.
"""
_DIAL_EXAMPLES = """\
examples:
  quicpipe accept --code --relay relay.example
      prints a code to be read out, such as 7-crossword-puppet; then on the other machine:
  quicpipe dial 7-crossword-puppet --relay relay.example

  quicpipe dial --relay relay.example --invite invite.json
      type here; on the other machine: quicpipe accept --invite invite.json
  quicpipe dial --relay relay.example < photo.jpg | ssh host 'quicpipe accept > photo.jpg'
      the invite travels through ssh, the photo through the relay

  quicpipe dial sha256:… --relay relay.example
      the peer with that fingerprint, which runs 'quicpipe accept --listen' there
  quicpipe dial laptop --relay relay.example
      the same, if 'quicpipe pin laptop sha256:…' was said before

Without PEER the invite goes to standard output as one line, before what the peer sends, or to the
file that --invite names, which is removed again once it is used up.
"""
_ACCEPT_EXAMPLES = """\
examples:
  quicpipe accept --code --relay relay.example
      prints a code to be read out, once and within 10 minutes; then on the other machine:
  quicpipe dial 7-crossword-puppet --relay relay.example

  quicpipe accept < invite.json > photo.jpg
      receive only: standard input is used up by the invite
  quicpipe accept --invite invite.json
      both ways: type here, it arrives there
  quicpipe accept --code --save bob --relay relay.example
      the same, and keep the other side's fingerprint: the next time --peer bob does
  quicpipe accept --listen --peer sha256:… --relay relay.example
      wait at the relay for the peer with that fingerprint, serve it, and end
  quicpipe accept --listen --anyone --keep-open --relay relay.example > messages
      receive only, from whomever, one after another, until Ctrl-C

The invite names the relay, and how the two ends authenticate.
"""
_AUTHENTICATION = """\
authentication:
  without an option  a one-time key in the invite, which must be handed over unseen
  --pairing-key-file a key that both machines have ('quicpipe keygen'); also from the environment,
                     QUICPIPE_PAIRING_KEY_FILE or QUICPIPE_PAIRING_KEY
  --peer             certificates, both ways ('quicpipe identity')
"""
_PIN_EXAMPLES = """\
example:
  quicpipe pin laptop sha256:…
      'quicpipe dial laptop' and '--peer laptop' mean that peer from now on

The pins are in the file known_peers beside one's identity.
"""
_DOCTOR_EXAMPLES = """\
examples:
  quicpipe doctor --relay relay.example
      whether UDP passes, how far the relay is, where it sees this machine, what the NAT does,
      whether the router maps ports, which packets are too large
  quicpipe doctor --json --relay relay.example
      the same for programs

It maps no port and changes nothing. Exit code 1: the relay is not reached.
"""
_IDENTITY_EXAMPLES = """\
example:
  quicpipe identity
      prints sha256:…; give it to the other side for its option --peer

The identity is kept in $XDG_CONFIG_HOME/quicpipe/identity.pem (or below ~/.config).
"""
_KEYGEN_EXAMPLES = """\
example:
  quicpipe keygen --output pair.key
      then bring pair.key to the other machine, and give --pairing-key-file pair.key at both
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints have one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with exit code 2."""
        self.exit(USAGE, f"{self.prog}: {message} (see '{self.prog} --help')\n")


class _WhomToDial(argparse.Action):
    """One word, or a code that was written with spaces."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep what is meant."""
        words = list(values or ())
        if not words:
            return
        if len(words) > 1 and not is_code(words[0]):
            parser.error(f"unknown argument: {printable(words[1], 60)}")
        try:
            namespace.peer = whom_to_dial(" ".join(words))
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument PEER: {error}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = _Parser(
        prog="quicpipe",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"quicpipe {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_dial(commands)
    _add_accept(commands)
    identity = _add(commands, "identity", "make or show one's identity", _IDENTITY_EXAMPLES)
    _add_identity_option(identity)
    keygen = _add(commands, "keygen", "make a pairing key", _KEYGEN_EXAMPLES)
    keygen.add_argument(
        "--output",
        type=file_path,
        metavar="FILE",
        help="a new file, readable by you only (default: standard output)",
    )
    _add_pins(commands)
    _add_doctor(commands)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("quicpipe")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


_Commands = argparse._SubParsersAction  # the only name that argparse has for it


def _add_dial(commands: "_Commands[_Parser]") -> None:
    parser = _add(
        commands, "dial", "open a pipe to a peer, or invite one", _DIAL_EXAMPLES, long=True
    )
    parser.add_argument(
        "peer",
        nargs="*",
        default=None,  # argparse would read its SUPPRESS as if it had been given
        action=_WhomToDial,
        metavar="PEER",
        help="the code that 'accept --code' shows, its words may stand apart; or who listens at the"
        " relay: a fingerprint, a label of 'quicpipe pin', or with a pairing key any name; without"
        " it an invite is made",
    )
    _add_code_options(parser, "show the invite as a QR code, too, on standard error")
    parser.add_argument(
        "--invite",
        type=file_path,
        metavar="FILE",
        help="write the invite here (default: standard output)",
    )
    parser.add_argument(
        "--expires",
        dest="expires_s",
        type=duration,
        metavar="TIME",
        help="how long to wait for the answer: 90s, 10m, 2h, 1d, or plain seconds (default: 1h)",
    )
    _add_relay_options(parser, "the relay; without it $QUICPIPE_RELAY (default port: 4433)")
    _add_authentication_options(parser)


def _add_accept(commands: "_Commands[_Parser]") -> None:
    parser = _add(
        commands, "accept", "answer an invite, or wait for dialers", _ACCEPT_EXAMPLES, long=True
    )
    _add_listen_options(parser)
    parser.add_argument(
        "--code",
        action="store_true",
        help="make a spoken code, on standard error, and wait until the other side dials it",
    )
    _add_code_options(parser, "show the code as a QR code, too")
    parser.add_argument(
        "--invite",
        type=file_path,
        metavar="FILE",
        help="read the invite from here, waiting a little for it (default: standard input)",
    )
    _add_relay_options(
        parser,
        "the relay to listen at, without it $QUICPIPE_RELAY; with an invite: reach its relay under"
        " another name",
    )
    _add_authentication_options(parser)


def _add_listen_options(parser: _Parser) -> None:
    parser.add_argument(
        "--listen",
        action="store_true",
        help="wait at the relay, under one's identity, for a dialer: no invite is handed over",
    )
    parser.add_argument(
        "--name",
        type=listener_name,
        metavar="NAME",
        help="listen under this name, too; it proves nothing to the dialer",
    )
    parser.add_argument(
        "--anyone", action="store_true", help="let in whoever dials, whatever its certificate"
    )
    parser.add_argument(
        "--keep-open",
        action="store_true",
        help="serve one dialer after another, receiving only (default: the first, both ways)",
    )


def _add_code_options(parser: _Parser, qr_help: str) -> None:
    parser.add_argument("--qr", action="store_true", help=qr_help)
    parser.add_argument(
        "--save",
        type=label,
        metavar="LABEL",
        help="with a code: keep the other side's fingerprint under this label, as 'pin' does",
    )


def _add_pins(commands: "_Commands[_Parser]") -> None:
    pin = _add(commands, "pin", "keep a peer's fingerprint under a label", _PIN_EXAMPLES)
    pin.add_argument("label", type=label, metavar="LABEL")
    pin.add_argument("fingerprint", type=fingerprint, metavar="FINGERPRINT")
    unpin = _add(commands, "unpin", "forget a label", _PIN_EXAMPLES)
    unpin.add_argument("label", type=label, metavar="LABEL")
    pins = _add(commands, "pins", "show all labels with their fingerprints", _PIN_EXAMPLES)
    for parser in (pin, unpin, pins):
        _add_identity_option(parser)


def _add_doctor(commands: "_Commands[_Parser]") -> None:
    parser = _add(commands, "doctor", "say what network this is", _DOCTOR_EXAMPLES)
    _add_relay_address_options(
        parser, "the relay to be reached; without it $QUICPIPE_RELAY (default port: 4433)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON (docs/protocol.md §12.4)")


def _add(
    commands: "_Commands[_Parser]", name: str, summary: str, examples: str, *, long: bool = False
) -> _Parser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"{_AUTHENTICATION}\n{examples}" if long else examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        # What is not given must not be set: `Options` has the defaults.
        argument_default=argparse.SUPPRESS,
    )


def _add_relay_address_options(parser: _Parser, help_text: str) -> None:
    parser.add_argument("--relay", type=relay_name, metavar="HOST[:PORT]", help=help_text)
    parser.add_argument(
        "--relay-fingerprint",
        type=fingerprint,
        metavar="FINGERPRINT",
        help="trust the relay with this certificate and no other: sha256:…; without it, for the"
        " relay of $QUICPIPE_RELAY, $QUICPIPE_RELAY_FINGERPRINT",
    )
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token-file",
        type=token_file,
        metavar="FILE",
        help="the token that the relay wants is in this file; without it $QUICPIPE_TOKEN_FILE or"
        " $QUICPIPE_TOKEN",
    )
    token.add_argument("--token-prompt", action="store_true", help="ask for it on the terminal")


def _add_relay_options(parser: _Parser, help_text: str) -> None:
    _add_relay_address_options(parser, help_text)
    parser.add_argument(
        "--original",
        action="store_true",
        help="talk to a peer of the Go original; nobody is authenticated then",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say what happens, and which path the pipe takes and why, on standard error",
    )
    path = parser.add_mutually_exclusive_group()
    path.add_argument(
        "--relay-only",
        action="store_true",
        help="stay on the relay: the other side learns none of our addresses",
    )
    path.add_argument(
        "--direct-only",
        action="store_true",
        help="send nothing by the relay; fail if there is no direct path within 30 s",
    )


def _add_authentication_options(parser: _Parser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--pairing-key-file", type=key_file, metavar="FILE", help="the pairing key is in this file"
    )
    group.add_argument(
        "--pairing-key",
        dest="pairing_key_prompt",
        action="store_true",
        help="ask for the pairing key on the terminal",
    )
    group.add_argument(
        "--peer",
        dest="peers",
        action="append",
        type=peer_or_label,
        metavar="FINGERPRINT",
        help="let in the peer with this certificate, or of this label (repeatable)",
    )
    _add_identity_option(parser)


def _add_identity_option(parser: _Parser) -> None:
    parser.add_argument(
        "--identity", type=file_path, metavar="FILE", help="one's own certificate and private key"
    )
