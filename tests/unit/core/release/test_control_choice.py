"""Whether a release takes a control: from its plan, the replicas at its start, and what one more server costs."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.endpoint.traffic import Traffic, WeightedDestination
from mlflow_istio.core.release.control_choice import Capacity, choose_control
from mlflow_istio.core.release.plan import auto_guards
from mlflow_istio.errors import InvalidInput
from tests.support.endpoint_values import LEGACY, an_endpoint
from tests.support.release_values import a_plan

ERRORS = auto_guards()[:1]
FOREIGN = an_endpoint(
    traffic=Traffic(split=(WeightedDestination(destination=LEGACY, weight=100),), pins=("v2",)), stable=LEGACY
)


def chosen(capacity: Capacity, **plan: Any) -> str:
    return choose_control(a_plan(**{"control": "auto", "guards": auto_guards(), **plan}), an_endpoint(), capacity).name


@pytest.mark.parametrize(
    ("capacity", "plan", "name"),
    [
        (Capacity(), {"steps": (50.0,)}, ""),
        (Capacity(), {"steps": (20.0, 50.0)}, "v1-control"),
        (Capacity(scarce=True), {"steps": (20.0, 50.0)}, ""),
        (Capacity(scarce=True), {"steps": (20.0,)}, "v1-control"),
        (Capacity(stable=4), {"steps": (50.0,)}, "v1-control"),
        (Capacity(stable=4, follows=True), {"steps": (25.0, 50.0)}, ""),
        (Capacity(stable=4, follows=True), {"steps": (5.0, 50.0)}, "v1-control"),
        (Capacity(stable=20, follows=True), {"steps": (5.0, 25.0, 50.0)}, ""),
        (Capacity(stable=4), {"steps": (20.0,)}, ""),
        (Capacity(), {"steps": (20.0,), "guards": ERRORS}, ""),
        (Capacity(), {"steps": (20.0,), "guards": ()}, ""),
        (Capacity(), {"steps": (20.0,), "control": "none"}, ""),
        (Capacity(), {"steps": (50.0,), "control": "fresh"}, "v1-control"),
        (Capacity(), {"steps": (20.0,), "control": None}, ""),
        (Capacity(), {"strategy": "blue-green", "steps": (0.0, 100.0)}, ""),
    ],
)
def test_it_is_taken_where_latency_is_guarded_and_loads_are_apart(
    capacity: Capacity, plan: dict[str, Any], name: str
) -> None:
    assert chosen(capacity, **plan) == name


def test_a_person_is_told_what_it_costs_and_why_there_is_none() -> None:
    endpoint = an_endpoint()
    plan = a_plan(control="fresh", steps=(10.0, 50.0), hold=60.0, deadline=3600.0, guards=auto_guards())
    said = choose_control(plan, endpoint, Capacity(candidate=2)).lines
    assert "'v1-control' runs what 'v1' runs" in said[0]
    assert "2 replicas for as long as the release lasts: at least 240 replica-seconds, at most 7,200" in said[1]
    assert "as the candidate has" in choose_control(plan, endpoint, Capacity(follows=True)).lines[1]
    none = a_plan(control="none", guards=auto_guards())
    assert (
        "latency counts only while a replica of one has at most 1.5 times"
        in choose_control(none, endpoint, Capacity()).lines[0]
    )
    half = a_plan(control="auto", steps=(50.0,), guards=auto_guards())
    assert "comparable at every step" in choose_control(half, endpoint, Capacity()).lines[0]
    assert not choose_control(a_plan(control="none", guards=ERRORS), endpoint, Capacity()).lines


def test_a_foreign_stable_has_none_and_that_is_said() -> None:
    plan = a_plan(control="auto", stable=LEGACY.name, guards=auto_guards())
    choice = choose_control(plan, FOREIGN, Capacity())
    assert choice.name == ""
    assert "is its owner's and can't be started once more; how many replicas it has isn't known" in choice.lines[0]
    with pytest.raises(InvalidInput, match="say control=none"):
        choose_control(a_plan(control="fresh", guards=auto_guards()), FOREIGN, Capacity())
