"""Declaring the winner of an A/B/n release on in-memory ports: who wins, who may not, and what the ledger keeps."""

from __future__ import annotations

import pytest

from mlflow_istio.adapters.figures.kpis import KpiMetrics
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import InvalidInput, MetricsError, StateConflict
from mlflow_istio.releases.driving.arms import Analysed, ArmsOptions, analyse, declare
from mlflow_istio.testing import InMemoryMetrics
from tests.support.in_memory import OfOtherCalls, World, a_world

STABLE, CANDIDATE = "churn-v1", "churn-v2"
OPTIONS = ArmsOptions(equivalence_margin=1.5, phase=0.0)
"""Their looks are few: what is shown of dependence is shown in core/release."""


def in_test(metrics: InMemoryMetrics, **errors: int) -> tuple[World, Analysed]:
    """An A/B test of the two, in which each arm has answered 2,000 requests; ``v1`` and ``v2``: errors in each 200."""
    world = a_world(STABLE, CANDIDATE, strategy="ab", traffic_request=TrafficRequest(weight=50, cookie="arm"))
    found: Analysed | None = None
    for count in (1, *[200] * 10):
        for arm, bad in ((STABLE, errors["v1"]), (CANDIDATE, errors["v2"])):
            metrics.serve(arm, count, errors=min(bad, count - 1))
        found = analyse(world.context, metrics, "churn", OPTIONS)
    assert found is not None
    return world, found


def test_a_challenger_that_wins_is_promoted_and_the_entry_says_why() -> None:
    world, found = in_test(InMemoryMetrics(), v1=20, v2=2)
    outcome = declare(world.context, "churn", found, reason="fewer errors")
    assert outcome.endpoint is not None
    assert outcome.endpoint.traffic.weights == {CANDIDATE: 100}
    entry = world.registry.history("prod", "churn")[-1]
    assert (entry.action, entry.evidence["winner"], entry.evidence["forced"]) == ("promote", CANDIDATE, False)
    assert entry.evidence["requests"] == {STABLE: 2000, CANDIDATE: 2000}


def test_when_the_control_wins_the_release_is_closed_in_its_favour() -> None:
    world, found = in_test(InMemoryMetrics(), v1=2, v2=20)
    assert found.result.winner == STABLE
    declare(world.context, "churn", found)
    endpoint = world.endpoint()
    assert endpoint.traffic.weights[STABLE] == 100
    assert endpoint.release is None
    entry = world.registry.history("prod", "churn")[-1]
    assert (entry.action, entry.evidence["winner"]) == ("abort", STABLE)


def test_without_a_winner_nothing_is_declared() -> None:
    world, found = in_test(InMemoryMetrics(), v1=20, v2=20)
    before = world.endpoint()
    with pytest.raises(StateConflict, match="has no winner to declare"):
        declare(world.context, "churn", found)
    with pytest.raises(StateConflict, match="has no winner to declare: No analysis was made"):
        declare(world.context, "churn", None, winner=CANDIDATE)
    with pytest.raises(InvalidInput, match="needs the name of the winner"):
        declare(world.context, "churn", found, force=True)
    assert world.endpoint() == before


def test_another_than_the_winner_wins_only_by_force() -> None:
    world, found = in_test(InMemoryMetrics(), v1=20, v2=2)
    with pytest.raises(StateConflict, match=f"is '{CANDIDATE}', not '{STABLE}'"):
        declare(world.context, "churn", found, winner=STABLE)
    declare(world.context, "churn", found, winner=STABLE, force=True)
    entry = world.registry.history("prod", "churn")[-1]
    assert entry.evidence["forced"] is True
    assert entry.reason.startswith("declared by force")


def test_what_the_first_look_fixed_stays() -> None:
    metrics = InMemoryMetrics()
    world, _ = in_test(metrics, v1=20, v2=2)
    with pytest.raises(InvalidInput, match="option 'alpha'.*was 0.05 at the first look, not 0.2"):
        analyse(world.context, metrics, "churn", ArmsOptions(equivalence_margin=1.5, phase=0.0, alpha=0.2))


def test_a_source_that_is_down_loses_nothing() -> None:
    metrics = InMemoryMetrics()
    world, found = in_test(metrics, v1=20, v2=2)
    metrics.serve(STABLE, 100)
    metrics.down = True
    with pytest.raises(MetricsError):
        analyse(world.context, metrics, "churn", OPTIONS)
    metrics.down = False
    metrics.serve(CANDIDATE, 100)
    again = analyse(world.context, metrics, "churn", OPTIONS)
    assert again.experiment.requests == {STABLE: 2100, CANDIDATE: 2100}


def test_errors_that_a_source_does_not_tell_are_not_compared() -> None:
    world, _ = in_test(InMemoryMetrics(), v1=20, v2=2)
    with pytest.raises(InvalidInput, match="doesn't tell how calls of endpoint 'churn' end, which speaks http"):
        analyse(world.context, OfOtherCalls(), "churn", OPTIONS)


def test_after_the_release_there_is_nothing_left_to_analyse() -> None:
    metrics = InMemoryMetrics()
    world, found = in_test(metrics, v1=20, v2=2)
    declare(world.context, "churn", found)
    with pytest.raises(StateConflict, match="has no open A/B release to analyse"):
        analyse(world.context, metrics, "churn", OPTIONS)


def test_counts_of_a_kpi_that_fall_are_refused_and_nothing_is_counted_twice() -> None:
    """A correction (a refund) or a callable that began anew: neither is a restart whose whole count is new."""
    world = a_world(STABLE, CANDIDATE, strategy="ab", traffic_request=TrafficRequest(weight=50, cookie="arm"))
    sold = {STABLE: (1000, 100), CANDIDATE: (1000, 150)}
    kpi = Kpi(name="sold", call=sold.get)
    metrics = KpiMetrics(InMemoryMetrics(), [kpi])
    options = ArmsOptions(kpi=kpi, equivalence_margin=1.5)
    analyse(world.context, metrics, "churn", options)
    sold |= {STABLE: (2000, 200), CANDIDATE: (2000, 300)}
    analyse(world.context, metrics, "churn", options)
    sold[CANDIDATE] = (2000, 290)
    with pytest.raises(
        MetricsError, match="KPI 'sold' of 'churn-v2' had events=300 and has 290 now, but counts so far only grow"
    ):
        analyse(world.context, metrics, "churn", options)
    sold |= {STABLE: (3000, 300), CANDIDATE: (3000, 450)}
    again = analyse(world.context, metrics, "churn", options).experiment
    assert {arm: (counts.total, counts.events) for arm, counts in again.events.items()} == {
        STABLE: (2000, 200),
        CANDIDATE: (2000, 300),
    }
