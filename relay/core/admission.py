"""Whom a token lets in, and what it permits: from verified claims to a grant. docs/protocol.md §14.

A token is a JSON Web Token (RFC 7519). Its signature is checked before (relay/tokens.py); here is
what its claims mean. Nothing is looked up but the list of revoked ids.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

AUDIENCE = "quicpipe-relay"
"""The claim `aud` must be this, or a list that has it: a token that the same secret signed for
something else opens nothing here."""

LIMITS_CLAIM = "quicpipe"
"""The claim that holds the token's limits."""

MAX_NAME = 128
"""Characters of a subject, and of a token's id."""

CLOCK_SKEW_S = 60.0
"""Seconds by which the clock of whoever made the token may be ahead of ours (`nbf`)."""

_MAX_COUNT = 2**53
"""What JSON numbers hold exactly everywhere."""


class TokenRefusal(StrEnum):
    """Why a request was not admitted. The value is its name in every report."""

    MISSING = "token_missing"
    """There is no Bearer token, and the relay wants one."""
    MALFORMED = "token_malformed"
    """Not a JWT signed with HS256, or too long."""
    BAD_SIGNATURE = "token_bad_signature"
    """Signed with another secret, or altered."""
    WRONG_AUDIENCE = "token_wrong_audience"
    """Made for something else."""
    BAD_CLAIM = "token_bad_claim"
    """A claim is missing or is not what it should be; or a limit that we do not know."""
    NOT_YET = "token_not_yet_valid"
    EXPIRED = "token_expired"
    REVOKED = "token_revoked"


class TokenRefused(Exception):
    """The token admits nobody, or not any more. The text is for people, and quotes no token."""

    def __init__(self, reason: TokenRefusal, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """What a token says that its subject may have; None: what the relay gives to any token.

    A subject's registrations, connection IDs and rates are counted together, whichever of its
    tokens they came by: a second token is no second share. `bytes` is for each token.
    """

    registrations: int | None = None
    connection_ids: int | None = None
    """In all of the subject's registrations."""
    registrations_per_minute: int | None = None
    bytes: int | None = None
    """Forwarded for it in the token's whole life, as UDP payload."""
    bytes_per_s: int | None = None
    """Forwarded for it, as UDP payload."""
    packets_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid token permits."""

    subject: str
    token_id: str
    expires: float
    """Seconds since 1970."""
    left_s: float
    """Seconds from the decision on after which whatever was registered with it ends."""
    limits: TokenLimits = TokenLimits()
    is_fresh: bool = True
    """False: expired, and only what it has begun may go on (`left_s` is positive still)."""


def admit(
    claims: Mapping[str, object], *, revoked: Collection[str], now: float, grace_s: float
) -> Grant:
    """Judge the claims of a token whose signature is good. Any claims give a grant or a refusal.

    :param revoked: ids of tokens that are not to be let in whatever they say.
    :param now: seconds since 1970.
    :param grace_s: seconds after its expiry in which what a token has begun may go on.
    :raises TokenRefused: and why.
    """
    _check_audience(claims)
    subject, token_id = _name(claims, "sub"), _name(claims, "jti")
    expires = _time(claims, "exp")
    begins = _time(claims, "nbf") if "nbf" in claims else -math.inf
    limits = _limits(claims)
    if token_id in revoked:
        raise TokenRefused(TokenRefusal.REVOKED, "the token was revoked: ask for another one")
    if now < begins - CLOCK_SKEW_S:
        raise TokenRefused(
            TokenRefusal.NOT_YET, "the token is not valid yet: are the clocks right at both ends?"
        )
    left_s = expires + grace_s - now
    is_fresh = now < expires  # RFC 7519 §4.1.4: on or after that time it must not be accepted
    if not is_fresh and left_s <= 0:
        raise expired()
    return Grant(subject, token_id, expires, left_s, limits, is_fresh)


def expired() -> TokenRefused:
    """What is said to whoever wants to begin something with a token that is over."""
    return TokenRefused(TokenRefusal.EXPIRED, "the token has expired: ask for a new one")


def _check_audience(claims: Mapping[str, object]) -> None:
    audience = claims.get("aud")
    if audience != AUDIENCE and not (isinstance(audience, list) and AUDIENCE in audience):
        raise TokenRefused(
            TokenRefusal.WRONG_AUDIENCE, f"the token is not for this: its 'aud' is not '{AUDIENCE}'"
        )


def _name(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise _bad(f"'{name}' is not a printable string of 1 to {MAX_NAME} characters")
    return value


def _time(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(f"'{name}' is not a number of seconds since 1970")
    if not -_MAX_COUNT <= value <= _MAX_COUNT:  # which no NaN is
        raise _bad(f"'{name}' is out of range")
    return float(value)


def _limits(claims: Mapping[str, object]) -> TokenLimits:
    wanted = claims.get(LIMITS_CLAIM, {})
    if not isinstance(wanted, dict):
        raise _bad(f"'{LIMITS_CLAIM}' is not an object")
    known = [each.name for each in fields(TokenLimits)]
    # A mistyped limit would be no limit: so it is an error.
    if unknown := wanted.keys() - set(known):
        shown = str(min(unknown))[:40]
        raise _bad(f"'{LIMITS_CLAIM}' has no '{shown}'; there are {', '.join(known)}")
    for name, value in wanted.items():
        if type(value) is not int or not 1 <= value <= _MAX_COUNT:
            raise _bad(f"'{name}' in '{LIMITS_CLAIM}' is not a whole number from 1 on")
    return TokenLimits(**wanted)


def _bad(what: str) -> TokenRefused:
    return TokenRefused(TokenRefusal.BAD_CLAIM, f"the token's {what}")
