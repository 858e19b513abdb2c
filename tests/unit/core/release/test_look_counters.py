"""The stable's counters as looks keep them, and back."""

from __future__ import annotations

from mlflow_istio.core.analysis.history import history_of
from mlflow_istio.core.release.look_counters import counters_kept, readings_kept
from mlflow_istio.core.release.plan import GuardPlan
from tests.support.release_values import ERRORS, Journey, a_plan, counters, seen

LATENCY = GuardPlan(name="latency", kind="latency", edges=(100.0,))


def test_a_look_keeps_the_stables_counters_summed_and_none_of_anything_else() -> None:
    journey = Journey(a_plan(guards=(ERRORS, LATENCY)))
    assert counters_kept(journey.progress.plan, journey.progress.evidence) == {}
    both = {**counters(100, 3, le_100=90, le_inf=100, kpi_x_n=5), "other": counters(20, 1, le_100=20, le_inf=20)["pod"]}
    journey.look(readings=seen(both, counters(7)).readings)
    assert counters_kept(journey.progress.plan, journey.progress.evidence) == {
        "counters/stable/requests": 120,
        "counters/stable/errors": 4,
        "counters/stable/le/100": 110,
        "counters/stable/le/Inf": 120,
    }


def points(*looks: tuple[int, float, float]) -> dict[str, list[tuple[int, float, float]]]:
    """Number of the look, second and requests, of which all were fast; and a figure that is none of it."""
    return {
        "counters/stable/requests": list(looks),
        "counters/stable/le/Inf": list(looks),
        "counters/stable/le/100": list(looks),
        "look/weight": [(99, 0.0, 5.0)],
    }


def test_what_was_kept_is_read_back_look_by_look() -> None:
    readings = readings_kept(points((3, 30, 100), (4, 40, 160), (5, 51, 200)), 10.0)
    assert readings[0] == {"looks": {"requests": 100, "le/+Inf": 100, "le/100": 100}}
    assert history_of(readings, 10.0).requests.tolist() == [60, 40]


def test_a_look_that_is_missing_or_late_or_counts_anew_leaves_a_gap() -> None:
    missing = readings_kept(points((3, 30, 100), (5, 50, 160), (6, 60, 200)), 10.0)
    late = readings_kept(points((3, 30, 100), (4, 90, 160), (5, 100, 200)), 10.0)
    anew = readings_kept(points((3, 30, 100), (4, 40, 5), (5, 50, 45)), 10.0)
    for readings in (missing, late, anew):
        assert history_of(readings, 10.0).requests.tolist() == [0, 0, 40]
    assert readings_kept({}, 10.0) == []
