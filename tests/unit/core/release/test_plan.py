"""Plans: what is refused, what reads back, and what they say in words; where a release stands, written and read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.release.driver import Question, release_status_of
from mlflow_istio.core.release.plan import (
    Approval,
    GuardPlan,
    ReleasePlan,
    Webhook,
    auto_guards,
    describe_plan,
)
from mlflow_istio.core.release.progress import (
    MAX_BYTES,
    alive,
    answered,
    first_progress,
    progress_from_text,
    progress_to_text,
)
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.support.release_values import Journey, a_plan, at, counters

FULL = a_plan(
    guards=(*auto_guards(), GuardPlan(name="slo", kind="objective", limit=0.01, slower_than=300.0)),
    approval=Approval(before=("10", "promotion"), tag="ok"),
    webhooks=(Webhook(url="http://a", events=("promotion",)), Webhook(url="http://b")),
    source={"metrics": "prometheus"},
    overdispersion=2.0,
    promote=False,
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": "canray"}, "unknown strategy 'canray'"),
        ({"candidates": ()}, "needs a candidate"),
        ({"steps": ()}, "at least one step"),
        ({"steps": (50.0, 10.0)}, "must rise"),
        ({"steps": (10.0, 110.0)}, "from 0 to 100"),
        ({"steps": (10.5,)}, "whole percents"),
        ({"steps": (0.0, 10.0)}, "steps go from 1 to 99"),
        ({"steps": (10.0, 100.0)}, "steps go from 1 to 99"),
        ({"strategy": "blue-green"}, "switches everything at once"),
        ({"strategy": "shadow", "steps": (0.0, 10.0)}, "more than 0 percent"),
        ({"alpha": 1.5}, "alpha"),
        ({"overdispersion": 0.5}, "phi"),
        ({"interval": 0}, "interval"),
        ({"deadline": -1}, "deadline"),
        ({"hold": -1}, "can't be negative"),
        ({"alone_limit": 0}, "alone_limit"),
        ({"guards": (auto_guards()[0],) * 2}, "guard 'errors' is there twice"),
        ({"approval": Approval(before=("20",))}, "no such step; there are 10, 50, promotion"),
    ],
)
def test_a_plan_that_can_not_be_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says.replace("(", r"\(")):
        a_plan(**changes)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NonInferiorityMargin(odds_ratio=1), "above 1"),
        (lambda: NonInferiorityMargin(rate_difference=1), "between 0 and 1"),
        (lambda: NonInferiorityMargin(difference=0), "difference of means"),
        (lambda: GuardPlan(name="x", kind="error"), "unknown kind"),  # type: ignore[arg-type]
        (lambda: GuardPlan(name="x", kind="errors", weight=0), "weight"),
        (lambda: GuardPlan(name="x", kind="objective"), "a limit is what an objective has"),
        (lambda: GuardPlan(name="x", kind="errors", limit=0.1), "a limit is what an objective has"),
        (lambda: GuardPlan(name="x", kind="objective", limit=2), "between 0 and 1"),
        (lambda: GuardPlan(name="x", kind="latency", edges=(5, 1)), "edges must rise"),
        (
            lambda: GuardPlan(name="x", kind="mean", allowed=NonInferiorityMargin(odds_ratio=2)),
            "'odds_ratio' can't be allowed for mean",
        ),
        (lambda: Approval(before=(), timeout=0), "approval_timeout"),
        (lambda: Approval(before=(), default="no"), "approval_default"),  # type: ignore[arg-type]
        (lambda: Webhook(url="http://a", timeout=0), "timeout"),
        (lambda: Webhook(url="http://a", events=("begin",)), "unknown event 'begin'"),  # type: ignore[arg-type]
    ],
)
def test_a_part_of_a_plan_that_can_not_be_is_refused_by_name(make: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        make()


@pytest.mark.parametrize(
    "plan",
    [FULL, a_plan(), a_plan(strategy="blue-green", steps=(0.0, 100.0), candidates=("v2",))],
    ids=["full", "small", "bg"],
)
def test_a_plan_reads_back_as_it_was_written(plan: Any) -> None:
    assert from_json(ReleasePlan, to_json(plan)) == plan


def test_a_plan_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown fields: novelty .another version of mlflow-istio"):
        from_json(ReleasePlan, {**to_json(FULL), "novelty": 1})


def test_a_plan_says_in_words_what_it_will_do() -> None:
    text = "\n".join(describe_plan(FULL))
    for words in (
        "canary of v2 against v1",
        "steps: 10%, 50% of the traffic, each at least 20 s and 100 requests",
        "then inconclusive, and traffic returns to the stable",
        "guard errors: odds of a failed request at most 1 times the stable's; promotion needs odds ratio below 1.5 or",
        "guard slo: at most 1% slower than 300 ms",
        "at most 5% of releases",
        "approval before 10, promotion: by tag 'ok' or 'mlflow-istio approve'; without an answer in 86400 s: reject",
        "webhook http://a: promotion",
        "then it stops before promotion",
    ):
        assert words in text
    kpis = (
        GuardPlan(name="clicks", kind="rate", worse="lower"),
        GuardPlan(name="spend", kind="mean", worse="lower", allowed=NonInferiorityMargin(difference=2)),
        GuardPlan(name="failures", kind="objective", limit=0.02),
    )
    more = "\n".join(describe_plan(a_plan(guards=kpis, undecided="hold", approval=Approval(before=("10",)))))
    assert "promotion needs difference of means below 2" in more
    assert "at most 2% failed requests" in more
    assert "stays as it is" in more
    assert "approval before 10: by 'mlflow-istio approve'" in more
    shadow = describe_plan(a_plan(strategy="shadow", steps=(20.0,), guards=()))
    assert "20% mirrored" in shadow[1]
    assert "no guards: steps go by time alone" in shadow
    assert shadow[-1] == "then promotion"


def test_auto_watches_errors_latency_and_gross_failure_with_margins_that_can_be_widened() -> None:
    usual = [(guard.name, guard.margin, guard.weight) for guard in auto_guards()]
    assert usual == [("errors", 1.0, 4.0), ("latency", 1.25, 1.0), ("gross", 1.0, 0.1)]
    wide = auto_guards(2.0, NonInferiorityMargin(odds_ratio=3))
    assert [(guard.margin, guard.allowed.odds_ratio) for guard in wide] == [(2.0, 3), (2.0, 3), (1.0, None)]


# Where a release stands


def on_the_way() -> Any:
    journey = Journey(FULL)
    journey.look(webhooks={"http://a": "", "http://b": ""})
    progress = replace(journey.progress, missing_since=at(3), paused_since=at(4))
    return alive(progress, "d1", "me@here", at(5))


def test_progress_reads_back_as_it_was_written_and_stays_small() -> None:
    progress = on_the_way()
    text = progress_to_text(progress)
    assert progress_from_text(text) == progress
    assert len(text) < 8000
    fresh = first_progress(a_plan(), at(0))
    assert progress_from_text(progress_to_text(fresh)) == fresh
    assert (fresh.weight, fresh.last_step, fresh.target) == (0, False, "10")


def test_every_command_reads_the_course_without_numpy() -> None:
    release_status = release_status_of(progress_to_text(on_the_way()))
    assert release_status is not None
    assert release_status.steps == (10.0, 50.0)
    assert release_status.driven(at(5)) is not None
    assert release_status.driven(at(1000)) is None
    view = release_status.view()
    assert view["waits_for"]["gate"] == "10"
    assert view["driver"]["who"] == "me@here"
    quiet = release_status_of(progress_to_text(first_progress(a_plan(), at(0))))
    assert quiet is not None
    assert (quiet.view()["waits_for"], quiet.view()["driver"], quiet.view()["verdict"], quiet.driven(at(0))) == (
        None,
    ) * 4
    assert release_status_of(None) is None


@pytest.mark.parametrize("read", [release_status_of, progress_from_text])
@pytest.mark.parametrize("text", ["{", "{}"])
def test_damaged_progress_says_so(read: Any, text: str) -> None:
    with pytest.raises(InvalidInput):
        read(text)


def test_a_state_that_does_not_fit_on_the_object_is_refused() -> None:
    journey = Journey()
    pods = {f"pod-{n}-of-a-large-deployment": counters(n)["pod"] for n in range(MAX_BYTES // 60)}
    journey.look(readings={"v1": pods})
    with pytest.raises(InvalidInput, match="more than the 65,536 that fit"):
        progress_to_text(journey.progress)


def test_a_question_is_answered_once() -> None:
    progress = replace(first_progress(a_plan(), at(0)), question=Question(gate="10", asked=at(0)))
    after = answered(progress, "churn", "approve", "ann")
    assert after.question == Question(gate="10", asked=at(0), answer="approve", who="ann")
    assert after.revision == progress.revision + 1
    assert answered(after, "churn", "approve", "bob") is after
    with pytest.raises(StateConflict, match="answered already: approve"):
        answered(after, "churn", "reject", "bob")
    for nothing in (None, first_progress(a_plan(), at(0))):
        with pytest.raises(StateConflict, match="nothing waits for approval"):
            answered(nothing, "churn", "approve", "ann")


def test_only_a_driver_that_is_alive_and_another_keeps_one_away() -> None:
    progress = alive(first_progress(a_plan(), at(0)), "d1", "me", at(0))
    assert progress.driven_by_another("d1", at(1)) is None
    assert progress.driven_by_another("d2", at(1)) == progress.driver
    assert progress.driven_by_another("d2", at(1000)) is None
