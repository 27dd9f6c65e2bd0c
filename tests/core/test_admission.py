"""What the claims of a token permit: at the edge of each time and limit, and for any claims."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.admission import (
    AUDIENCE,
    CLOCK_SKEW_S,
    MAX_NAME,
    Grant,
    TokenLimits,
    TokenRefusal,
    TokenRefused,
    admit,
)

NOW = 1_800_000_000.0
GOOD: dict[str, Any] = {"aud": AUDIENCE, "sub": "alice", "jti": "t1", "exp": NOW + 60}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def judge(now: float = NOW, grace_s: float = 0.0, **claims: object) -> Grant:
    given_claims = {name: value for name, value in (GOOD | claims).items() if value is not None}
    return admit(given_claims, revoked={"bad"}, now=now, grace_s=grace_s)


def refused(now: float = NOW, grace_s: float = 0.0, **claims: object) -> TokenRefusal:
    with pytest.raises(TokenRefused) as error:
        judge(now, grace_s, **claims)
    assert str(error.value)
    return error.value.reason


def test_a_good_token() -> None:
    assert judge() == Grant("alice", "t1", NOW + 60, 60.0)
    limits = {"registrations": 1, "bytes_per_s": 2_500_000}
    assert judge(quicpipe=limits).limits == TokenLimits(registrations=1, bytes_per_s=2_500_000)
    assert judge(aud=["other", AUDIENCE]).subject == "alice"
    assert judge(iss="somebody", scope="all").subject == "alice"


def test_the_last_moment_and_the_first_too_late() -> None:
    assert judge(NOW + 59.999).is_fresh
    assert refused(NOW + 60) is TokenRefusal.EXPIRED
    over = judge(NOW + 60, grace_s=10.0)
    assert not over.is_fresh
    assert over.left_s == 10.0
    assert not judge(NOW + 69.999, grace_s=10.0).is_fresh
    assert refused(NOW + 70, grace_s=10.0) is TokenRefusal.EXPIRED


def test_the_first_moment() -> None:
    begins = NOW + CLOCK_SKEW_S
    assert judge(nbf=begins).is_fresh
    assert refused(NOW - 0.001, nbf=begins) is TokenRefusal.NOT_YET


def test_revoked() -> None:
    assert judge(jti="good").token_id == "good"
    assert refused(jti="bad") is TokenRefusal.REVOKED
    assert refused(NOW + 999, jti="bad") is TokenRefusal.REVOKED


@pytest.mark.parametrize("audience", [None, "", "quicpipe", [], ["x"], {AUDIENCE: 1}, 1])
def test_made_for_something_else(audience: object) -> None:
    assert refused(aud=audience) is TokenRefusal.WRONG_AUDIENCE


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "x" * (MAX_NAME + 1)},
        {"jti": None},
        {"jti": ["t1"]},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"nbf": "now"},
        {"quicpipe": []},
        {"quicpipe": "all"},
        {"quicpipe": {"byte_per_s": 1000}},
        {"quicpipe": {"bytes": 0}},
        {"quicpipe": {"bytes": -1}},
        {"quicpipe": {"bytes": 1.5}},
        {"quicpipe": {"bytes": True}},
        {"quicpipe": {"bytes": "1"}},
        {"quicpipe": {"bytes": None}},
        {"quicpipe": {"bytes": 2**53 + 1}},
    ],
)
def test_claims_that_are_not_what_they_should_be(claims: dict[str, object]) -> None:
    assert refused(NOW, 0.0, **claims) is TokenRefusal.BAD_CLAIM


def test_the_longest_names_and_the_largest_limit() -> None:
    grant = judge(sub="x" * MAX_NAME, jti="y" * MAX_NAME, quicpipe={"bytes": 2**53})
    assert grant.limits.bytes == 2**53


@given(
    st.dictionaries(st.sampled_from(["aud", "sub", "jti", "exp", "nbf", "quicpipe", "x"]), JSON),
    st.booleans(),
)
def test_any_claims_give_a_grant_or_a_refusal(claims: dict[str, object], good: bool) -> None:
    with contextlib.suppress(TokenRefused):
        grant = admit(GOOD | claims if good else claims, revoked=(), now=NOW, grace_s=0.0)
        assert grant.left_s > 0
