"""What callers of the stable would trip over on the candidate."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.model_card import Column, ModelCard, answer_problem, differences

AGE, NAME = Column(name="age", type="long"), Column(name="name", type="string", required=False)
SCORE = Column(name="score", type="double")


def card(*inputs: Column, outputs: tuple[Column, ...] | None = (SCORE,)) -> ModelCard:
    return ModelCard(inputs=inputs, outputs=outputs)


@pytest.mark.parametrize(
    ("stable", "candidate", "found"),
    [
        (card(AGE), card(AGE), ()),
        (card(AGE), card(AGE, NAME), ()),
        (card(AGE), card(AGE, outputs=(SCORE, AGE)), ()),
        (card(AGE, NAME), card(AGE), ("input 'name' is gone",)),
        (card(AGE), card(Column(name="age", type="double")), ("input 'age' is double instead of long",)),
        (card(NAME), card(NAME, AGE), ("input 'age' is new and must be given",)),
        (card(NAME), card(Column(name="name", type="string")), ("input 'name' must be given now",)),
        (card(AGE), card(AGE, outputs=()), ("output 'score' is gone",)),
        (card(AGE), ModelCard(), ()),
        (ModelCard(), card(AGE), ()),
    ],
)
def test_only_what_breaks_callers_is_a_difference(
    stable: ModelCard, candidate: ModelCard, found: tuple[str, ...]
) -> None:
    assert differences(stable, candidate) == found


@pytest.mark.parametrize(
    ("outputs", "answer", "problem"),
    [
        ((SCORE,), {"predictions": [{"score": 1.0}]}, ""),
        ((SCORE,), {"predictions": [{"points": 1.0}]}, "output 'score' is missing"),
        ((SCORE,), {"predictions": [1.0]}, ""),
        ((SCORE,), {"predictions": []}, "it holds no predictions"),
        ((SCORE,), {"predictions": None}, "it holds no predictions"),
        ((Column(name="0", type="double"),), {"predictions": [{"x": 1}]}, ""),
        (None, {"predictions": "text"}, ""),
        (None, {"choices": []}, ""),
    ],
)
def test_an_answer_must_hold_what_the_outputs_promise(outputs: Any, answer: dict[str, Any], problem: str) -> None:
    assert answer_problem(ModelCard(outputs=outputs), answer) == problem
