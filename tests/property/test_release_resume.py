"""However often a release's driver dies and another goes on, it does what one that never died would have done."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.release.advance import Observation, advance
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan
from mlflow_istio.core.release.progress import Progress, first_progress, progress_from_text, progress_to_text
from tests.support.endpoint_values import TIME
from tests.support.release_values import a_plan, at, counters, seen

PLANS = (
    a_plan(
        guards=(GuardPlan(name="errors", kind="errors", allowed=NonInferiorityMargin(rate_difference=0.05)),),
        warmup=15.0,
    ),
    a_plan(strategy="blue-green", steps=(0.0, 100.0), guards=(GuardPlan(name="slo", kind="objective", limit=0.1),)),
    a_plan(
        guards=(GuardPlan(name="latency", kind="latency", allowed=NonInferiorityMargin(rate_difference=0.2)),),
        no_data="rollback",
    ),
    a_plan(guards=(), min_requests=0),
)

intervals = st.lists(
    st.fixed_dictionaries(
        {
            "v1": st.tuples(st.integers(0, 400), st.floats(0, 0.2)),
            "v2": st.tuples(st.integers(0, 200), st.floats(0, 0.3)),
            "silent": st.sampled_from([(), (), (), ("v1",), ("v2",), ("v1", "v2")]),
            "paused": st.sampled_from([False, False, False, True]),
            "ready": st.sampled_from([True, True, True, False]),
            "seconds": st.sampled_from([5.0, 10.0, 30.0]),
        }
    ),
    min_size=1,
    max_size=14,
)


def observations(plan: ReleasePlan, drawn: list[dict[str, Any]]) -> Any:
    """A function from a progress to what is seen at look n: counters don't depend on who looks."""
    totals = {"v1": [0, 0, 0], "v2": [0, 0, 0]}
    readings, times, now = [], [], 0.0
    for interval in drawn:
        for name in totals:
            requests, share = interval[name]
            totals[name][0] += requests
            totals[name][1] += int(requests * share)
            totals[name][2] += int(requests * share)
        now += interval["seconds"]
        times.append(at(now))
        readings.append(
            {
                name: counters(count, errors, le_100=count - slow, le_inf=count)
                for name, (count, errors, slow) in totals.items()
                if name not in interval["silent"]
            }
        )

    def look(number: int, progress: Progress) -> tuple[Observation, Any]:
        weight = progress.weight
        found = seen(
            readings[number].get("v1"),
            readings[number].get("v2"),
            weight,
            paused=drawn[number]["paused"],
            stable_ready=drawn[number]["ready"],
        )
        return found, times[number]

    return look


def driven(plan: ReleasePlan, drawn: list[dict[str, Any]], deaths: list[str]) -> list[str]:
    """The actions of a release whose driver dies so: before it stored what it decided, after, or not."""
    look = observations(plan, drawn)
    progress = first_progress(plan, TIME)
    actions = []
    for number in range(len(drawn)):
        death = deaths[number % len(deaths)]
        if death == "before":  # it looked and decided, and died before anything was written
            advance(progress, *look(number, progress))
        progress, action = advance(progress, *look(number, progress))
        actions.append(
            f"{type(action).__name__} {getattr(action, 'weight', '')} {action.verdict.word} {action.verdict.reason}"
        )
        if death != "no":  # whoever goes on reads it from the object
            progress = progress_from_text(progress_to_text(progress))
        if type(action).__name__ in ("Promote", "RollBack", "GiveUp", "Stop"):
            break
    return actions


@given(
    plan=st.sampled_from(PLANS),
    drawn=intervals,
    deaths=st.lists(st.sampled_from(["no", "before", "after"]), min_size=1, max_size=14),
)
@settings(max_examples=60, deadline=None)
def test_any_order_of_deaths_gives_the_actions_of_an_undisturbed_release(
    plan: ReleasePlan, drawn: list[dict[str, Any]], deaths: list[str]
) -> None:
    assert driven(plan, drawn, deaths) == driven(plan, drawn, ["no"])


@given(plan=st.sampled_from(PLANS), drawn=intervals)
@settings(max_examples=40, deadline=None)
def test_a_release_never_gives_more_than_its_next_step_and_never_promotes_from_silence(
    plan: ReleasePlan, drawn: list[dict[str, Any]]
) -> None:
    look = observations(plan, drawn)
    progress = first_progress(plan, TIME)
    for number in range(len(drawn)):
        step = progress.step
        progress, action = advance(progress, *look(number, progress))
        assert progress.step in (step, step + 1)
        if type(action).__name__ == "Promote":
            assert not plan.guards or sum(progress.evidence.requests.values()) > 0
            break
    assert from_json(ReleasePlan, json.loads(json.dumps(to_json(plan)))) == plan


@given(plan=st.sampled_from(PLANS), drawn=intervals)
@settings(max_examples=60, deadline=None)
def test_a_look_whose_figures_nobody_reads_does_the_same(plan: ReleasePlan, drawn: list[dict[str, Any]]) -> None:
    look = observations(plan, drawn)
    progress = first_progress(plan, TIME)
    for number in range(len(drawn)):
        seen_then = look(number, progress)
        (in_full, action), (in_short, brief) = (
            advance(progress, *seen_then, figures=figures) for figures in (True, False)
        )
        assert in_short == in_full
        assert (type(brief), brief.verdict.word, brief.verdict.reason) == (
            type(action),
            action.verdict.word,
            action.verdict.reason,
        )
        if brief.verdict.word != "hold":
            assert brief.verdict == action.verdict
        progress = in_full
        if type(action).__name__ in ("Promote", "RollBack", "GiveUp", "Stop"):
            break
