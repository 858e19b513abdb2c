"""An A/B/n release, look after look: what counts, what waits, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import pytest

from mlflow_istio.core.analysis.measures import KpiCounts
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.release.experiment import Experiment, ExperimentPlan
from mlflow_istio.errors import InvalidInput
from mlflow_istio.testing import InMemoryMetrics
from tests.support.endpoint_values import TIME

A, B, C = "m-v1", "m-v2", "m-v3"


def a_plan(**changes: object) -> ExperimentPlan:
    fields: dict[str, object] = {"release": "r1", "control": A, "challengers": (B,), "equivalence_margin": 1.5}
    return ExperimentPlan(**{**fields, **changes})  # type: ignore[arg-type]


class Looks:
    """An experiment that is looked at, and the source it looks at; the state goes through JSON at each look."""

    def __init__(self, plan: ExperimentPlan, **weights: int) -> None:
        self.metrics = InMemoryMetrics()
        self.experiment = Experiment(plan=plan)
        self.weights = {name.replace("_", "-"): weight for name, weight in weights.items()}

    def look(self) -> Experiment:
        readings = self.metrics.read("m", self.experiment.plan.arms)
        looked = self.experiment.look(readings, self.weights)
        self.experiment = from_json(Experiment, json.loads(json.dumps(to_json(looked))))
        assert self.experiment == looked
        return looked

    def serve(self, counts: Mapping[str, tuple[int, int]]) -> None:
        for arm, (requests, errors) in counts.items():
            self.metrics.serve(arm, requests, errors=errors)


def test_the_first_look_counts_nothing() -> None:
    looks = Looks(a_plan(), m_v1=50, m_v2=50)
    looks.serve({A: (1000, 500), B: (1000, 0)})
    found = looks.look()
    assert found.requests == {}
    assert "base line" in found.result().reason
    assert found.result().outcome == "inconclusive"


def test_the_better_arm_wins_and_the_sentence_says_so() -> None:
    looks = Looks(a_plan(), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    for _ in range(10):
        looks.serve({A: (200, 20), B: (200, 2)})
        looks.look()
    result = looks.experiment.result()
    assert (result.outcome, result.winner) == ("winner", B)
    assert f"{B} is better than {A}" in result.reason
    assert looks.experiment.requests == {A: 2000, B: 2000}
    assert result.evidence["sample_ratio"] == {
        "checked": True,
        "mismatch": False,
        "p_value": result.evidence["sample_ratio"]["p_value"],
        "shares": {A: 0.5, B: 0.5},
        "counts": {A: 2000, B: 2000},
    }


def test_the_control_can_win() -> None:
    looks = Looks(a_plan(), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    for _ in range(10):
        looks.serve({A: (200, 2), B: (200, 20)})
        looks.look()
    assert looks.experiment.result().winner == A


def test_equal_arms_are_no_winner_and_in_time_no_difference() -> None:
    looks = Looks(a_plan(), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    looks.serve({A: (300, 30), B: (300, 30)})
    assert looks.look().result().outcome == "inconclusive"
    for _ in range(10):
        looks.serve({A: (1000, 200), B: (1000, 200)})
        looks.look()
    assert looks.experiment.result().outcome == "no difference"


def test_without_a_delta_nobody_says_that_there_is_no_difference() -> None:
    looks = Looks(a_plan(equivalence_margin=None), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    for _ in range(10):
        looks.serve({A: (1000, 200), B: (1000, 200)})
        looks.look()
    assert looks.experiment.result().outcome == "inconclusive"
    assert looks.experiment.result().evidence["delta"] is None


def test_arms_that_got_other_shares_than_their_weights_have_no_winner() -> None:
    looks = Looks(a_plan(), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    for _ in range(10):
        looks.serve({A: (300, 30), B: (100, 1)})
        looks.look()
    result = looks.experiment.result()
    assert result.outcome == "inconclusive"
    assert "sample-ratio mismatch" in result.reason


def test_a_change_of_weights_begins_another_period() -> None:
    looks = Looks(a_plan(), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    looks.serve({A: (500, 5), B: (500, 5)})
    looks.look()
    looks.weights = {A: 80, B: 20}
    looks.serve({A: (650, 6), B: (350, 3)})  # partly before the change, and nobody knows how much
    looks.look()
    for _ in range(5):
        looks.serve({A: (800, 8), B: (200, 2)})
        looks.look()
    assert looks.experiment.ratio is not None
    assert not looks.experiment.ratio.mismatched()
    assert looks.experiment.ratio.counts == {A: 4000, B: 1000}
    assert looks.experiment.requests[A] == 500 + 650 + 4000


def test_returning_users_are_no_assignments() -> None:
    looks = Looks(a_plan(returning=True), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    for _ in range(5):
        looks.serve({A: (100, 1), B: (100, 1)})
        looks.metrics.count(B, {"requests": 900})  # an eager user of one arm, brought back by the cookie
        looks.look()
    assert looks.experiment.requests == {A: 500, B: 5000}
    assert looks.experiment.ratio is not None
    assert not looks.experiment.ratio.mismatched()


def test_shares_that_could_not_be_checked_are_told() -> None:
    looks = Looks(a_plan(returning=True), m_v1=50, m_v2=50)
    for _ in range(3):
        for arm in (A, B):
            looks.metrics.count(arm, {"requests": 100, "errors": 1})
        looks.look()
    result = looks.experiment.result()
    assert result.evidence["sample_ratio"] == {"checked": False}
    assert "shares could not be checked" in result.reason


def test_arms_that_callers_choose_have_no_winner() -> None:
    looks = Looks(a_plan(randomised=False), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.look()
    for _ in range(10):
        looks.serve({A: (200, 40), B: (200, 0)})
        looks.look()
    result = looks.experiment.result()
    assert result.outcome == "inconclusive"
    assert "weren't assigned at random" in result.reason


def test_while_an_arm_is_silent_the_others_wait() -> None:
    looks = Looks(a_plan(challengers=(B, C)), m_v1=40, m_v2=30, m_v3=30)
    looks.serve({A: (1, 0), B: (1, 0), C: (1, 0)})
    looks.look()
    looks.metrics.silent.add(C)
    looks.serve({A: (40, 4), B: (30, 3), C: (30, 3)})
    assert looks.look().result().reason == f"No data from {C}."
    looks.metrics.silent.clear()
    assert looks.look().requests == {A: 40, B: 30, C: 30}


def test_a_numeric_kpi_is_compared_by_its_means() -> None:
    looks = Looks(a_plan(kpi="basket", better="higher", equivalence_margin=0.5), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})

    def baskets(arm: str, low: float, high: float, count: int) -> None:
        counts = KpiCounts(n=2 * count, total=count * (low + high), squares=count * (low**2 + high**2))
        looks.metrics.count(arm, counts.series("basket"))

    for count in (1, *[100] * 10):
        baskets(A, 1.25, 2.25, count)
        baskets(B, 3.25, 4.25, count)
        looks.look()
    result = looks.experiment.result()
    assert (result.outcome, result.winner) == ("winner", B)
    assert looks.experiment.intervals()[A].contains(1.75)
    assert looks.experiment.intervals()[B].contains(3.75)
    figures = looks.experiment.figures()
    assert figures[f"arms/basket/{A}"] == pytest.approx(1.75)
    assert figures[f"arms/basket_lower/{B}"] < 3.75 < figures[f"arms/basket_upper/{B}"]


def test_a_kpi_that_one_arm_lacks_is_missing_data() -> None:
    looks = Looks(a_plan(kpi="bought", better="higher"), m_v1=50, m_v2=50)
    looks.serve({A: (1, 0), B: (1, 0)})
    looks.metrics.count(A, KpiCounts(n=5, events=1).series("bought"))
    assert looks.look().result().reason == f"No data from {B}."


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Experiment"):
        from_json(Experiment, {"plan": {}})


@pytest.mark.parametrize("lag", [1, 5])
def test_late_events_of_equal_arms_name_no_winner_though_one_starts_at_the_base_line(lag: int) -> None:
    """The stable has a backlog of events when the test begins, its challenger has none yet."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        plan = a_plan(kpi="bought", better="higher", label_delay=10.0 * lag)
        experiment, counted = Experiment(plan=plan), {A: [3000.0, 900.0], B: [0.0, 0.0]}
        backlog = {A: [int(rng.binomial(600, 0.3)) for _ in range(lag)], B: [0] * lag}
        for look in range(60):
            readings = {
                arm: {"pod": {"requests": n, "errors": 0.0, "kpi/bought/n": n, "kpi/bought/events": events}}
                for arm, (n, events) in counted.items()
            }
            experiment = experiment.look(readings, {A: 50, B: 50}, TIME + timedelta(seconds=10 * look))
            assert experiment.result().winner is None
            for arm in counted:
                visits = int(rng.binomial(600, 0.5))
                counted[arm][0] += visits
                counted[arm][1] += backlog[arm].pop(0)
                backlog[arm].append(int(rng.binomial(visits, 0.3)))
        assert experiment.rates[B].confidence_sequence(0.05).contains(1.0)
