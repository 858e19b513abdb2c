"""A deadline that no candidate could keep is said, and one before which nothing can be proven."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mlflow_istio.core.analysis.blocks import Blocks, first_bound
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.release.least_time import late_proof, least_seconds, proof_seconds, short_deadline
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.release import ReleaseOptions
from mlflow_istio.options.release_plan import plan_of
from mlflow_istio.releases.driving.opening import open_release
from tests.support.endpoint_values import an_endpoint
from tests.support.release_values import Journey, a_plan
from tests.support.simulated_users import Stage, a_release_request

PROVEN = GuardPlan(name="errors", kind="errors", allowed=NonInferiorityMargin(odds_ratio=1.25))


def planned(**options: Any) -> ReleasePlan:
    return plan_of(ReleaseOptions(**options), an_endpoint(), ("v2",))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"interval": 100, "deadline": 50}, "its 3 steps last 300 s at least .hold=60, interval=100."),
        ({"deadline": 100, "steps": "5,25"}, "its 2 steps last 120 s at least"),
        ({"deadline": 59, "steps": "5"}, "its 1 step lasts 60 s at least"),
        ({"deadline": 100, "strategy": "blue-green"}, "its 2 steps last 120 s at least"),
        ({"deadline": 50, "strategy": "shadow"}, "its 1 step lasts 60 s at least"),
    ],
)
def test_a_deadline_before_the_steps_can_be_over_is_said(options: dict[str, Any], says: str) -> None:
    warning = short_deadline(planned(**options))
    assert re.match(f"deadline={options['deadline']} is over before the release can be: {says}", warning)
    assert short_deadline(planned(**{**options, "deadline": 300})) == ""


def test_whoever_opens_such_a_release_is_told_and_it_stays_open() -> None:
    stage = Stage()
    open_release(stage.context, stage.dependencies, a_release_request({}, interval=100.0, deadline=50.0))
    assert any("is over before the release can be" in line for line in stage.world.warnings)
    assert stage.world.endpoint().release is not None


def test_a_release_without_guards_takes_no_longer_than_its_least_time() -> None:
    plan = a_plan(guards=(), hold=20.0, deadline=40.0)
    journey = Journey(plan)
    while type(journey.look((90, 0), (40, 0))).__name__ not in ("Promote", "RollBack", "Conclude"):
        assert journey.second <= 2 * least_seconds(plan)
    assert journey.second - 10.0 >= least_seconds(plan)  # its first look is at 10 s


@pytest.mark.parametrize(("phase", "interval"), [(60.0, 10.0), (60.0, 7.0), (2.0, 1.0), (5.0, 30.0), (0.5, 10.0)])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.0125, 1e-6])
def test_nothing_is_bounded_before_the_time_that_is_said_and_perfect_figures_are_soon_after(
    phase: float, interval: float, alpha: float
) -> None:
    blocks, elapsed, least = Blocks.of(phase, columns=2), 0.0, first_bound(phase, interval, alpha)
    while blocks.bounds(alpha, a=(1.0, 0.0), b=(0.0, 1.0))[1] == float("inf"):
        blocks, elapsed = blocks.update((1.0, 1.0), interval), elapsed + interval
    assert least <= elapsed <= 1.5 * least + 2 * interval


def test_a_deadline_before_anything_can_be_proven_is_said_with_the_phase() -> None:
    plan = a_plan(guards=(PROVEN,), deadline=600.0)
    assert proof_seconds(plan, 60.0) > 600.0
    assert "with slow phases of up to 60 s (option 'phase')" in late_proof(plan, 60.0)


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({"guards": (PROVEN,), "deadline": 7200.0}, 60.0),
        ({"guards": (PROVEN,)}, 0.0),  # each request counts by itself
        ({"guards": (PROVEN,)}, 2.0),
        ({}, 60.0),  # nothing has to be proven
        ({"guards": (PROVEN,), "strategy": "blue-green", "steps": (0.0, 100.0)}, 60.0),
    ],
)
def test_nothing_is_said_of_a_deadline_that_leaves_time_or_needs_none(changes: dict[str, Any], phase: float) -> None:
    assert late_proof(a_plan(**changes), phase) == ""


def test_all_at_once_is_another_strategy() -> None:
    with pytest.raises(
        InvalidInput, match="steps go from 1 to 99, and strategy=blue-green switches everything at once"
    ):
        planned(steps="100")
