"""A latency edge that no source has is seen before anybody waits for what is never judged."""

from __future__ import annotations

import pytest

from mlflow_istio.core.release.edges import edges_in, measures_with_edges, missing_edge, missing_in
from mlflow_istio.core.release.plan import GuardPlan, auto_guards
from tests.support.simulated_users import a_plan

ISTIO = (0.5, 1, 5, 10, 25, 50, 100, 250, 500)


@pytest.mark.parametrize(
    ("edge", "advice"), [(240, "say 100 or 250"), (0.2, "say 0.5"), (501, "say 500"), (0.75, "say 0.5 or 1")]
)
@pytest.mark.parametrize("kind", ["latency", "objective"])
def test_it_is_named_with_the_guard_the_source_and_the_nearest(kind: str, edge: float, advice: str) -> None:
    guard = GuardPlan(
        name="slow", kind=kind, **({"edges": (edge,)} if kind == "latency" else {"limit": 0.1, "slower_than": edge})
    )
    plan = a_plan(guards=(*auto_guards(), guard))
    assert measures_with_edges(plan) == ("le",)
    assert missing_edge(plan, ISTIO, "Prometheus").startswith(
        f"guard 'slow': Prometheus has no latency edge at {edge:g} ms, so it would never be judged: {advice}"
    )


def test_edges_that_are_there_that_are_chosen_later_or_that_nobody_knows_yet_are_no_problem() -> None:
    named = a_plan(guards=(GuardPlan(name="latency", kind="latency", edges=(0.5, 250.0)),))
    assert missing_edge(named, ISTIO, "it") == ""
    assert missing_edge(named, (), "it") == ""
    assert measures_with_edges(a_plan()) == ()
    assert missing_edge(a_plan(), ISTIO, "it") == ""


def test_the_edges_of_some_readings_are_those_of_all_their_sources() -> None:
    readings = {"v1": {"a": {"requests": 3.0, "le/0.5": 1, "le/+Inf": 3}}, "v2": {"b": {"le/250": 1, "le/+Inf": 3}}}
    assert edges_in(readings) == (0.5, 250)
    assert edges_in({"v1": {"a": {"requests": 3.0}}}) == ()


@pytest.mark.parametrize(("kind", "words"), [("ttft", "ttft edge at 240 ms"), ("tokens", "edge at 240 tokens")])
def test_what_is_measured_of_streams_has_edges_of_its_own(kind: str, words: str) -> None:
    plan = a_plan(
        guards=(
            GuardPlan(name="latency", kind="latency", edges=(50.0,)),
            GuardPlan(name="s", kind=kind, edges=(240.0,)),
        )
    )
    assert measures_with_edges(plan) == ("le", kind)
    known = {"le/50": 1, "le/+Inf": 3, f"{kind}/100": 1, f"{kind}/250": 2, f"{kind}/+Inf": 3}
    assert f"guard 's': it has no {words}, so it would never be judged: say 100 or 250" in missing_in(
        plan, {"v1": {"a": known}}, "it"
    )
    assert missing_in(plan, {"v1": {"a": {"le/50": 1, "le/+Inf": 3}}}, "it") == ""
