"""Tokens as bytes: what is taken and what is not, the files they come from, and the command."""

import base64
import functools
import hashlib
import hmac
import json
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.admission import Grant, TokenLimits, TokenRefusal, TokenRefused
from relay.tokens import (
    MAX_REVOKED,
    MAX_SECRET,
    MAX_SECRETS,
    MAX_TOKEN,
    MIN_SECRET,
    Secrets,
    TokenFileError,
    Verifier,
    is_open_to_all,
    make_secret,
    new_claims,
    read_revoked,
)
from tests.lab.processes import relay_command

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000.0
SECRETS = Secrets.parse(SECRET, "here")
VERIFIER = Verifier(SECRETS)
CLAIMS = new_claims("alice", 60.0, TokenLimits(registrations=2), NOW)


def refused(authorization: str | None, verifier: Verifier = VERIFIER) -> TokenRefusal:
    with pytest.raises(TokenRefused) as error:
        verifier.check(authorization, NOW)
    assert SECRET not in str(error.value)
    return error.value.reason


def test_what_is_signed_is_taken() -> None:
    token = SECRETS.sign(CLAIMS)
    for authorization in (f"Bearer {token}", f"bearer  {token} ", f"BEARER {token}"):
        grant = VERIFIER.check(authorization, NOW)
        assert grant == Grant(
            "alice", str(CLAIMS["jti"]), NOW + 60, 60.0, TokenLimits(registrations=2)
        )


def test_a_token_made_by_hand_is_taken() -> None:
    """As docs/operating.md shows it: base64url of two JSON objects, and an HMAC of both."""

    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    parts = (json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps(CLAIMS))
    signed = b".".join(encoded(part.encode()) for part in parts)
    signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    token = (signed + b"." + encoded(signature)).decode()
    assert VERIFIER.check(f"Bearer {token}", NOW).subject == "alice"


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearerx y"]
)
def test_no_token(authorization: str | None) -> None:
    assert refused(authorization) is TokenRefusal.MISSING


@pytest.mark.parametrize("token", ["x", "a.b.c", "..", "Bearer", "\xff", "a" * MAX_TOKEN])
def test_malformed(token: str) -> None:
    assert refused(f"Bearer {token}") is TokenRefusal.MALFORMED


def test_the_longest_token_and_one_too_long() -> None:
    token = SECRETS.sign(CLAIMS | {"x": ""})
    room = (MAX_TOKEN - len(token)) * 3 // 4 - 2
    assert VERIFIER.check(f"Bearer {SECRETS.sign(CLAIMS | {'x': 'y' * room})}", NOW)
    long = SECRETS.sign(CLAIMS | {"x": "y" * MAX_TOKEN})
    assert refused(f"Bearer {long}") is TokenRefusal.MALFORMED


def test_another_secret_and_other_algorithms() -> None:
    other = Secrets.parse(SECRET[::-1], "there").sign(CLAIMS)
    assert refused(f"Bearer {other}") is TokenRefusal.BAD_SIGNATURE
    unsigned = jwt.encode(CLAIMS, "", algorithm="none")
    assert refused(f"Bearer {unsigned}") is TokenRefusal.MALFORMED
    longer = jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512")
    assert refused(f"Bearer {longer}") is TokenRefusal.MALFORMED


def test_any_altered_token_is_refused() -> None:
    token = SECRETS.sign(CLAIMS)
    for at in range(0, len(token), 7):
        altered = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(TokenRefused):
            VERIFIER.check(f"Bearer {altered}", NOW)


@given(st.text(max_size=200))
def test_any_header_is_refused(text: str) -> None:
    for authorization in (text, f"Bearer {text}"):
        with pytest.raises(TokenRefused):
            VERIFIER.check(authorization, NOW)


def test_a_secret_is_replaced_without_an_outage() -> None:
    old, new = SECRET, SECRET[::-1]
    both = Secrets.parse(f"# the new one signs\n{new}\n\n{old}\n", "here")
    verifier = Verifier(both)
    for secret in (old, new):
        token = Secrets.parse(secret, "here").sign(CLAIMS)
        assert verifier.check(f"Bearer {token}", NOW).subject == "alice"
    new_token = both.sign(CLAIMS)
    assert refused(f"Bearer {new_token}", Verifier(SECRETS)) is TokenRefusal.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there are 0 secrets"),
        ("# nothing\n", "there are 0 secrets"),
        ("x" * (MIN_SECRET - 1), f"secret 1 has {MIN_SECRET - 1} bytes"),
        (f"{SECRET}\n" + "x" * (MAX_SECRET + 1), f"secret 2 has {MAX_SECRET + 1} bytes"),
        (f"{SECRET}\n" * (MAX_SECRETS + 1), f"there are {MAX_SECRETS + 1} secrets"),
    ],
)
def test_secrets_that_are_none(text: str, said: str) -> None:
    with pytest.raises(TokenFileError, match=said) as error:
        Secrets.parse(text, "here")
    assert "xxx" not in str(error.value)


