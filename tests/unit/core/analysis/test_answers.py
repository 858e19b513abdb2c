"""Answers compare as values: what JSON, numpy or a strict writer make of a number is no difference."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.core.analysis.answers import AnswerRule, compare_answers

CLASSES = AnswerRule()
NUMBERS = AnswerRule(kind="numbers", absolute=0.1)
EXACT = AnswerRule(kind="numbers")
TEXT = AnswerRule(kind="text")
NAN, INF = math.nan, math.inf

SAME: dict[str, tuple[Any, Any, tuple[AnswerRule, ...]]] = {
    "nan on both sides": ([NAN, 1.0], [NAN, 1.0], (CLASSES, NUMBERS, EXACT, TEXT)),
    "infinities": ([INF, -INF], [INF, -INF], (CLASSES, NUMBERS, EXACT, TEXT)),
    "zeros of both signs": ([-0.0], [0.0], (CLASSES, EXACT, TEXT)),
    "a whole number as a float": ([1], [1.0], (CLASSES, EXACT)),
    "order of keys, at any depth": (
        [{"a": {"x": 1, "y": 2}, "b": 3}],
        [{"b": 3, "a": {"y": 2, "x": 1}}],
        (CLASSES, EXACT),
    ),
    "float32 beside float64": ([float(np.float32(0.1))], [0.1], (CLASSES, EXACT, TEXT)),
    "float64 beside float32": ([0.1], [float(np.float32(0.1))], (CLASSES, EXACT, TEXT)),
    "a float32 that is whole by rounding": (
        [0.99999999, 12345678.9, 1e-50],
        [1.0, 12345679.0, 0.0],
        (CLASSES, EXACT),
    ),
    "whole numbers that count nothing any more": ([1.5e20], [float(np.float32(1.5e20))], (CLASSES, EXACT)),
    "a column beside a flat list": ([[1], [2]], [1, 2], (CLASSES, EXACT)),
    "one value beside a list of one": ("x", ["x"], (CLASSES, TEXT)),
    "empty answers": ({"a": [], "b": [{}]}, {"b": [{}], "a": []}, (CLASSES, EXACT)),
    "numbers in text": (["0.10", "1e3"], [0.1, "1000"], (EXACT,)),
    "null for nan": ([None], [NAN], (EXACT,)),
    "nan in text": (["NaN", "-Infinity"], [NAN, -INF], (EXACT,)),
    "a label beside its score": ([{"label": "yes", "score": 0.7}], [{"label": "yes", "score": 0.75}], (NUMBERS,)),
    "the envelope": ({"predictions": [{"predictions": 1}]}, [{"predictions": 1}], (CLASSES, EXACT)),
    "whole numbers beyond every float": ([10**400], [10**400], (CLASSES, EXACT)),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_value_agrees_however_it_is_written(name: str) -> None:
    stable, candidate, rules = SAME[name]
    for rule in rules:
        found = compare_answers(stable, candidate, rule)
        assert (found.agrees, found.difference, found.note) == (True, 0.0, ""), rule.kind


OTHER: dict[str, tuple[Any, Any, AnswerRule]] = {
    "one side says nan": ([NAN], [0.0], CLASSES),
    "infinities of both signs": ([INF], [-INF], CLASSES),
    "another field": ([{"score": 1.0}], [{"scores": 1.0}], CLASSES),
    "a field more": ([{"a": 1.0}], [{"a": 1.0, "b": 1.0}], NUMBERS),
    "text and number as classes": (["1"], [1], CLASSES),
    "a last digit that float32 has": (
        [float(np.float32(0.1))],
        [float(np.nextafter(np.float32(0.1), np.float32(1)))],
        EXACT,
    ),
    "a last digit of float64": ([0.1], [math.nextafter(0.1, 1)], EXACT),
    "whole numbers beyond float32": ([16777216.0], [16777217.0], CLASSES),
    "whole numbers beyond every float": ([10**400], [10**400 + 1], EXACT),
    "whole numbers beyond float64": ([2**53], [2**53 + 1], EXACT),
    "whole numbers at both ends of float64": ([10**308], [-(10**308)], EXACT),
    "an underscore is no digit": (["1_000"], [1000], EXACT),
    "another label beside the same score": ([{"label": "yes", "score": 0.7}], [{"label": "no", "score": 0.7}], NUMBERS),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_value_differs_and_is_named(name: str) -> None:
    stable, candidate, rule = OTHER[name]
    found = compare_answers(stable, candidate, rule)
    assert not found.agrees
    assert found.difference > 0
    assert found.note


@pytest.mark.parametrize("rule", [CLASSES, NUMBERS, TEXT])
@pytest.mark.parametrize(
    ("stable", "candidate", "note"),
    [
        ([[5], []], [[], [5]], "a value against a list of 0"),
        ([[1, 2], [3]], [[1], [2, 3]], "a list of 2 against a value"),
        ([[1, 2, 3]], [1, 2, 3], "a list of 3 against a value"),
        ({"a": []}, {"b": []}, "a list of 0 in field 'a' against a list of 0 in field 'b'"),
        ({"a": [], "x": 1}, {"x": 1}, "an object of 2 against an object of 1"),
        ([{"a": 1}, {"b": 2}], [{"a": 1, "b": 2}], "an object of 1 against an object of 2"),
        ([{}], [], "an object of 0 against no value"),
        ([[]], [], "a list of 0 against no value"),
        ([1, 2, 3], [[1, 2]], "3 predictions against 2"),
    ],
)
def test_answers_of_another_shape_differ_although_their_values_are_the_same(
    stable: Any, candidate: Any, note: str, rule: AnswerRule
) -> None:
    found = compare_answers(stable, candidate, rule)
    assert (found.agrees, found.difference, found.rows_agreeing, found.note) == (False, INF, 0, note)
    assert found.rows > 0
    assert not compare_answers(candidate, stable, rule).agrees


def test_one_value_that_is_not_finite_leaves_the_tolerance_of_the_others() -> None:
    found = compare_answers([NAN, 1.0, 2.0], [NAN, 1.05, 2.5], NUMBERS)
    assert (found.rows, found.rows_agreeing, found.difference) == (3, 2, 0.5)
    assert found.signed == pytest.approx(0.275)
    started = compare_answers([1.0, 1.0], [NAN, 1.05], NUMBERS)
    assert (started.rows_agreeing, started.difference) == (1, INF)
    assert started.signed == pytest.approx(0.05)


def test_a_note_shows_where_long_answers_begin_to_differ_on_both_sides() -> None:
    start = "the same beginning " * 20
    note = compare_answers([f"{start}cats, and so on{start}"], [f"{start}dogs, and so on{start}"], TEXT).note
    assert "cats" in note
    assert "dogs" in note
    assert len(note) < 150
    assert "…" in compare_answers(["a" * 99], ["a" * 100], TEXT).note


VALUES = st.recursive(
    st.floats() | st.integers() | st.text(max_size=5) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([CLASSES, NUMBERS, EXACT, TEXT]))
def test_every_answer_agrees_with_itself_after_a_journey_as_json(answer: Any, rule: AnswerRule) -> None:
    assert compare_answers(answer, json.loads(json.dumps(answer)), rule).agrees


@given(VALUES, VALUES, st.sampled_from([CLASSES, NUMBERS, EXACT, TEXT]))
def test_any_two_answers_can_be_compared(stable: Any, candidate: Any, rule: AnswerRule) -> None:
    found = compare_answers(stable, candidate, rule)
    assert found.agrees == (found.rows == found.rows_agreeing)
    assert found.agrees == (found.note == "")
    assert found.difference >= 0


@given(st.lists(st.floats(width=32), min_size=1))
def test_a_float32_model_agrees_with_itself_in_float64(values: list[float]) -> None:
    exact = [value * (1 + 1e-9) if math.isfinite(value) else value for value in values]
    narrow = [float(np.float32(value)) for value in exact]
    both = [(x, y) for x, y in zip(exact, narrow, strict=True) if not x.is_integer() or x == y or abs(x) >= 2**53]
    assert compare_answers([x for x, _ in both], [y for _, y in both], EXACT).agrees
