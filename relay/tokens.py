"""Tokens as bytes: read from a request, signed, verified. JSON Web Tokens with HS256 (RFC 7519).

What their claims mean is decided in relay/core/admission.py. A secret never gets into a log, an
error or a command line: `Secrets` shows none, and it is read from a file or the environment.
"""

import os
import secrets as random
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jwt
from jwt.types import Options

from relay.core.admission import (
    AUDIENCE,
    LIMITS_CLAIM,
    Grant,
    TokenLimits,
    TokenRefusal,
    TokenRefused,
    admit,
)

ALGORITHM = "HS256"
"""The only one: a token that names another is refused, `none` above all (RFC 8725 §3.1)."""

MAX_TOKEN = 2_048
"""Characters of a token; one of ours has about 300."""

MIN_SECRET, MAX_SECRET = 32, 1_024
"""Bytes of a secret. HS256 wants no less than its hash has (RFC 7518 §3.2)."""

MAX_SECRETS = 8
MAX_REVOKED = 100_000
_MAX_FILE = 16 * 2**20

# Claims are judged in relay.core.admission, by a clock that is an argument.
_OPTIONS: Options = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class TokenFileError(Exception):
    """A file with secrets or revoked ids cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What tokens are signed with. Several while an old one is being replaced."""

    _keys: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str, where: str) -> "Secrets":
        """One secret a line: the first signs, all are taken. Empty lines and `#` lines are none.

        :param where: names the origin in errors.
        :raises TokenFileError: and says nothing of the secret but its length.
        """
        lines = [line.strip() for line in text.splitlines()]
        keys = tuple(line.encode() for line in lines if line and not line.startswith("#"))
        if not 1 <= len(keys) <= MAX_SECRETS:
            raise TokenFileError(
                f"{where}: there are {len(keys)} secrets; expected 1 to {MAX_SECRETS}, one a line"
            )
        for number, key in enumerate(keys, 1):
            if not MIN_SECRET <= len(key) <= MAX_SECRET:
                raise TokenFileError(
                    f"{where}: secret {number} has {len(key)} bytes; expected {MIN_SECRET} to"
                    f" {MAX_SECRET}: make one with 'quicpipe-relay token --new-secret FILE'"
                )
        return cls(keys)

    @classmethod
    def load(cls, path: Path) -> "Secrets":
        """Read a file of secrets.

        :raises TokenFileError: it cannot be read, or is no such file.
        """
        return cls.parse(_read(path), str(path))

    def sign(self, claims: Mapping[str, object]) -> str:
        """A token with these claims."""
        return jwt.encode(dict(claims), self._keys[0], algorithm=ALGORITHM)

    def verify(self, token: str) -> dict[str, object]:
        """The claims of a token that one of the secrets has signed.

        :raises TokenRefused: any other text.
        """
        if len(token) > MAX_TOKEN:
            raise TokenRefused(TokenRefusal.MALFORMED, "the token is too long")
        for key in self._keys:
            try:
                claims: dict[str, object] = jwt.decode(
                    token, key, algorithms=[ALGORITHM], options=_OPTIONS
                )
            except jwt.InvalidSignatureError:
                continue
            except Exception as error:  # besides InvalidTokenError the library promises no list
                raise TokenRefused(
                    TokenRefusal.MALFORMED,
                    f"the token is no JWT signed with {ALGORITHM} ({type(error).__name__})",
                ) from None
            return claims
        raise TokenRefused(
            TokenRefusal.BAD_SIGNATURE, "the token was signed with another secret, or altered"
        )


@dataclass(slots=True)
class Verifier:
    """Who is let in: by which secrets, and whom not any more. Both are replaced on reload."""

    secrets: Secrets
    revoked: frozenset[str] = frozenset()
    grace_s: float = 0.0
    """Seconds after a token's expiry in which what it has begun may go on."""

    def check(self, authorization: str | None, now: float) -> Grant:
        """What the value of a header `Authorization` permits.

        :param now: seconds since 1970.
        :raises TokenRefused: nothing.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused(
                TokenRefusal.MISSING,
                "this relay wants a token: send it as 'Authorization: Bearer …'",
            )
        claims = self.secrets.verify(token.strip())
        return admit(claims, revoked=self.revoked, now=now, grace_s=self.grace_s)


def new_claims(
    subject: str | None, ttl_s: float, limits: TokenLimits, now: float
) -> dict[str, object]:
    """Claims of a new token; without a subject it is one of its own.

    :param now: seconds since 1970.
    """
    token_id = random.token_hex(8)
    given = {name: value for name, value in asdict(limits).items() if value is not None}
    return {
        "aud": AUDIENCE,
        "sub": subject or token_id,
        "jti": token_id,
        "iat": int(now),
        "exp": int(now + ttl_s),
        **({LIMITS_CLAIM: given} if given else {}),
    }


def read_revoked(path: Path) -> frozenset[str]:
    """Read a list of revoked tokens' ids, one a line; what follows a `#` is a remark.

    :raises TokenFileError: it cannot be read, or is too long.
    """
    lines = [line.partition("#")[0].strip() for line in _read(path).splitlines()]
    ids = frozenset(filter(None, lines))
    if len(ids) > MAX_REVOKED:
        raise TokenFileError(
            f"{path}: there are {len(ids)} revoked tokens, and at most {MAX_REVOKED} are taken;"
            " remove those that have expired"
        )
    return ids


def make_secret(path: Path) -> None:
    """Write a new secret of 256 random bits to a new file, mode 0600.

    :raises TokenFileError: it exists, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w") as file:
            file.write(random.token_urlsafe(32) + "\n")
    except FileExistsError:
        raise TokenFileError(f"{path} exists already and is not overwritten") from None
    except OSError as error:
        raise TokenFileError(f"cannot write {path}: {error.strerror}") from None


def is_open_to_all(path: Path) -> bool:
    """Whether every user of this machine can read it. A group may: so some systems hand it over."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise TokenFileError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > _MAX_FILE:
        raise TokenFileError(f"{path} is too long")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise TokenFileError(f"{path} is not text (UTF-8)") from None
