"""An expression that would keep Python busy for ever is left to Envoy, whose RE2 is done with any in one pass."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_istio.core.matching.re2 import read_regex
from mlflow_istio.errors import InvalidInput

HOSTILE = [
    (r"(a+)+", "a" * 40 + "!"),
    (r"((a*)*)*", "a" * 40 + "!"),
    (r"(a|a)*b", "a" * 60),
    (r"(?:a|aa)+b", "a" * 60),
    (r"(?P<x>a?){1,1000}b", "a" * 60),
    (r"(?i:a+){2,}", "a" * 60 + "!"),
    (r"(a{1,9}){1,9}b", "a" * 80),
    ("a?" * 40 + "a" * 40, "a" * 40),
    ("(?:aa|a)" * 40 + "b", "a" * 60),
    (".*" * 8 + "x", "a" * 400),
]


@pytest.mark.parametrize(("pattern", "value"), HOSTILE)
def test_what_would_take_for_ever_is_left_to_envoy_at_once(pattern, value):
    started = time.monotonic()
    assert read_regex(pattern).matches(value) is None
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("pattern", "value", "holds"),
    [
        (r"/api/v[0-9]+/.*", "/api/v1/churn", True),
        (r"(.*; ?)?arm=r1\.v2(;.*)?", "a=b; arm=r1.v2; c=d", True),
        (r"(.*; ?)?arm=r1\.v2(;.*)?", "z" * 4000, False),
        (r"(?:abc)+", "abcabc", True),
        (r"(a|b)c?", "ac", True),
        (r"[a-z]+(-[a-z]+)?", "eu-west", True),
    ],
)
def test_what_people_write_is_still_told(pattern, value, holds):
    assert read_regex(pattern).matches(value) is holds


@settings(deadline=5000, max_examples=300)
@given(st.text(alphabet="ab()|*+?{}1,2.", min_size=1, max_size=30), st.text(alphabet="ab", max_size=40))
def test_no_expression_hangs(pattern, value):
    try:
        expression = read_regex(pattern)
    except InvalidInput:
        return
    assert expression.matches(value) in (True, False, None)