def test_a_secret_does_not_show_itself() -> None:
    assert "0123" not in repr(SECRETS) + str(SECRETS) + repr(VERIFIER)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    make_secret(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not is_open_to_all(path)
    Secrets.load(path).sign(CLAIMS)
    with pytest.raises(TokenFileError, match="exists already"):
        make_secret(path)
    path.chmod(0o644)
    assert is_open_to_all(path)
    for broken in (tmp_path / "none", tmp_path):
        with pytest.raises(TokenFileError, match="cannot read"):
            Secrets.load(broken)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(TokenFileError, match="not text"):
        Secrets.load(path)


def test_revoked_ids(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    path.write_text("# lost laptops\n\n t1  # alice\nt2\n")
    assert read_revoked(path) == {"t1", "t2"}
    path.write_text("\n".join(map(str, range(MAX_REVOKED))))
    assert len(read_revoked(path)) == MAX_REVOKED
    path.write_text("\n".join(map(str, range(MAX_REVOKED + 1))))
    with pytest.raises(TokenFileError, match="remove those that have expired"):
        read_revoked(path)


command = functools.partial(relay_command, "token")


def checked(done: "subprocess.CompletedProcess[str]", secrets: Secrets) -> Grant:
    assert done.returncode == 0, done.stderr
    (token,) = done.stdout.splitlines()
    grant = Verifier(secrets).check(f"Bearer {token}", time.time())
    assert f"token {grant.token_id} for {grant.subject}, until " in done.stderr
    assert token not in done.stderr
    return grant


def test_the_command_makes_a_secret_and_tokens(tmp_path: Path) -> None:
    path = str(tmp_path / "secret")
    made = command("--new-secret", path)
    assert (made.returncode, made.stdout) == (0, "")
    secrets = Secrets.load(Path(path))
    plain = checked(command("--token-secret-file", path), secrets)
    assert plain.subject == plain.token_id
    assert plain.limits == TokenLimits()
    assert 3590 < plain.left_s <= 3600
    options = "--ttl 10m --subject alice --rate 20mbit --bytes 10GB --registrations 4"
    options += " --connection-ids 64 --registrations-per-minute 30 --packet-rate 5000"
    full = checked(command(*options.split(), QUICPIPE_RELAY_TOKEN_SECRET_FILE=path), secrets)
    assert full.subject == "alice"
    assert full.limits == TokenLimits(4, 64, 30, 10**10, 2_500_000, 5000)
    assert 590 < full.left_s <= 600
    text = Path(path).read_text().strip()
    checked(command("--ttl", "5", QUICPIPE_RELAY_TOKEN_SECRET=text), secrets)
    assert command("--new-secret", path).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        ("", {}, 1, "there is no secret: name its file with --token-secret-file"),
        ("--config /nonexistent", {}, 1, "/nonexistent: there is no such file"),
        ("--token-secret-file /nonexistent", {}, 1, "cannot read /nonexistent"),
        ("--ttl 0", {}, 2, "'0' is not a number of seconds"),
        ("--rate 5", {}, 2, "is not a rate"),
        ("--bytes much", {}, 2, "is not an amount"),
        ("--subject " + "x" * 129, {}, 2, "expected 1 to 128"),
        ("--registrations 0", {}, 2, "is not a number from 1"),
        ("0123456789abcdef0123456789abcdef", {}, 2, "unrecognized arguments"),
    ],
)
def test_mistakes_are_one_line(
    arguments: str, variables: dict[str, str], code: int, said: str
) -> None:
    done = command(*arguments.split(), **variables)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("quicpipe-relay token: ")
    assert said in line


def test_claims_of_a_new_token() -> None:
    claims: dict[str, Any] = new_claims(None, 60.0, TokenLimits(), NOW)
    assert claims["sub"] == claims["jti"]
    assert "quicpipe" not in claims
    assert claims["jti"] != new_claims(None, 60.0, TokenLimits(), NOW)["jti"]
