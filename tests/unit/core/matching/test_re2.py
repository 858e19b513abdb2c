"""What Envoy's regular expressions take is taken here, what they refuse is refused before anything is written."""

from __future__ import annotations

import pytest

from mlflow_istio.core.matching.re2 import check_regex, read_regex
from mlflow_istio.errors import InvalidInput
from tests.support.re2_patterns import LEFT_TO_ENVOY, REFUSED, STRICTER, TAKEN


@pytest.mark.parametrize("pattern", [*TAKEN, *LEFT_TO_ENVOY])
def test_what_envoy_takes_is_taken(pattern: str) -> None:
    assert check_regex(pattern, "uri") == pattern


@pytest.mark.parametrize("pattern", [*REFUSED, *STRICTER])
def test_what_envoy_refuses_is_refused_with_the_place(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="uri (has|is no regular expression)"):
        check_regex(pattern, "uri")


@pytest.mark.parametrize("pattern", ["", None, 5])
def test_nothing_is_no_expression(pattern: object) -> None:
    with pytest.raises(InvalidInput, match="uri must be a regular expression"):
        check_regex(pattern, "uri")


@pytest.mark.parametrize(
    ("pattern", "value", "holds"),
    [
        ("/v[12]/.*", "/v2/chat", True),
        ("/v[12]/.*", "/v3/chat", False),
        ("[[:alpha:]]+", "abc", True),
        ("[^[:digit:]]+", "a1", False),
        (r"\Qa.b\E", "a.b", True),
        (r"\Qa.b\E", "axb", False),
        (r"a\z", "a", True),
        (r"\x{41}\101[\102]", "AAB", True),
        ("(?P<x>a)(?<y>b)", "ab", True),
        ("(?i)A", "a", True),
        ("(?i:A)b", "ab", True),
        ("a{,3}", "a{,3}", True),
        ("a{,3}", "aa", False),
        (r"[\d-z]", "-", True),
        ("[[a]", "[", True),
        ("[*+]", "+", True),
        (r"\pL", "a", None),
        ("a(?i)b", "aB", None),
        ("(?U)a+", "a", None),
        ("[[:^digit:]]", "a", None),
        (r"[\p{Greek}]", "a", None),
    ],
)
def test_it_says_offline_whether_a_value_matches_or_that_only_envoy_can_tell(
    pattern: str, value: str, holds: bool | None
) -> None:
    assert read_regex(pattern).matches(value) is holds


def test_groups_are_counted_as_envoy_counts_them() -> None:
    assert read_regex(r"(a)(?:b)(?P<n>c)\(d").groups == 2
