"""Scores of two texts, worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.core.analysis.text_scores import LONGEST, SCORERS, Scorer, ScorerFailed

FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"


@pytest.mark.parametrize(
    ("name", "stable", "candidate", "score"),
    [
        ("edit", "kitten", "sitting", 1 - 3 / 7),  # k->s, e->i, +g
        ("edit", "a red fox", "a red box", 8 / 9),
        ("edit", "", "", 1),
        ("edit", "", "abc", 0),
        ("edit", "abc", "ABC", 0),
        ("edit", "caf\u00e9", "cafe\u0301", 1),  # both spellings of one letter
        ("edit", "cafe", "caf\u00e9", 3 / 4),
        ("edit", "\U0001f600", "\U0001f601", 0),  # one sign each, though four bytes and two units of UTF-16
        ("edit", FAMILY, FAMILY[:-1] + "\N{BOY}", 4 / 5),
        ("edit", "x\ud800", "y\ud800", 1 / 2),  # half a character, as JSON may have it
        ("tokens", "the cat sat", "sat the cat", 1),
        ("tokens", "the the cat", "the cat cat", 2 * 2 / 6),  # one 'the' and one 'cat' in common
        ("tokens", "a red fox", "a red box", 2 * 2 / 6),
        ("tokens", "Yes.", "Yes", 2 * 1 / 3),  # the full stop is a token
        ("tokens", "yes", "Yes", 0),
        ("tokens", "", "", 1),
        ("tokens", " ", "\n", 1),
        ("tokens", "", "word", 0),
        ("tokens", "good \U0001f600", "good \U0001f601", 2 * 1 / 4),
        ("tokens", "caf\u00e9 au lait", "cafe\u0301 au lait", 1),
        ("length", "ab", "abcd", 1 / 2),
        ("length", "", "", 1),
        ("length", "", "a", 0),
        ("length", "abc", "xyz", 1),
        ("json", '{"a": 1, "b": [1, 2]}', '{"b":[1,2],"a":1.0}', 1),
        ("json", '{"a": [1, 2]}', '{"a": [2, 1]}', 0),
        ("json", '{"a": 1}', '{"a": true}', 0),
        ("json", "[false]", "[0]", 0),
        ("json", "[NaN]", " [NaN]", 1),
        ("json", "null", "", 0),
        ("json", "no json", "no json", 1),
        ("json", "no json", "no  json", 0),
        ("json", "[" * 200_000, "[" * 200_000 + " ", 0),  # deeper than a parser goes
        ("json", "[" * 300 + "]" * 300, "[" * 300 + " " + "]" * 300, 1),
        ("json", "1" * 5000, "1" * 5000 + " ", 0),  # more digits than Python reads
    ],
)
def test_a_score_by_hand(name: str, stable: str, candidate: str, score: float) -> None:
    assert SCORERS[name](stable, candidate) == pytest.approx(score)
    assert SCORERS[name](candidate, stable) == pytest.approx(score)


@pytest.mark.parametrize("name", SCORERS)
@given(one=st.text(max_size=50), other=st.text(max_size=50))
def test_a_score_is_from_0_to_1_and_1_of_a_text_with_itself(name: str, one: str, other: str) -> None:
    assert 0 <= SCORERS[name](one, other) <= 1
    assert SCORERS[name](one, one) == 1


@pytest.mark.parametrize("name", ["edit", "tokens"])
def test_of_a_huge_text_only_the_beginning_is_compared_and_the_lengths_count(name: str) -> None:
    scorer = SCORERS[name]
    beginning = "ab " * (LONGEST // 3) + "a"
    assert len(beginning) == LONGEST
    assert scorer(beginning, beginning + "x") == pytest.approx(LONGEST / (LONGEST + 1))
    assert scorer(beginning + "x" * LONGEST, beginning) == pytest.approx(1 / 2)
    assert scorer(beginning + "x", beginning + "y") == 1, "which is why the output says that it was cut"
    assert scorer.cuts(beginning + "x", beginning + "y")
    assert not scorer.cuts(beginning, beginning[:-1])
    assert not scorer.cuts(beginning + "x", beginning + "x"), "equal texts are equal to their ends"
    assert scorer("a" * 1_000_000, "b" * 1_000_000) == 0


def test_combining_characters_without_end_are_compared_by_their_beginning() -> None:
    marks = "a" + "\u0301\u0327" * 500_000  # to put them in order takes what grows with the square of their number
    assert SCORERS["edit"](marks, marks[:-1]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("gives", "score"), [(1, 1), (True, 1), (0.25, 0.25), (np.float32(0.5), 0.5), (1 + 1e-7, 1), (-1e-7, 0)]
)
def test_what_a_function_may_give(gives: Any, score: float) -> None:
    assert Scorer(name="m:f", score=lambda _a, _b: gives)("a", "b") == score


@pytest.mark.parametrize(
    ("gives", "problem"),
    [
        (None, "it gave NoneType, not a number from 0 to 1"),
        ("0.5", "it gave str, not a number from 0 to 1"),
        (math.nan, "it gave nan, not a number from 0 to 1"),
        (87.5, "it gave 87.5, not a number from 0 to 1"),
        (-0.1, "it gave -0.1, not a number from 0 to 1"),
        (math.inf, "it gave inf, not a number from 0 to 1"),
    ],
)
def test_nonsense_is_no_score(gives: Any, problem: str) -> None:
    with pytest.raises(ScorerFailed) as raised:
        Scorer(name="m:f", score=lambda _a, _b: gives)("a", "b")
    assert raised.value.message == problem


def test_what_a_function_raises_is_one_line() -> None:
    def fails(stable: str, _candidate: str) -> float:
        raise ValueError(f"two\nlines \x1b[31m{stable}" + "x" * 10_000)

    with pytest.raises(ScorerFailed) as raised:
        Scorer(name="m:f", score=fails)("a", "b")
    assert raised.value.message.startswith("ValueError: two lines ")
    assert "\x1b" not in raised.value.message
    assert len(raised.value.message) < 300


def test_json_that_is_huge_is_compared_whole() -> None:
    value = {str(number): "x" * 100 for number in range(3_000)}
    turned = dict(reversed(value.items()))
    assert SCORERS["json"](json.dumps(value), json.dumps(turned)) == 1
    assert SCORERS["json"](json.dumps(value), json.dumps({**turned, "2999": "y"})) == 0
