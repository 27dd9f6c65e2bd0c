"""The command `quicpipe-relay token`: makes a token, or the secret that tokens are signed with."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from relay.access import load_secrets
from relay.config import DEFAULT_FILE, Chosen
from relay.core.admission import MAX_NAME, TokenLimits
from relay.settings.arguments import Parser, reader
from relay.settings.kinds import Amount, ByteRate, Integer, Seconds
from relay.settings.load import CONFIG_VARIABLE, SettingsError
from relay.tokens import Secrets, TokenFileError, make_secret, new_claims

_DONE, _FAILED = 0, 1
_MOST = 2**53
_LONGEST_S = 366 * 86_400.0
_DEFAULT_TTL_S = 3600.0

_EXAMPLES = """\
examples:
  quicpipe-relay token --new-secret /etc/quicpipe/token.secret
      a new secret in a new file that only you can read; give it to the relay
      as --token-secret-file
  quicpipe-relay token --ttl 1h --subject alice --rate 20mbit > alice.token
      a token for an hour; on standard error: its id, to revoke it by
  quicpipe dial --relay relay.example --token-file alice.token
      what alice does with it

Anything else that has the secret can make tokens, too: docs/operating.md shows how.
What a token does not say, the relay's own settings do (limits-...-per-token).
"""


def run_token(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.new_secret is not None:
        return _new_secret(options.new_secret)
    try:
        secrets = _secrets(options.token_secret_file, options.config)
    except (SettingsError, TokenFileError) as error:
        sys.stderr.write(f"quicpipe-relay token: {error}\n")
        return _FAILED
    now = time.time()
    claims = new_claims(options.subject, options.ttl, _limits(options), now)
    expires = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now + options.ttl))
    try:
        sys.stdout.write(secrets.sign(claims) + "\n")
        sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"quicpipe-relay token: cannot write the token: {error.strerror}\n")
        return _FAILED
    sys.stderr.write(f"token {claims['jti']} for {claims['sub']}, until {expires}\n")
    return _DONE


def _new_secret(path: Path) -> int:
    try:
        make_secret(path)
    except TokenFileError as error:
        sys.stderr.write(f"quicpipe-relay token: {error}\n")
        return _FAILED
    sys.stderr.write(
        f"a new secret is in {path}; as --token-secret-file it lets the relay check tokens\n"
    )
    return _DONE


def _secrets(file: Path | None, config: Path | None) -> Secrets:
    if file is not None:
        return Secrets.load(file)
    secrets = load_secrets(Chosen.of(os.environ, config).load(check=False).settings)
    if secrets is None:
        raise TokenFileError("there is no secret: name its file with --token-secret-file")
    return secrets


def _limits(options: argparse.Namespace) -> TokenLimits:
    return TokenLimits(
        registrations=options.registrations,
        connection_ids=options.connection_ids,
        registrations_per_minute=options.registrations_per_minute,
        bytes=options.bytes,
        bytes_per_s=options.rate,
        packets_per_s=options.packet_rate,
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="quicpipe-relay token",
        description="Make a token that lets its bearer use the relay, and print it.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--new-secret", metavar="FILE", type=Path, help="make a secret instead, in a new file"
    )
    parser.add_argument(
        "--token-secret-file",
        metavar="FILE",
        type=Path,
        help="sign with the first secret in it (default: the relay's own setting)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the relay's settings (default: {CONFIG_VARIABLE}, or {DEFAULT_FILE} if it exists)",
    )
    parser.add_argument(
        "--ttl",
        metavar="TIME",
        type=reader(Seconds(1.0, _LONGEST_S)),
        default=_DEFAULT_TTL_S,
        help="how long it admits: 90s, 10m, 1h, 2d (default: 1h)",
    )
    parser.add_argument(
        "--subject",
        metavar="NAME",
        type=_subject,
        help="whose it is: all tokens of one subject share what they permit (default: its id)",
    )
    counts = Integer(1, _MOST)
    for name, kind, text in (
        ("--registrations", counts, "registrations at a time"),
        ("--connection-ids", counts, "connection IDs in all of these"),
        ("--registrations-per-minute", counts, "requests to register in a minute"),
        ("--bytes", Amount(1, _MOST), "forwarded in the token's whole life: 500MB, 10GB"),
        ("--rate", ByteRate(1_000, _MOST), "forwarded in a second: 20mbit, 2.5MB"),
        ("--packet-rate", counts, "packets forwarded in a second"),
    ):
        parser.add_argument(name, metavar=kind.metavar, type=reader(kind), help=text)
    return parser


def _subject(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected 1 to {MAX_NAME} printable characters")
    return text
