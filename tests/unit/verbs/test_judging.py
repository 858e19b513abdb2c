"""A release that has a comparison of its own: an A/B/n decided by its arms, a shadow by its answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.analysis.arms import ArmsResult
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.plan import GuardPlan
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ResumeOptions
from mlflow_istio.releases.driving.progressive import drive
from mlflow_istio.verbs.judging import judge_for, verdict_of
from tests.support.simulated_users import Behaviour, Stage, a_plan

ERRORS = (GuardPlan(name="errors", kind="errors"),)
AB: dict[str, Any] = {"strategy": "ab", "steps": (50.0,), "guards": ERRORS}


def options(**given: Any) -> ResumeOptions:
    return parse_options(ResumeOptions, given, cluster="istio-local")


def no_records() -> Any:
    raise AssertionError("only a shadow asks for records")


@pytest.mark.parametrize(
    ("outcome", "winner", "word"),
    [
        ("winner", "v2", "advance"),
        ("winner", "v1", "rollback"),
        ("no difference", None, "inconclusive"),
        ("inconclusive", None, "hold"),
    ],
)
def test_an_abs_result_is_a_verdict(outcome: Any, winner: str | None, word: str) -> None:
    found = verdict_of(ArmsResult(outcome=outcome, winner=winner, reason="Because.", evidence={"x": 1}), "v1")
    assert (found.word, found.reason) == (word, "Because.")
    assert found.evidence == {"outcome": outcome, "winner": winner, "x": 1}


def test_what_its_guards_decide_has_no_other_comparison() -> None:
    stage = Stage()
    for plan in (a_plan(), a_plan(strategy="ab", steps=(50.0,), guards=())):
        assert judge_for(stage.context, no_records, None, options(), plan) is None


def test_an_ab_needs_a_source_of_figures_and_one_kpi() -> None:
    stage, plan = Stage(), a_plan(**AB)
    with pytest.raises(InvalidInput, match="give a source of metrics"):
        judge_for(stage.context, no_records, None, options(), plan)
    two = {"a": lambda _name: (1, 1), "b": lambda _name: (1, 1)}
    with pytest.raises(InvalidInput, match="compared by one KPI, not 2"):
        judge_for(stage.context, no_records, stage.users.metrics, options(kpi=two), plan)


@pytest.mark.parametrize(("better", "outcome"), [(0.5, "promoted"), (0.1, "rolled-back")])
def test_the_arm_with_the_better_kpi_wins_the_release(better: float, outcome: str) -> None:
    stage = Stage()
    stage.users.behaviours = {
        "churn-v1": Behaviour(kpis={"bought": 0.3}),
        "churn-v2": Behaviour(kpis={"bought": better}),
    }
    stage.open(request={"strategy": "ab", "traffic_request": TrafficRequest(cookie="arm")}, **AB)
    plan = a_plan(**AB, stable="churn-v1", candidates=("churn-v2",))
    asked = options(kpi={"bought": lambda _name: (1, 1)}, delta=1.2)
    judge = judge_for(stage.context, no_records, stage.users.metrics, asked, plan)
    ending = drive(stage.context, replace(stage.dependencies, judge=judge), "churn")
    assert ending.outcome == outcome
    assert "better than" in ending.reason
    assert stage.world.endpoint().stable.name == ("churn-v2" if outcome == "promoted" else "churn-v1")


def test_a_shadow_whose_answers_can_not_be_compared_waits_until_the_deadline() -> None:
    class Silent:
        def read(self, *_asked: Any) -> Any:
            raise InvalidInput("nothing is recorded: deploy with MLFLOW_ISTIO_RECORD=1")

    stage = Stage()
    plan = a_plan(strategy="shadow", steps=(100.0,), guards=ERRORS, deadline=120.0)
    stage.open(request={"strategy": "shadow"}, strategy="shadow", steps=(100.0,), guards=ERRORS, deadline=120.0)
    records: Any = Silent()
    judge = judge_for(stage.context, lambda: records, None, options(compare='{"agreement": 0.9}'), plan)
    ending = drive(stage.context, replace(stage.dependencies, judge=judge, metrics=None), "churn")
    assert ending.outcome == "inconclusive"
    assert "nothing is recorded" in ending.reason
    with pytest.raises(InvalidInput, match="unknown option 'agreemnt'"):
        judge_for(stage.context, lambda: records, None, options(compare='{"agreemnt": 1}'), plan)
