"""KPIs beside another source's counts, on in-memory ports."""

from __future__ import annotations

import pytest

from mlflow_istio.adapters.figures.kpis import KpiMetrics
from mlflow_istio.core.analysis.measures import REQUESTS, kpi_counts
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import InvalidInput, MetricsError
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.testing import InMemoryMetrics


def test_a_callables_counts_stand_beside_the_requests() -> None:
    base = InMemoryMetrics()
    base.serve("m-v1", 4)
    sold = {"m-v1": (7, 2), "m-v2": (3, 1)}
    metrics = KpiMetrics(base, [Kpi(name="sold", call=sold.get)])
    assert isinstance(metrics, Metrics)
    found = metrics.read("m", ["m-v1", "m-v2", "m-v3"])
    assert set(found) == {"m-v1", "m-v2"}
    assert found["m-v1"]["in-memory"][REQUESTS] == 4
    counts = kpi_counts(found["m-v1"]["kpi sold"], "sold")
    assert counts is not None
    assert (counts.n, counts.events) == (7, 2)


def test_a_callable_is_not_asked_for_a_control_which_runs_the_stables_version() -> None:
    """Whoever counts by what answered can't tell the two apart, and has no key of that name."""
    base = InMemoryMetrics()
    for name in ("m-v1", "m-v2", "m-v1-control"):
        base.serve(name, 4)
    sold = {"m-v1": (7, 2), "m-v2": (3, 1)}
    found = KpiMetrics(base, [Kpi(name="sold", call=sold.__getitem__)]).read("m", ["m-v1", "m-v2", "m-v1-control"])
    assert {name for name, reading in found.items() if "kpi sold" in reading} == {"m-v1", "m-v2"}
    assert found["m-v1-control"]["in-memory"][REQUESTS] == 4


def test_a_callable_that_raises_is_one_line_with_its_cause() -> None:
    def broken(deployment: str) -> tuple[float, ...]:
        raise ZeroDivisionError("no\nvisits")

    with pytest.raises(
        MetricsError, match="KPI 'sold' failed for deployment 'm-v1': ZeroDivisionError: no visits"
    ) as caught:
        KpiMetrics(None, [Kpi(name="sold", call=broken)]).read("m", ["m-v1"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_answer_of_a_callable_that_is_none_is_a_failure_of_the_source() -> None:
    """A driver waits for figures that are not there; what can't be an option would end it."""
    metrics = KpiMetrics(InMemoryMetrics(), [Kpi(name="sold", call=lambda _deployment: (5, 9))])
    with pytest.raises(MetricsError, match="for deployment 'm-v1' KPI 'sold' gave 9 events of 5 observations"):
        metrics.read("m", ("m-v1",))


def test_promql_without_a_prometheus_says_what_to_set() -> None:
    query = 'visits{v="$deployment"}'
    with pytest.raises(InvalidInput, match="set prometheus_url"):
        KpiMetrics(None, [Kpi(name="sold", queries={"n": query, "events": query})])


def test_the_other_sources_failure_passes_through() -> None:
    base = InMemoryMetrics()
    base.down = True
    with pytest.raises(MetricsError, match="in-memory"):
        KpiMetrics(base, [Kpi(name="sold", call=lambda _d: (1, 1))]).read("m", ["m-v1"])
